"""MetaFormer (arXiv 2111.11418): stem, four stages of blocks with any token mixer, norm and head.

What PoolFormer, Inception Transformer and MixFormer have in common. A family builds its stem, its mixers and
what stands between the stages, and hands them to `MetaFormer`; this file runs them.
"""

from collections.abc import Callable, Iterator, Sequence

import torch
from torch import Tensor, nn

from mvidx.layers.drop import drop_factors, drop_path
from mvidx.layers.eager import eager_on_cpu, is_plain
from mvidx.layers.lean import residual_mlp
from mvidx.layers.mlp import Mlp
from mvidx.layers.nd import batch_norm_nd, conv_nd, image_grid, ndim_tuple, pooled_size, to_channels_first, to_grid
from mvidx.layers.norm import GroupNorm1
from mvidx.layers.position import AbsolutePosition
from mvidx.mixers.pooling import Pooling, pooling_residual
from mvidx.models.base import Backbone


class ConvEmbed(nn.Module):
    """A strided convolution of a grid, and BatchNorm after it on request.

    Args:
        in_channels, out_channels: widths before and after.
        kernel, stride, padding: one entry an axis; the length of `kernel` says 2-D or 3-D, and padding is half
            the kernel by default.
        norm: BatchNorm after the convolution.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        *,
        kernel: tuple[int, ...],
        stride: tuple[int, ...],
        padding: tuple[int, ...] | None = None,
        norm: bool = False,
    ):
        super().__init__()
        self.conv = conv_nd(in_channels, out_channels, kernel, stride=stride, padding=padding)
        self.norm = batch_norm_nd(out_channels, len(kernel)) if norm else None

    def forward(self, grid: Tensor) -> Tensor:  # (B, [T,] H, W, in) -> (B, [T',] H', W', out)
        x = self.conv(to_channels_first(grid))
        return to_grid(x if self.norm is None else self.norm(x))

    def output_size(self, size: Sequence[int]) -> tuple[int, ...]:
        """Size of the grid that goes out, ([T',] H', W'), for one that comes in."""
        return pooled_size(size, self.conv.kernel_size, self.conv.stride, self.conv.padding)


class MetaFormerBlock(nn.Module):
    """Norm, token mixer, norm, MLP, each half on a residual.

    Args:
        channels: channels of the grid.
        mixer: maps a grid to one of the same shape.
        norm: makes a norm for a number of channels.
        mlp_ratio: hidden width of the MLP over `channels`.
        layer_scale: initial value of the learned scale of both branches, by channel; None for none.
        drop_rate: dropout inside the MLP.
        drop_path_rate: stochastic depth of both branches.
    """

    def __init__(
        self,
        channels: int,
        mixer: nn.Module,
        *,
        norm: Callable[[int], nn.Module],
        mlp_ratio: float = 4.0,
        layer_scale: float | None = None,
        drop_rate: float = 0.0,
        drop_path_rate: float = 0.0,
    ):
        super().__init__()
        self.norm1 = norm(channels)
        self.mixer = mixer
        self.norm2 = norm(channels)
        self.mlp = Mlp(channels, int(channels * mlp_ratio), drop_rate=drop_rate)
        self.drop_path = drop_path(drop_path_rate)
        scaled = layer_scale is not None
        self.scale1 = nn.Parameter(torch.full((channels,), layer_scale)) if scaled else None
        self.scale2 = nn.Parameter(torch.full((channels,), layer_scale)) if scaled else None

    def _add(self, grid: Tensor, branch: Tensor, scale: Tensor | None) -> Tensor:
        drops = self.training and not isinstance(self.drop_path, nn.Identity)
        if scale is None:
            return grid + self.drop_path(branch)
        if drops:
            return grid + self.drop_path(branch * scale)
        return torch.addcmul(grid, branch, scale)  # one pass over the grid

    def forward(self, grid: Tensor) -> Tensor:  # (B, [T,] H, W, C) -> the same
        return self._mlp_half(self._mixer_half(grid))

    def _mixer_half(self, grid: Tensor) -> Tensor:
        norm, mixer = self.norm1, self.mixer
        if is_plain(mixer, Pooling) and is_plain(norm, GroupNorm1) and eager_on_cpu(grid):
            keep = drop_factors(self.drop_path, len(grid), grid.device)
            return pooling_residual(grid, mixer, norm, scale=self.scale1, keep=keep)
        return self._add(grid, mixer(norm(grid)), self.scale1)

    def _mlp_half(self, grid: Tensor) -> Tensor:
        """Overwrites the grid where no gradients are wanted: it is the mixer half's, and new."""
        norm = self.norm2
        kind = {GroupNorm1: "group", nn.LayerNorm: "layer"}.get(type(norm))
        if kind and self.mlp.may_be_lean(grid, norm):
            return residual_mlp(
                grid,
                norm=(kind, norm.weight, norm.bias, norm.eps),
                fc1=self.mlp.fc1,
                fc2=self.mlp.fc2,
                scale=self.scale2,
                keep=drop_factors(self.drop_path, len(grid), grid.device),
                owned=True,
            )
        return self._add(grid, self.mlp(norm(grid)), self.scale2)


class Stage(nn.Module):
    """Blocks of one width, and what stands before them.

    Args:
        blocks: of the stage, in order.
        downsample: makes the grid coarser and wider first; None in the first stage.
        position: table added before the first block; None for none.
    """

    def __init__(
        self,
        blocks: Sequence[nn.Module],
        *,
        downsample: nn.Module | None = None,
        position: AbsolutePosition | None = None,
    ):
        super().__init__()
        self.downsample = downsample
        self.position = position
        self.blocks = nn.ModuleList(blocks)


class MetaFormer(Backbone):
    """Stem, stages, final norm and head.

    Args:
        stem: maps a grid (B, [T,] H, W, in_chans) to the first stage's.
        stages: the stages, first the finest.
        norm: of the last grid.
        feature_info: see `Backbone`.
        input_size: ([T,] H, W) of the default input; its length says image or video.
        in_chans: input channels.
        num_classes: width of the logits.
        num_features: width of the embedding; of the last stage by default.
        head_drop_rate: dropout before the classifier.
    """

    def __init__(
        self,
        *,
        stem: nn.Module,
        stages: Sequence[Stage],
        norm: nn.Module,
        feature_info: list[dict],
        input_size: tuple[int, ...],
        in_chans: int,
        num_classes: int,
        num_features: int | None = None,
        head_drop_rate: float = 0.0,
    ):
        super().__init__(
            ndim=len(input_size),
            in_chans=in_chans,
            input_size=input_size,
            num_classes=num_classes,
            num_features=num_features or feature_info[-1]["channels"],
            head_drop_rate=head_drop_rate,
        )
        self.feature_info = feature_info
        self.stem = stem
        self.stages = nn.ModuleList(stages)
        self.norm = norm

    def forward_pyramid(self, x: Tensor) -> list[Tensor]:
        self.check_input(x)
        grid = self.stem(image_grid(x))
        pyramid = []
        for stage in self.stages:
            if stage.downsample is not None:
                grid = stage.downsample(grid)
            if stage.position is not None:
                grid = stage.position(grid)
            for block in stage.blocks:
                grid = self.run_block(block, grid)
            pyramid.append(grid)
        return pyramid

    def forward_features(self, x: Tensor) -> Tensor:
        return self.norm(self.forward_pyramid(x)[-1])

    def no_weight_decay(self) -> set[str]:
        tables = (".position.", ".bias.table")
        return {name for name, _ in self.named_parameters() if any(table in name for table in tables)}

    def layer_groups(self) -> Iterator[tuple[str, int]]:
        yield "stem", 0
        depth = 0
        for s, stage in enumerate(self.stages):
            depth += 1
            for name in ("downsample", "position"):  # at the depth of the block they stand before
                if getattr(stage, name) is not None:
                    yield f"stages.{s}.{name}", depth
            for b in range(len(stage.blocks)):
                depth += b > 0
                yield f"stages.{s}.blocks.{b}", depth
        for name, _ in self.named_children():
            if name not in ("stem", "stages", "head_drop"):
                yield name, depth + 1


def input_geometry(
    img_size: int | tuple[int, int], frames: int | None, strides: tuple[int, int] = (32, 32)
) -> tuple[int, ...]:
    """The default input size, ([T,] H, W), of a model whose last grid is `strides` coarser in space.

    Raises ValueError when a side is smaller than its stride, or `frames` below 1.
    """
    side = ndim_tuple(img_size, 2, "img_size")
    if any(s < st for s, st in zip(side, strides, strict=True)):
        raise ValueError(f"img_size={side} is too small for the strides of the model, expected at least {strides}")
    if frames is not None and frames < 1:
        raise ValueError(f"frames={frames}, expected 1 or more")
    return side if frames is None else (frames, *side)


def check_stages(**per_stage: Sequence) -> None:
    """Raise ValueError unless all arguments have four entries, one a stage."""
    for name, values in per_stage.items():
        if len(values) != 4:
            raise ValueError(f"{name}={tuple(values)} has {len(values)} entries, expected 4 (one a stage)")


def in_time(size: tuple[int, int], video: bool, frames: int) -> tuple[int, ...]:
    """A kernel, stride or padding over (H, W), with `frames` before it for a video model."""
    return (frames, *size) if video else size


def feature_table(widths: Sequence[int], video: bool) -> list[dict]:
    """`feature_info` of four stages at strides 4, 8, 16 and 32 in space, and 2 in time throughout."""
    return [
        {"channels": width, "strides": in_time((4 << stage, 4 << stage), video, 2)}
        for stage, width in enumerate(widths)
    ]
