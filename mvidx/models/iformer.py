"""Inception Transformer, iFormer (arXiv 2205.12956), for images and videos.

Published in sail-sg/iFormer (`models/inception_transformer.py` at 725d8e7). (timm's `iformer_*` is another
architecture, of 2025.)

Deviations: none in the numbers of the image models. Any input size works, non-square too, where the published
attention needs square grids. The video models are this project's own: the first convolution of the stem has a
temporal kernel of 3 and stride 2, the mixers see 3x3x3 neighbourhoods and attention over space and time (pooled
by 2 along each axis in the first two stages), every position table has a temporal part.
"""

from collections.abc import Sequence

from torch import nn

from mvidx.layers.drop import drop_path_rates
from mvidx.layers.norm import LayerNorm
from mvidx.layers.position import AbsolutePosition
from mvidx.mixers.inception import Inception
from mvidx.models.base import init_linear
from mvidx.models.metaformer import (
    ConvEmbed,
    MetaFormer,
    MetaFormerBlock,
    Stage,
    check_stages,
    feature_table,
    in_time,
    input_geometry,
)
from mvidx.models.registry import register_model


class IFormer(MetaFormer):
    """Inception Transformer for images (`frames=None`) or clips.

    Args:
        img_size: side of the default input in pixels, or (height, width): sizes the position tables.
        frames: frames of the default clip; None for an image model.
        in_chans: input channels.
        num_classes: width of the logits.
        depths: blocks of each stage.
        widths: channels of each stage.
        num_heads: number of heads that all channels of a stage would make, by stage.
        attention_heads: heads that attention gets, block by block.
        attention_pool: by how much attention's grid is pooled, by stage.
        mlp_ratio: hidden width of the MLPs over their input width.
        layer_scale: initial value of the scale of the residual branches of the last two stages.
        drop_rate: dropout inside mixers and MLPs.
        drop_path_rate: stochastic depth of the last block, growing linearly from 0.
        head_drop_rate: dropout before the classifier.

    Raises:
        ValueError: not four stages, not one number of attention heads a block, heads that do not divide a width,
            or an input that is too small.
    """

    def __init__(
        self,
        *,
        img_size: int | tuple[int, int] = 224,
        frames: int | None = None,
        in_chans: int = 3,
        num_classes: int = 1000,
        depths: Sequence[int] = (3, 3, 9, 3),
        widths: Sequence[int] = (96, 192, 320, 384),
        num_heads: Sequence[int] = (3, 6, 10, 12),
        attention_heads: Sequence[int],
        attention_pool: Sequence[int] = (2, 2, 1, 1),
        mlp_ratio: float = 4.0,
        layer_scale: float = 1e-6,
        drop_rate: float = 0.0,
        drop_path_rate: float = 0.0,
        head_drop_rate: float = 0.0,
    ):
        check_stages(depths=depths, widths=widths, num_heads=num_heads, attention_pool=attention_pool)
        if len(attention_heads) != sum(depths):
            raise ValueError(
                f"attention_heads={tuple(attention_heads)} has {len(attention_heads)} entries, "
                f"expected {sum(depths)} (one a block)"
            )
        if widths[0] % 2:
            raise ValueError(f"widths={tuple(widths)}: the first must be even, the stem halves it")
        input_size = input_geometry(img_size, frames)
        video = frames is not None
        kernel = (3,) * len(input_size)

        half = ConvEmbed(
            in_chans, widths[0] // 2, kernel=in_time((3, 3), video, 3), stride=in_time((2, 2), video, 2), norm=True
        )
        full = ConvEmbed(
            widths[0] // 2, widths[0], kernel=in_time((3, 3), video, 1), stride=in_time((2, 2), video, 1), norm=True
        )
        size = full.output_size(half.output_size(input_size))
        blocks = iter(zip(attention_heads, drop_path_rates(drop_path_rate, sum(depths)), strict=True))
        stages = []
        for index, (depth, width) in enumerate(zip(depths, widths, strict=True)):
            downsample = None
            if index:
                downsample = ConvEmbed(
                    widths[index - 1],
                    width,
                    kernel=in_time((3, 3), video, 1),
                    stride=in_time((2, 2), video, 1),
                    norm=True,
                )
                size = downsample.output_size(size)
            stage_blocks = []
            for heads, rate in (next(blocks) for _ in range(depth)):
                mixer = Inception(
                    width,
                    num_heads=num_heads[index],
                    attention_heads=heads,
                    kernel=kernel,
                    pool=attention_pool[index],
                    drop_rate=drop_rate,
                )
                stage_blocks.append(
                    MetaFormerBlock(
                        width,
                        mixer,
                        norm=LayerNorm,
                        mlp_ratio=mlp_ratio,
                        layer_scale=layer_scale if index >= 2 else None,
                        drop_rate=drop_rate,
                        drop_path_rate=rate,
                    )
                )
            position = AbsolutePosition(size, width, separate_time=video)
            stages.append(Stage(stage_blocks, downsample=downsample, position=position))
        super().__init__(
            stem=nn.Sequential(half, nn.GELU(), full),
            stages=stages,
            norm=LayerNorm(widths[-1]),
            feature_info=feature_table(widths, video),
            input_size=input_size,
            in_chans=in_chans,
            num_classes=num_classes,
            head_drop_rate=head_drop_rate,
        )
        for module in self.modules():
            init_linear(module)


def _register_iformer() -> None:
    sizes = {
        "s": {
            "depths": (3, 3, 9, 3),
            "widths": (96, 192, 320, 384),
            "num_heads": (3, 6, 10, 12),
            "attention_heads": (1,) * 3 + (3,) * 3 + (7,) * 4 + (9,) * 5 + (11,) * 3,
            "drop_path_rate": 0.2,
        },
        "b": {
            "depths": (4, 6, 14, 6),
            "widths": (96, 192, 384, 512),
            "num_heads": (3, 6, 12, 16),
            "attention_heads": (1,) * 4 + (3,) * 6 + (8,) * 7 + (10,) * 7 + (15,) * 6,
            "drop_path_rate": 0.4,
        },
        "l": {
            "depths": (4, 6, 18, 8),
            "widths": (96, 192, 448, 640),
            "num_heads": (3, 6, 14, 20),
            "attention_heads": (1,) * 4 + (3,) * 6 + (10,) * 9 + (12,) * 9 + (19,) * 8,
            "drop_path_rate": 0.5,
        },
    }
    for size, numbers in sizes.items():
        name = f"iformer_{size}"
        register_model(name, IFormer, num_classes=1000, img_size=224, **numbers)
        register_model(f"{name}_video", IFormer, video=True, num_classes=400, img_size=224, frames=16, **numbers)


_register_iformer()
