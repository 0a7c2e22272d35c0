"""Convolutions and pools for images and videos, on channels-last grids.

Every activation in mvidx is a grid with the channels last, (B, H, W, C) or (B, T, H, W, C), so that
Linear and LayerNorm need no permutation. A convolution wants the channels second: it gets a view of the
same memory, which PyTorch recognises as its `channels_last` (2-D) or `channels_last_3d` layout and
computes without a copy. This file owns those two views. The length of a kernel tuple says whether a
layer is 2-D or 3-D.
"""

import math
from collections.abc import Sequence
from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mvidx.layers.depthwise import depthwise_conv3d
from mvidx.layers.eager import eager_on_cpu


def to_channels_first(grid: Tensor) -> Tensor:
    """View a channels-last grid as a convolution wants it: (B, [T,] H, W, C) -> (B, C, [T,] H, W)."""
    return grid.movedim(-1, 1)


def to_one_row(grid: Tensor) -> Tensor:
    """View the positions of a grid as one row, channels second: (B, *S, C) -> (B, C, 1, N), channels last.

    PyTorch does not recognise that layout in (B, C, N, 1), and would copy it.
    """
    return to_channels_first(grid.flatten(1, -2).unsqueeze(1))


def to_grid(x: Tensor) -> Tensor:
    """View a convolution's output as a channels-last grid: (B, C, [T,] H, W) -> (B, [T,] H, W, C).

    Contiguous (zero-copy) when `x` has a channels-last layout, as convolutions of grids give; copied
    when it has not, so that what follows may rely on it.
    """
    return x.movedim(1, -1).contiguous()


def on_grid(layer: nn.Module, grid: Tensor) -> Tensor:
    """Apply a channels-first layer (convolution, pool, BatchNorm) to a channels-last grid."""
    return to_grid(layer(to_channels_first(grid)))


def ndim_tuple(value: int | Sequence[int], ndim: int, name: str) -> tuple[int, ...]:
    """Repeat an int for every axis, or check that a sequence has one entry an axis.

    Raises ValueError that names `name`, the value and the expected length.
    """
    if isinstance(value, int):
        return (value,) * ndim
    value = tuple(int(v) for v in value)
    if len(value) != ndim:
        raise ValueError(f"{name}={value} has {len(value)} entries, expected {ndim} (one an axis)")
    return value


def check_kernel(kernel: Sequence[int], name: str) -> tuple[int, ...]:
    """A kernel as a tuple. Raises ValueError unless it has 2 or 3 entries, all odd."""
    kernel = tuple(kernel)
    if len(kernel) not in (2, 3):
        raise ValueError(f"{name}={kernel} has {len(kernel)} entries, expected 2 (image) or 3 (video)")
    if min(kernel) < 1 or any(k % 2 == 0 for k in kernel):
        raise ValueError(f"{name}={kernel}, expected odd numbers along every axis")
    return kernel


def _conv2d(
    x: Tensor, weight: Tensor, bias: Tensor | None, stride: tuple[int, int], padding: tuple[int, int]
) -> Tensor:
    """A 2-D convolution, (B, C, H, W) -> (B, C', H', W').

    A convolution reorders its weights for every call, and their gradient. With many more filters than positions that
    takes longer than the convolution itself: there, on a CPU, it is one matrix product of patches and weights as they
    lie (docs/architecture.md).
    """
    kernel = weight.shape[2:]
    size = pooled_size(x.shape[2:], kernel, stride, padding)
    if not eager_on_cpu(x) or 2 * len(x) * math.prod(size) > len(weight) or min(size) < 1:
        return F.conv2d(x, weight, bias, stride, padding)
    patches = F.unfold(x, kernel, padding=padding, stride=stride)  # (B, C * kh * kw, positions)
    out = F.linear(patches.transpose(1, 2), weight.flatten(1), bias)
    return out.transpose(1, 2).unflatten(2, size)


class Conv2d(nn.Conv2d):
    """A Conv2d of one group, undilated, in the faster of the two ways of `_conv2d`."""

    def forward(self, x: Tensor) -> Tensor:  # (B, C, H, W) -> (B, C', H', W')
        return _conv2d(x, self.weight, self.bias, self.stride, self.padding)


