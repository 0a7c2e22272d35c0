"""MixFormer (arXiv 2204.02557), for images and videos.

Published in PaddlePaddle/PaddleClas (`ppcls/arch/backbone/model_zoo/mixformer.py` at 7b6c148).

Deviations: none in the numbers of the image models. Grids of odd size, which the published code refuses between
its stages, are padded by a row or column of zeros there. The video models are this project's own: the first
convolution of the stem has a temporal kernel of 3 and stride 2, the mixing blocks have 3x3x3 convolutions and
windows of up to 8 frames by 7 by 7, with a bias table over time too.
"""

from collections.abc import Sequence

import torch.nn.functional as F
from torch import Tensor, nn

from mvidx.layers.drop import drop_path_rates
from mvidx.layers.nd import batch_norm_nd, conv_nd, on_grid
from mvidx.mixers.mixing import Mixing
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


def pad_space(grid: Tensor, multiple: int) -> Tensor:
    """Pad height and width of a grid with zeros, below and to the right, to a multiple."""
    below, right = -grid.shape[-3] % multiple, -grid.shape[-2] % multiple
    return F.pad(grid, (0, 0, 0, right, 0, below)) if below or right else grid


class MixFormerStem(nn.Module):
    """Three 3x3 convolutions at half the resolution, then a patch embedding by 2 and a norm.

    Args:
        in_chans: input channels.
        channels: channels that go out.
        video: convolve three frames and halve their number in the first convolution.
    """

    def __init__(self, in_chans: int, channels: int, *, video: bool):
        super().__init__()
        half = channels // 2
        kernel, ones = in_time((3, 3), video, 1), in_time((1, 1), video, 1)
        two = in_time((2, 2), video, 1)
        first = ConvEmbed(in_chans, half, kernel=in_time((3, 3), video, 3), stride=in_time((2, 2), video, 2), norm=True)
        others = [ConvEmbed(half, half, kernel=kernel, stride=ones, norm=True) for _ in range(2)]
        self.convs = nn.ModuleList([first, *others])
        self.proj = ConvEmbed(half, channels, kernel=two, stride=two, padding=in_time((0, 0), video, 0))
        self.norm = nn.LayerNorm(channels)

    def forward(self, grid: Tensor) -> Tensor:  # (B, [T,] H, W, in) -> (B, [T / 2,] H / 4, W / 4, C), rounded up
        grid = pad_space(grid, 4)
        for conv in self.convs:
            grid = F.gelu(conv(grid))
        return self.norm(self.proj(grid))


class NormedDownsample(nn.Module):
    """BatchNorm, then a convolution that merges 2x2 positions; an odd side is padded with zeros first."""

    def __init__(self, in_channels: int, out_channels: int, *, video: bool):
        super().__init__()
        two = in_time((2, 2), video, 1)
        self.norm = batch_norm_nd(in_channels, len(two))
        self.conv = conv_nd(in_channels, out_channels, two, stride=two, padding=0)

    def forward(self, grid: Tensor) -> Tensor:  # (B, [T,] H, W, in) -> (B, [T,] H / 2, W / 2, out), rounded up
        return on_grid(self.conv, pad_space(on_grid(self.norm, grid), 2))


