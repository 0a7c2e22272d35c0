"""PoolFormer (arXiv 2111.11418), for images and videos, and MetaFormers with any mixer in each stage.

Published in sail-sg/poolformer (`models/poolformer.py` and, for the ablations, `models/metaformer.py` at a075575).

Deviations: none in the numbers of the image models. timm (`timm/models/metaformer.py` at 1.0.31) takes the mean
before the last norm, and makes it a LayerNorm; a timm checkpoint switches a model to that (`final_norm="mean"`).
The video models are this project's own: a stem with a temporal kernel of 3 and stride 2, 3x3x3 neighbourhoods in the
mixers, no temporal stride or kernel between the stages.
"""

from collections.abc import Callable, Collection, Sequence
from functools import partial

from torch import Tensor, nn

from mvidx.layers.drop import drop_path_rates
from mvidx.layers.nd import grid_mean
from mvidx.layers.norm import GroupNorm1, LayerNorm
from mvidx.layers.position import AbsolutePosition
from mvidx.mixers.baseline import Attention, DepthwiseConv, Identity, RandomMixing, SpatialMlp
from mvidx.mixers.inception import Inception
from mvidx.mixers.mixing import Mixing
from mvidx.mixers.pooling import Pooling
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
from mvidx.models.registry import nearest, register_model

ATTENTION_HEAD = 32  # channels of a head of attention and of the inception mixer
MIXING_HEAD = 8  # channels of a head of the mixing block, whose attention has half the channels
INCEPTION_SHARES = (1 / 3, 1 / 2, 4 / 5, 11 / 12)  # of the heads that attention gets: iFormer-S's, by stage
WINDOW_FRAMES = 8


def _heads(channels: int, width: int, mixer: str, fewest: int = 1) -> int:
    """Number of heads of this width. Raises ValueError when they do not fill the channels."""
    if channels % width or channels < fewest * width:
        raise ValueError(
            f"the mixer {mixer!r} has heads of {width} channels: a stage of {channels} channels does not fit, "
            f"expected a multiple of {width} and at least {fewest * width}"
        )
    return channels // width


def _attention(channels: int, size: tuple[int, ...], stage: int) -> Attention:
    return Attention(channels, num_heads=_heads(channels, ATTENTION_HEAD, "attention"))


def _inception(channels: int, size: tuple[int, ...], stage: int) -> Inception:
    heads = _heads(channels, ATTENTION_HEAD, "inception", fewest=2)
    attention_heads = min(max(1, round(heads * INCEPTION_SHARES[stage])), heads - 1)
    pool = 2 if stage < 2 else 1
    return Inception(channels, num_heads=heads, attention_heads=attention_heads, kernel=(3,) * len(size), pool=pool)


def _mixing(channels: int, size: tuple[int, ...], stage: int) -> Mixing:
    heads = _heads(channels, 2 * MIXING_HEAD, "mixing")  # attention has half the channels
    return Mixing(
        channels, num_heads=heads, window=in_time((7, 7), len(size) == 3, WINDOW_FRAMES), kernel=(3,) * len(size)
    )


# Mixers by name, each made for (channels, size of the grid, stage).
MIXERS: dict[str, Callable[[int, tuple[int, ...], int], nn.Module]] = {
    "identity": lambda channels, size, stage: Identity(),
    "random": lambda channels, size, stage: RandomMixing(size),
    "depthwise": lambda channels, size, stage: DepthwiseConv(channels, kernel=(3,) * len(size)),
    "mlp": lambda channels, size, stage: SpatialMlp(size),
    "attention": _attention,
    "pooling": lambda channels, size, stage: Pooling((3,) * len(size)),
    "inception": _inception,
    "mixing": _mixing,
}

NORMS = {"group": GroupNorm1, "layer": partial(nn.LayerNorm, eps=1e-5)}


