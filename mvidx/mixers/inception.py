"""The inception mixer of the Inception Transformer (arXiv 2205.12956): convolution, max pooling and attention.

The first channels go to the high-frequency mixer, half of them through a pointwise and a depthwise
convolution, half through a max pool and a pointwise convolution; the rest go to attention. All are joined,
fused by a depthwise convolution on a residual, and projected. Published in sail-sg/iFormer
(`models/inception_transformer.py` at 725d8e7).

Deviations: none in the numbers. The published attention takes square grids whose sides its pool divides; here
any grid works (an incomplete cell of the pool is the mean of what it has).
"""

from collections.abc import Sequence

import torch.nn.functional as F
from torch import Tensor, nn

from mvidx.layers.attention import attention
from mvidx.layers.nd import (
    avg_pool,
    cat_channels,
    check_kernel,
    conv_nd,
    depthwise_on_grid,
    max_pool,
    ndim_tuple,
    repeat_cells,
)


class Inception(nn.Module):
    """Inception mixer over a grid.

    Args:
        channels: channels in and out.
        num_heads: number of heads that all channels would make: sets their width.
        attention_heads: heads that attention gets; the other channels go to the high-frequency mixer.
        kernel: of the convolutions and the max pool, ([t,] h, w), odd numbers. Its length says 2-D or 3-D.
        pool: by how much attention's grid is pooled along each axis, an int or one entry an axis.
        drop_rate: dropout after the last projection.

    Raises:
        ValueError: `num_heads` does not divide `channels`, attention would get no or all channels, the
            high-frequency mixer an odd number of them, or `kernel` or `pool` do not fit.
    """

    def __init__(
        self,
        channels: int,
        *,
        num_heads: int,
        attention_heads: int,
        kernel: Sequence[int] = (3, 3),
        pool: int | Sequence[int] = 1,
        drop_rate: float = 0.0,
    ):
        super().__init__()
        kernel = check_kernel(kernel, "kernel")
        self.kernel = kernel
        self.pool = ndim_tuple(pool, len(kernel), "pool")
        if min(self.pool) < 1:
            raise ValueError(f"pool={self.pool}, expected 1 or more along every axis")
        if num_heads < 1 or channels % num_heads:
            raise ValueError(f"num_heads={num_heads} does not divide the {channels} channels of the inception mixer")
        if not 0 < attention_heads < num_heads:
            raise ValueError(f"attention_heads={attention_heads}, expected 1 to num_heads - 1 = {num_heads - 1}")
        self.attention_heads = attention_heads
        self.low_channels = attention_heads * (channels // num_heads)
        high = channels - self.low_channels
        if high % 2:
            raise ValueError(
                f"the high-frequency mixer gets {high} of {channels} channels "
                f"(attention_heads={attention_heads} of {num_heads}), expected an even number"
            )
        self.half = half = high // 2
        joined = 2 * high + self.low_channels
        self.conv_in = nn.Linear(half, high, bias=False)
        self.conv = conv_nd(high, high, kernel, groups=high, bias=False)
        self.pool_out = nn.Linear(half, high)
        self.qkv = nn.Linear(self.low_channels, 3 * self.low_channels)
        self.fuse = conv_nd(joined, joined, kernel, groups=joined, bias=False)
        self.proj = nn.Linear(joined, channels)
        self.drop = nn.Dropout(drop_rate)

    def _attend(self, grid: Tensor) -> Tensor:
        """Attention over the pooled grid, repeated to the size that came in: (B, [T,] H, W, low) -> the same."""
        size = grid.shape[1:-1]
        pooled = grid if max(self.pool) == 1 else avg_pool(grid, self.pool, self.pool, (0,) * len(self.pool))
        qkv = self.qkv(pooled).flatten(1, -2).unflatten(-1, (3, self.attention_heads, -1))  # (B, N, 3, heads, C)
        attended = attention(*qkv.unbind(2)).flatten(2).view(pooled.shape)
        return attended if max(self.pool) == 1 else repeat_cells(attended, self.pool, size)

    def branches(self, grid: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """What convolution, max pool and attention make of their channels: (B, [T,] H, W, high | high | low)."""
        ones, padding = (1,) * len(self.kernel), tuple(k // 2 for k in self.kernel)
        convolved, pooled, low = grid.split((self.half, self.half, self.low_channels), dim=-1)
        convolved = F.gelu(depthwise_on_grid(self.conv, self.conv_in(convolved)))
        pooled = F.gelu(self.pool_out(max_pool(pooled.contiguous(), self.kernel, ones, padding)))
        return convolved, pooled, self._attend(low.contiguous())

    def forward(self, grid: Tensor) -> Tensor:  # (B, [T,] H, W, C) -> the same
        joined = cat_channels(self.branches(grid))
        return self.drop(self.proj(joined + depthwise_on_grid(self.fuse, joined)))

    def extra_repr(self) -> str:
        return f"attention_heads={self.attention_heads}, pool={self.pool}"