class MixFormer(MetaFormer):
    """MixFormer for images (`frames=None`) or clips.

    Args:
        img_size: side of the default input in pixels, or (height, width). No table depends on it.
        frames: frames of the default clip; None for an image model.
        in_chans: input channels.
        num_classes: width of the logits.
        depths: blocks of each stage.
        embed_dim: channels of the first stage, doubled at each further one.
        num_heads: heads of the attention branch, by stage.
        window: of the attention, ([t,] h, w).
        kernel: of the depthwise convolutions, ([t,] h, w).
        mlp_ratio: hidden width of the MLPs over their input width.
        last_features: width of the last projection, which the head reads.
        drop_rate: dropout inside mixers and MLPs.
        drop_path_rate: stochastic depth of the last block, growing linearly from 0.
        head_drop_rate: dropout before the classifier.

    Raises:
        ValueError: not four stages, heads that do not divide half a width, or an input that is too small.
    """

    def __init__(
        self,
        *,
        img_size: int | tuple[int, int] = 224,
        frames: int | None = None,
        in_chans: int = 3,
        num_classes: int = 1000,
        depths: Sequence[int] = (1, 2, 6, 6),
        embed_dim: int = 32,
        num_heads: Sequence[int] = (2, 4, 8, 16),
        window: Sequence[int] | None = None,
        kernel: Sequence[int] | None = None,
        mlp_ratio: float = 4.0,
        last_features: int = 1280,
        drop_rate: float = 0.0,
        drop_path_rate: float = 0.0,
        head_drop_rate: float = 0.0,
    ):
        check_stages(depths=depths, num_heads=num_heads)
        input_size = input_geometry(img_size, frames)
        video = frames is not None
        widths = [embed_dim << stage for stage in range(4)]
        window = in_time((7, 7), video, 8) if window is None else tuple(window)
        kernel = in_time((3, 3), video, 3) if kernel is None else tuple(kernel)
        for name, value in (("window", window), ("kernel", kernel)):
            if len(value) != len(input_size):
                raise ValueError(f"{name}={value} has {len(value)} entries, expected {len(input_size)} (one an axis)")

        rates = iter(drop_path_rates(drop_path_rate, sum(depths)))
        stages = []
        for index, (depth, width, heads) in enumerate(zip(depths, widths, num_heads, strict=True)):
            blocks = [
                MetaFormerBlock(
                    width,
                    Mixing(width, num_heads=heads, window=window, kernel=kernel, drop_rate=drop_rate),
                    norm=nn.LayerNorm,
                    mlp_ratio=mlp_ratio,
                    drop_rate=drop_rate,
                    drop_path_rate=next(rates),
                )
                for _ in range(depth)
            ]
            downsample = NormedDownsample(widths[index - 1], width, video=video) if index else None
            stages.append(Stage(blocks, downsample=downsample))
        super().__init__(
            stem=MixFormerStem(in_chans, embed_dim, video=video),
            stages=stages,
            norm=nn.LayerNorm(widths[-1]),
            feature_info=feature_table(widths, video),
            input_size=input_size,
            in_chans=in_chans,
            num_classes=num_classes,
            num_features=last_features,
            head_drop_rate=head_drop_rate,
        )
        self.last_proj = nn.Linear(widths[-1], last_features)
        for module in self.modules():
            if isinstance(module, nn.Linear):
                init_linear(module)
            elif isinstance(module, (nn.Conv2d, nn.Conv3d)):
                nn.init.kaiming_normal_(module.weight)
                nn.init.zeros_(module.bias)

    def forward_features(self, x: Tensor) -> Tensor:
        """What the head takes the mean of, after norm, last projection and GELU: (B, [T',] H', W', last_features)."""
        return F.gelu(self.last_proj(super().forward_features(x)))


def _register_mixformer() -> None:
    sizes = {
        "b0": {"embed_dim": 24, "depths": (1, 2, 6, 6), "num_heads": (3, 6, 12, 24), "drop_path_rate": 0.0},
        "b1": {"embed_dim": 32, "depths": (1, 2, 6, 6), "num_heads": (2, 4, 8, 16), "drop_path_rate": 0.0},
        "b2": {"embed_dim": 32, "depths": (2, 2, 8, 8), "num_heads": (2, 4, 8, 16), "drop_path_rate": 0.05},
        "b3": {"embed_dim": 48, "depths": (2, 2, 8, 6), "num_heads": (3, 6, 12, 24), "drop_path_rate": 0.1},
        "b4": {"embed_dim": 64, "depths": (2, 2, 8, 8), "num_heads": (4, 8, 16, 32), "drop_path_rate": 0.2},
        "b5": {"embed_dim": 96, "depths": (1, 2, 8, 6), "num_heads": (6, 12, 24, 48), "drop_path_rate": 0.3},
        "b6": {"embed_dim": 96, "depths": (2, 4, 16, 12), "num_heads": (6, 12, 24, 48), "drop_path_rate": 0.5},
    }
    for size, numbers in sizes.items():
        name = f"mixformer_{size}"
        register_model(name, MixFormer, num_classes=1000, img_size=224, **numbers)
        register_model(f"{name}_video", MixFormer, video=True, num_classes=400, img_size=224, frames=16, **numbers)


_register_mixformer()