class PoolFormer(MetaFormer):
    """PoolFormer, or any MetaFormer of its shape, for images (`frames=None`) or clips.

    Args:
        img_size: side of the default input in pixels, or (height, width).
        frames: frames of the default clip; None for an image model.
        in_chans: input channels.
        num_classes: width of the logits.
        depths: blocks of each stage.
        widths: channels of each stage.
        mixers: token mixer of each stage: "identity", "random" (a fixed random matrix), "depthwise" (convolution),
            "mlp" (a learned matrix over positions), "attention", "pooling", "inception" or "mixing".
        norm: "group" (over all positions and channels of a sample) or "layer" (over the channels of a position);
            None for what the paper has: "layer" where a stage has attention, else "group".
        position_stages: stages (from 0) that start with a position table; None for the paper's choice, the
            first one with attention.
        mlp_ratio: hidden width of the MLPs over their input width.
        layer_scale: initial value of the scale of the residual branches.
        final_norm: "grid" for a norm of the last grid, whose mean the head reads; "mean" for a LayerNorm after
            the mean, which is what timm has. Loading a timm checkpoint switches it.
        drop_rate: dropout inside the MLPs.
        drop_path_rate: stochastic depth of the last block, growing linearly from 0.
        head_drop_rate: dropout before the classifier.

    Raises:
        ValueError: unknown mixer or norm, not four stages, an input that is too small, or a width that a mixer
            cannot take.
    """

    def __init__(
        self,
        *,
        img_size: int | tuple[int, int] = 224,
        frames: int | None = None,
        in_chans: int = 3,
        num_classes: int = 1000,
        depths: Sequence[int] = (2, 2, 6, 2),
        widths: Sequence[int] = (64, 128, 320, 512),
        mixers: Sequence[str] = ("pooling",) * 4,
        norm: str | None = None,
        position_stages: Collection[int] | None = None,
        mlp_ratio: float = 4.0,
        layer_scale: float = 1e-5,
        final_norm: str = "grid",
        drop_rate: float = 0.0,
        drop_path_rate: float = 0.0,
        head_drop_rate: float = 0.0,
    ):
        check_stages(depths=depths, widths=widths, mixers=mixers)
        for name in mixers:
            if name not in MIXERS:
                raise ValueError(f"unknown mixer {name!r}{nearest(name, MIXERS)}; known are {', '.join(MIXERS)}")
        if norm is None:
            norm = "layer" if "attention" in mixers else "group"
        if norm not in NORMS:
            raise ValueError(f"norm={norm!r}, expected 'group' or 'layer'")
        if position_stages is None:
            position_stages = [mixers.index("attention")] if "attention" in mixers else []
        if any(stage not in range(4) for stage in position_stages):
            raise ValueError(f"position_stages={tuple(position_stages)}, expected numbers from 0 to 3")
        input_size = input_geometry(img_size, frames)
        video = frames is not None

        stem = ConvEmbed(
            in_chans,
            widths[0],
            kernel=in_time((7, 7), video, 3),
            stride=in_time((4, 4), video, 2),
            padding=in_time((2, 2), video, 1),
        )
        size = stem.output_size(input_size)
        rates = iter(drop_path_rates(drop_path_rate, sum(depths)))
        stages = []
        for index, (depth, width, mixer) in enumerate(zip(depths, widths, mixers, strict=True)):
            downsample = None
            if index:
                downsample = ConvEmbed(
                    widths[index - 1], width, kernel=in_time((3, 3), video, 1), stride=in_time((2, 2), video, 1)
                )
                size = downsample.output_size(size)
            position = AbsolutePosition(size, width, separate_time=video) if index in position_stages else None
            blocks = [
                MetaFormerBlock(
                    width,
                    MIXERS[mixer](width, size, index),
                    norm=NORMS[norm],
                    mlp_ratio=mlp_ratio,
                    layer_scale=layer_scale,
                    drop_rate=drop_rate,
                    drop_path_rate=next(rates),
                )
                for _ in range(depth)
            ]
            stages.append(Stage(blocks, downsample=downsample, position=position))
        super().__init__(
            stem=stem,
            stages=stages,
            norm=NORMS[norm](widths[-1]),
            feature_info=feature_table(widths, video),
            input_size=input_size,
            in_chans=in_chans,
            num_classes=num_classes,
            head_drop_rate=head_drop_rate,
        )
        self._make_grid_norm = NORMS[norm]
        self.mean_norm = None
        self.set_final_norm(final_norm)
        for module in self.modules():
            if isinstance(module, nn.Linear):  # the published code leaves convolutions at PyTorch's start
                init_linear(module)

    def set_final_norm(self, final_norm: str) -> None:
        """Replace the final norm: "grid" before the mean (as published), "mean" after it (as in timm).

        The new norm has new parameters: call this before an optimizer takes them.
        """
        if final_norm not in ("grid", "mean"):
            raise ValueError(f"final_norm={final_norm!r}, expected 'grid' or 'mean'")
        after_mean = final_norm == "mean"
        if after_mean == (self.mean_norm is not None):
            return
        old = self.mean_norm if self.norm is None else self.norm
        place = {"device": old.weight.device, "dtype": old.weight.dtype}
        made = LayerNorm(self.num_features) if after_mean else self._make_grid_norm(self.num_features)
        made = made.to(**place).train(self.training)
        self.norm, self.mean_norm = (None, made) if after_mean else (made, None)

    def prepare_for(self, names: Collection[str]) -> None:
        if "mean_norm.weight" in names:
            self.set_final_norm("mean")
        elif "norm.weight" in names:
            self.set_final_norm("grid")

    def forward_features(self, x: Tensor) -> Tensor:
        """The last grid, channels last: (B, [T',] H', W', C); not normed yet with `final_norm="mean"`."""
        grid = self.forward_pyramid(x)[-1]
        return grid if self.norm is None else self.norm(grid)

    def forward_embedding(self, x: Tensor) -> Tensor:
        embedding = grid_mean(self.forward_features(x))
        return embedding if self.mean_norm is None else self.mean_norm(embedding)


def _register_poolformer() -> None:
    small, medium = (64, 128, 320, 512), (96, 192, 384, 768)
    sizes = {
        "s12": {"depths": (2, 2, 6, 2), "widths": small, "layer_scale": 1e-5, "drop_path_rate": 0.1},
        "s24": {"depths": (4, 4, 12, 4), "widths": small, "layer_scale": 1e-5, "drop_path_rate": 0.1},
        "s36": {"depths": (6, 6, 18, 6), "widths": small, "layer_scale": 1e-6, "drop_path_rate": 0.2},
        "m36": {"depths": (6, 6, 18, 6), "widths": medium, "layer_scale": 1e-6, "drop_path_rate": 0.3},
        "m48": {"depths": (8, 8, 24, 8), "widths": medium, "layer_scale": 1e-6, "drop_path_rate": 0.4},
    }
    names = {f"poolformer_{size}": numbers for size, numbers in sizes.items()}
    names["metaformer_s12"] = sizes["s12"]
    for name, numbers in names.items():
        register_model(name, PoolFormer, num_classes=1000, img_size=224, **numbers)
        register_model(f"{name}_video", PoolFormer, video=True, num_classes=400, img_size=224, frames=16, **numbers)


_register_poolformer()
