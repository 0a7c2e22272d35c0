"""Plain token mixers to compare others with: PoolFormer's ablations (arXiv 2111.11418, table 5 and section 4.4).

Published in sail-sg/poolformer (`models/metaformer.py` at a075575): identity, plain attention and the spatial MLP
(one matrix over positions). The depthwise convolution and random mixing follow the paper's text.

Spatial MLP and random mixing are matrices over the positions of one grid size. On another size the grid is
resampled linearly to the built size, mixed there, and resampled back, which is the same as interpolating the
matrix along both of its sides with its row sums kept. On video a matrix over all positions would be too large
(25088 squared in the first stage of a 16x224 model): one matrix over space and one over time are applied in turn.
"""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from mvidx.layers.attention import attention
from mvidx.layers.nd import check_kernel, check_size, conv_nd, depthwise_on_grid, resize_grid


class Identity(nn.Module):
    """No mixing: what the rest of the block does alone."""

    def forward(self, grid: Tensor) -> Tensor:  # (B, [T,] H, W, C) -> the same
        return grid


class DepthwiseConv(nn.Module):
    """A depthwise convolution.

    Args:
        channels: channels in and out.
        kernel: ([t,] h, w), odd numbers. Its length says 2-D or 3-D.

    Raises:
        ValueError: the kernel has another number of entries than 2 or 3, or an even one.
    """

    def __init__(self, channels: int, *, kernel: Sequence[int] = (3, 3)):
        super().__init__()
        self.conv = conv_nd(channels, channels, check_kernel(kernel, "kernel"), groups=channels)

    def forward(self, grid: Tensor) -> Tensor:  # (B, [T,] H, W, C) -> the same
        return depthwise_on_grid(self.conv, grid)


def mix_positions(grid: Tensor, space: Tensor, time: Tensor | None, size: Sequence[int]) -> Tensor:
    """Apply one matrix over the positions of a frame, and another over the frames.

    Args:
        grid: (B, [T,] H, W, C), of any size.
        space: (h * w, h * w), rows are outputs.
        time: (t, t), or None for images.
        size: ([t,] h, w) that the matrices belong to. A grid of another size is resampled to it and back.

    Returns:
        (B, [T,] H, W, C).
    """
    given = grid.shape[1:-1]
    grid = resize_grid(grid, size)
    mixed = space @ grid.flatten(-3, -2)  # (B, [t,] h * w, C)
    if time is not None:
        mixed = (time @ mixed.flatten(2)).view(mixed.shape)  # (B, t, h * w * C)
    return resize_grid(mixed.reshape(grid.shape), given)


class SpatialMlp(nn.Module):
    """A learned matrix over positions, shared by all channels (on video, one over space and one over time).

    Args:
        size: ([t,] h, w) of the grid at the model's default input; another size is resampled, see
            `mix_positions`.

    Raises:
        ValueError: the size has another number of entries than 2 or 3, or one below 1.
    """

    def __init__(self, size: Sequence[int]):
        super().__init__()
        self.size = check_grid_size(size)
        positions = self.size[-2] * self.size[-1]
        self.space = nn.Parameter(torch.empty(positions, positions))
        nn.init.trunc_normal_(self.space, std=0.02)
        self.time = nn.Parameter(torch.eye(self.size[0])) if len(self.size) == 3 else None

    def forward(self, grid: Tensor) -> Tensor:  # (B, [T,] H, W, C) -> the same
        return mix_positions(grid, self.space, self.time, self.size)


class RandomMixing(nn.Module):
    """A fixed random matrix over positions whose rows are positive and sum to one; saved with the checkpoint.

    Args:
        size: ([t,] h, w) of the grid at the model's default input; another size is resampled, see
            `mix_positions`.

    Raises:
        ValueError: the size has another number of entries than 2 or 3, or one below 1.
    """

    def __init__(self, size: Sequence[int]):
        super().__init__()
        self.size = check_grid_size(size)
        positions = self.size[-2] * self.size[-1]
        self.register_buffer("space", torch.rand(positions, positions).softmax(-1))
        frames = self.size[0] if len(self.size) == 3 else None
        self.register_buffer("time", None if frames is None else torch.rand(frames, frames).softmax(-1))

    def forward(self, grid: Tensor) -> Tensor:  # (B, [T,] H, W, C) -> the same
        return mix_positions(grid, self.space, self.time, self.size)


def check_grid_size(size: Sequence[int]) -> tuple[int, ...]:
    """A grid's size as a tuple. Raises ValueError unless it is ([t,] h, w), each at least 1."""
    size = tuple(size)
    if len(size) not in (2, 3):
        raise ValueError(f"size={size} has {len(size)} entries, expected 2 (h, w) or 3 (t, h, w)")
    check_size(size, "the mixer's grid", "every axis needs at least one position")
    return size


class Attention(nn.Module):
    """Multi-head attention between all positions of a grid.

    Args:
        channels: channels in and out.
        num_heads: attention heads.
        qkv_bias: bias of the query, key and value projections.
        drop_rate: dropout after the output projection.

    Raises:
        ValueError: the heads do not divide the channels.
    """

    def __init__(self, channels: int, *, num_heads: int, qkv_bias: bool = False, drop_rate: float = 0.0):
        super().__init__()
        if num_heads < 1 or channels % num_heads:
            raise ValueError(f"num_heads={num_heads} does not divide the {channels} channels of the attention")
        self.num_heads = num_heads
        self.qkv = nn.Linear(channels, 3 * channels, bias=qkv_bias)
        self.proj = nn.Linear(channels, channels)
        self.drop = nn.Dropout(drop_rate)

    def forward(self, grid: Tensor) -> Tensor:  # (B, [T,] H, W, C) -> the same
        qkv = self.qkv(grid).flatten(1, -2).unflatten(-1, (3, self.num_heads, -1))  # (B, N, 3, heads, C)
        attended = attention(*qkv.unbind(2)).flatten(2)
        return self.drop(self.proj(attended)).view(grid.shape)
