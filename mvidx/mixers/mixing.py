"""The mixing block of MixFormer (arXiv 2204.02557): window attention beside a depthwise convolution.

Each branch gates the other: pooled convolution features scale the channels of attention's values (channel
interaction), and attended features scale the positions of the convolution (spatial interaction). Published in
PaddlePaddle/PaddleClas (`ppcls/arch/backbone/model_zoo/mixformer.py` at 7b6c148 and, unchanged in what it
computes, 69cfec4).

A grid that is no multiple of the window is padded with zeros below and to the right, before the projections,
so that padding takes part in attention, in the batch statistics and in the pooled channel interaction, as the
published code has it. Time is never padded: its frames are split into the fewest windows, as equal as possible.
"""

from collections.abc import Iterator, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mvidx.layers.attention import attention
from mvidx.layers.nd import (
    batch_norm_nd,
    cat_channels,
    check_kernel,
    conv_nd,
    depthwise_on_grid,
    grid_mean,
    ndim_tuple,
    on_grid,
)
from mvidx.layers.norm import SampleBatchNorm
from mvidx.layers.position import WindowBias


def frame_windows(num_frames: int, longest: int) -> Iterator[tuple[int, int, int]]:
    """Split frames into the fewest windows of at most `longest`, as equal as possible.

    Yields:
        (first frame, number of windows, frames a window), at most two of them: 9 frames in windows of at
        most 4 give (0, 3, 3), 8 frames in windows of at most 3 give (0, 2, 3) and (6, 1, 2).
    """
    count = -(-num_frames // longest)
    short, longer = num_frames // count, num_frames % count  # no divmod: traces have none
    if longer:
        yield 0, longer, short + 1
    yield longer * (short + 1), count - longer, short


def to_windows(grid: Tensor, window: Sequence[int]) -> Tensor:
    """Cut a grid into windows that tile it: (B, *S, C) -> (B * number of windows, prod(window), C)."""
    ndim = len(window)
    split = [grid.shape[0]]
    for size, n in zip(grid.shape[1:-1], window, strict=True):
        split += [size // n, n]
    order = [0, *range(1, 2 * ndim, 2), *range(2, 2 * ndim + 1, 2), 2 * ndim + 1]
    return grid.reshape(*split, -1).permute(order).flatten(0, ndim).flatten(1, -2)


def from_windows(windows: Tensor, window: Sequence[int], size: Sequence[int]) -> Tensor:
    """Undo `to_windows`: (B * number of windows, prod(window), C) -> (B, *size, C)."""
    ndim = len(window)
    counts = [s // n for s, n in zip(size, window, strict=True)]
    split = windows.reshape(-1, *counts, *window, windows.shape[-1])
    order = [0]
    for axis in range(ndim):
        order += [1 + axis, 1 + ndim + axis]
    return split.permute(*order, 2 * ndim + 1).reshape(-1, *size, windows.shape[-1])


class Mixing(nn.Module):
    """Mixing block over a grid.

    Args:
        channels: channels in and out, a multiple of 2, at least 16.
        num_heads: heads of the attention branch, which is half as wide.
        window: ([t,] h, w) of the attention. Its length says 2-D or 3-D.
        kernel: of the depthwise convolution, ([t,] h, w), odd numbers.
        drop_rate: dropout after the last projection.

    Raises:
        ValueError: odd or too few channels, heads that do not divide half of them, or a window or kernel
            that does not fit.
    """

    def __init__(
        self,
        channels: int,
        *,
        num_heads: int,
        window: Sequence[int] = (7, 7),
        kernel: Sequence[int] = (3, 3),
        drop_rate: float = 0.0,
    ):
        super().__init__()
        kernel = check_kernel(kernel, "kernel")
        ndim = len(kernel)
        self.window = ndim_tuple(window, ndim, "window")
        if min(self.window) < 1:
            raise ValueError(f"window={self.window}, expected 1 or more along every axis")
        if channels % 2 or channels < 16:
            raise ValueError(f"channels={channels}, the mixing block expects an even number of at least 16")
        self.half = half = channels // 2
        if num_heads < 1 or half % num_heads:
            raise ValueError(
                f"num_heads={num_heads} does not divide the {half} channels of the mixing block's attention branch"
            )
        self.num_heads = num_heads
        self.attn_in = nn.Linear(channels, half)
        self.attn_in_norm = nn.LayerNorm(half)
        self.conv_in = nn.Linear(channels, channels)
        self.conv_in_norm = nn.LayerNorm(channels)

        self.conv = conv_nd(channels, channels, kernel, groups=channels)
        self.conv_norm = batch_norm_nd(channels, ndim)
        self.channel_gate = nn.Sequential(
            nn.Linear(channels, channels // 8),
            SampleBatchNorm(channels // 8),
            nn.GELU(),
            nn.Linear(channels // 8, half),
        )
        self.conv_out = nn.Linear(channels, half)
        self.conv_out_norm = batch_norm_nd(half, ndim)

        self.qkv = nn.Linear(half, 3 * half)
        self.bias = WindowBias(self.window, num_heads)
        self.spatial_gate_in = nn.Linear(half, channels // 16)
        self.spatial_gate_norm = batch_norm_nd(channels // 16, ndim)
        self.spatial_gate_out = nn.Linear(channels // 16, 1)
        self.attn_norm = nn.LayerNorm(half)

        self.proj = nn.Linear(channels, channels)
        self.drop = nn.Dropout(drop_rate)

    def _attend(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        """Attention within the windows of a padded grid, (B, [T,] H, W, C) each -> the same."""
        if q.ndim == 4:
            return self._attend_windows(q, k, v, self.window)
        parts = []
        for first, count, frames in frame_windows(q.shape[1], self.window[0]):
            here = slice(first, first + count * frames)
            parts.append(self._attend_windows(q[:, here], k[:, here], v[:, here], (frames, *self.window[1:])))
        return parts[0] if len(parts) == 1 else torch.cat(parts, dim=1)

    def _attend_windows(self, q: Tensor, k: Tensor, v: Tensor, window: tuple[int, ...]) -> Tensor:
        size = q.shape[1:-1]
        q, k, v = (to_windows(x, window).unflatten(-1, (self.num_heads, -1)) for x in (q, k, v))
        bias = self.bias(window).to(q.dtype)
        return from_windows(attention(q, k, v, mask=bias).flatten(2), window, size)

    def branches(self, grid: Tensor) -> tuple[Tensor, Tensor]:
        """What attention and convolution give, each gated by the other: (B, [T,] H, W, C / 2) both."""
        height, width = grid.shape[-3:-1]
        below, right = -height % self.window[-2], -width % self.window[-1]
        if below or right:
            grid = F.pad(grid, (0, 0, 0, right, 0, below))
        attended = self.attn_in_norm(self.attn_in(grid))  # (B, [T,] H, W, C / 2)
        local = self.conv_in_norm(self.conv_in(grid))  # (B, [T,] H, W, C)

        local = F.gelu(on_grid(self.conv_norm, depthwise_on_grid(self.conv, local)))
        channel_gate = self.channel_gate(grid_mean(local)).sigmoid()  # (B, C / 2)
        local = self.conv_out(local)

        q, k, v = self.qkv(attended).chunk(3, dim=-1)
        v = v * channel_gate.view(-1, *[1] * (v.ndim - 2), self.half)
        attended = self._attend(q, k, v)

        spatial_gate = F.gelu(on_grid(self.spatial_gate_norm, self.spatial_gate_in(attended)))
        local = on_grid(self.conv_out_norm, local * self.spatial_gate_out(spatial_gate).sigmoid())
        attended = self.attn_norm(attended)
        if below or right:
            attended, local = (x[..., :height, :width, :] for x in (attended, local))
        return attended, local

    def forward(self, grid: Tensor) -> Tensor:  # (B, [T,] H, W, C) -> the same
        return self.drop(self.proj(cat_channels(self.branches(grid))))

    def extra_repr(self) -> str:
        return f"num_heads={self.num_heads}, window={self.window}"