class FrameConv3d(nn.Conv3d):
    """A Conv3d whose kernel is one frame long: a 2-D convolution of every frame.

    PyTorch's 3-D convolution of few channels takes ten times as long on a CPU.
    """

    def forward(self, x: Tensor) -> Tensor:  # (B, C, T, H, W) -> (B, C', T, H', W')
        frames = x.transpose(1, 2).flatten(0, 1)
        out = _conv2d(frames, self.weight[:, :, 0], self.bias, self.stride[1:], self.padding[1:])
        return out.unflatten(0, (-1, x.shape[2])).transpose(1, 2)


def conv_nd(
    in_channels: int,
    out_channels: int,
    kernel: tuple[int, ...],
    *,
    stride: int | tuple[int, ...] = 1,
    padding: int | tuple[int, ...] | None = None,
    groups: int = 1,
    bias: bool = True,
) -> nn.Conv2d | nn.Conv3d:
    """A Conv2d or Conv3d, by the length of `kernel`. `padding=None` means half the kernel."""
    ndim = len(kernel)
    stride, padding = (
        ndim_tuple(value, ndim, name)
        for name, value in (
            ("stride", stride),
            ("padding", tuple(k // 2 for k in kernel) if padding is None else padding),
        )
    )
    by_frame = ndim == 3 and (kernel[0], stride[0], padding[0], groups) == (1, 1, 0, 1)
    plain = {2: nn.Conv2d if groups > 1 else Conv2d, 3: nn.Conv3d}[ndim]
    layer = FrameConv3d if by_frame else plain
    return layer(in_channels, out_channels, kernel, stride, padding, groups=groups, bias=bias)


def batch_norm_nd(channels: int, ndim: int, **kwargs) -> nn.BatchNorm2d | nn.BatchNorm3d:
    """A BatchNorm2d or BatchNorm3d, for use through `on_grid`."""
    return {2: nn.BatchNorm2d, 3: nn.BatchNorm3d}[ndim](channels, **kwargs)


def depthwise_conv(
    grid: Tensor, weight: Tensor, *, stride: tuple[int, ...], padding: tuple[int, ...], bias: Tensor | None = None
) -> Tensor:
    """A depthwise convolution of a grid whose kernel may be shared by groups of channels.

    Args:
        grid: (B, [T,] H, W, G * C).
        weight: (C, 1, [kt,] kh, kw). Channel g * C + c uses kernel c: repeating a kernel that heads share
            costs nothing, while folding the heads into the batch would copy the grid.

    Returns:
        (B, [T',] H', W', G * C).
    """
    channels = grid.shape[-1]
    repeats = channels // weight.shape[0]
    if repeats > 1:
        weight = weight.expand(repeats, *weight.shape).flatten(0, 1)
    if weight.ndim == 5:
        return to_grid(depthwise_conv3d(to_channels_first(grid), weight, stride, padding, bias))
    return to_grid(F.conv2d(to_channels_first(grid), weight, bias, stride, padding, groups=channels))


def depthwise_on_grid(conv: nn.Conv2d | nn.Conv3d, grid: Tensor) -> Tensor:
    """Apply a depthwise convolution layer to a grid, (B, [T,] H, W, C), by the fast way of `depthwise_conv`."""
    return depthwise_conv(grid, conv.weight, stride=conv.stride, padding=conv.padding, bias=conv.bias)


def image_grid(x: Tensor) -> Tensor:
    """An input (B, C, [T,] H, W) as a contiguous grid (B, [T,] H, W, C).

    Copies its few channels, so that the first convolution already gives a channels-last layout: without
    that its much wider output would be copied.
    """
    return x.movedim(1, -1).contiguous()


def _separable_pool(pool, grid: Tensor, kernel: tuple[int, ...], stride: tuple[int, ...], padding: tuple[int, ...]):
    """A 2-D pool of a grid, or a 3-D one as two 2-D ones, over space and then over time.

    Both a maximum and a mean over the part of a box that lies inside the grid split that way. The 2-D kernels
    keep the channels-last layout without a copy, work in bfloat16, and are faster than the 3-D ones.
    """
    if len(kernel) == 2:
        return to_grid(pool(to_channels_first(grid), kernel, stride, padding))
    batch, frames = grid.shape[:2]
    if max(kernel[1:]) > 1 or max(stride[1:]) > 1:
        grid = _separable_pool(pool, grid.flatten(0, 1), kernel[1:], stride[1:], padding[1:])
        grid = grid.unflatten(0, (batch, frames))
    if kernel[0] > 1 or stride[0] > 1:
        rows = grid.reshape(batch, frames, 1, -1)  # (B, T, 1, H * W * C)
        rows = _separable_pool(pool, rows, (kernel[0], 1), (stride[0], 1), (padding[0], 0))
        grid = rows.view(batch, -1, *grid.shape[2:])
    return grid


def max_pool(grid: Tensor, kernel: tuple[int, ...], stride: tuple[int, ...], padding: tuple[int, ...]) -> Tensor:
    """Max pooling of a grid, (B, [T,] H, W, C); padding never wins."""
    return _separable_pool(F.max_pool2d, grid, kernel, stride, padding)


def avg_pool(grid: Tensor, kernel: tuple[int, ...], stride: tuple[int, ...], padding: tuple[int, ...]) -> Tensor:
    """Mean pooling of a grid, (B, [T,] H, W, C), that covers all of it.

    Only positions inside the grid count: neither padding nor what an incomplete last cell lacks
    (a grid of 7 pooled by 2 gives 4, the last one the mean of a single row).
    """
    return _separable_pool(
        partial(F.avg_pool2d, ceil_mode=True, count_include_pad=False), grid, kernel, stride, padding
    )


def repeat_cells(grid: Tensor, factors: Sequence[int], size: Sequence[int]) -> Tensor:
    """Nearest-neighbour upsampling by whole factors, cut to `size`: undoes the shape of `avg_pool`.

    Args:
        grid: (B, *S, C) with S = ceil(size / factors).
        factors: one an axis.
        size: ([T,] H, W) that goes out.

    Returns:
        (B, *size, C); a view of a larger grid where a factor does not divide its axis.
    """
    cells = grid
    for axis, factor in enumerate(factors):
        cells = cells.unsqueeze(2 * axis + 2)  # (B, S0, 1, S1, 1, ..., C)
        cells = cells.expand(*cells.shape[: 2 * axis + 2], factor, *cells.shape[2 * axis + 3 :])
    repeated = cells.reshape(grid.shape[0], *(s * f for s, f in zip(grid.shape[1:-1], factors, strict=True)), -1)
    for axis, n in enumerate(size, start=1):
        repeated = repeated.narrow(axis, 0, n)
    return repeated


def resize_grid(grid: Tensor, size: Sequence[int]) -> Tensor:
    """Resize the axes of a table, (1, *old, C) -> (1, *size, C), linearly along each as published code does.

    Equal sizes return the table itself.
    """
    size = tuple(size)
    if tuple(grid.shape[1:-1]) == size:
        return grid
    mode = {1: "linear", 2: "bilinear", 3: "trilinear"}[len(size)]
    resized = F.interpolate(to_channels_first(grid).float(), size=size, mode=mode, align_corners=False)
    return to_grid(resized).to(grid.dtype)


def pooled_size(size: Sequence[int], kernel: Sequence[int], stride: Sequence[int], padding: Sequence[int]) -> tuple:
    """The size of a grid after a convolution or pool with these geometries."""
    return tuple((s + 2 * p - k) // st + 1 for s, k, st, p in zip(size, kernel, stride, padding, strict=True))


def check_size(size: Sequence[int], where: str, wanted: str) -> None:
    """Raise ValueError when an axis has vanished, naming the size, the place and what was expected."""
    if min(size) < 1:
        raise ValueError(f"{where} would be {tuple(size)}: {wanted}")


def grid_mean(grid: Tensor) -> Tensor:
    """Mean over all positions: (B, [T,] H, W, C) -> (B, C)."""
    return grid.flatten(1, -2).mean(1)


def cat_channels(parts: Sequence[Tensor]) -> Tensor:
    """Concatenate grids along their channels."""
    return torch.cat(tuple(parts), dim=-1)
