"""Pooling attention: multi-head attention whose query, key and value grids are pooled first.

MViT (arXiv 2104.11227) and MViTv2 (arXiv 2112.01526), published in PySlowFast
(`slowfast/models/attention.py` at 287ec00). The numbers are theirs, the computation is not:

- query, key and value are projected by slices of one `qkv` weight, so that each is a contiguous grid;
- key and value are projected only where their strided pooling reads;
- a pooling kernel shared by the heads is repeated over them instead of folding heads into the batch;
- relative positions are added inside a fused attention kernel (`mvidx.layers.attention`).
"""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mvidx.layers.attention import grid_attention
from mvidx.layers.drop import add_branch
from mvidx.layers.kept import kept
from mvidx.layers.nd import conv_nd, depthwise_conv, pooled_size
from mvidx.layers.norm import LayerNorm
from mvidx.layers.position import RelativePosition


class GridPool(nn.Module):
    """Depthwise convolution shared by all heads, then LayerNorm within each head.

    Args:
        head_dim: channels of a head.
        kernel, stride: one entry an axis; padding is half the kernel.
    """

    def __init__(self, head_dim: int, kernel: tuple[int, ...], stride: tuple[int, ...]):
        super().__init__()
        self.conv = conv_nd(head_dim, head_dim, kernel, stride=stride, groups=head_dim, bias=False)
        self.norm = LayerNorm(head_dim)

    def forward(self, grid: Tensor, stride: tuple[int, ...] | None = None) -> Tensor:
        """(B, [T,] H, W, heads * C) -> (B, [T',] H', W', heads, C); `stride` for a grid that `read` made."""
        conv = self.conv
        pooled = depthwise_conv(grid, conv.weight, stride=stride or conv.stride, padding=conv.padding)
        return self.norm(pooled.unflatten(-1, (-1, conv.weight.shape[0])))

    def read(self, grid: Tensor) -> tuple[Tensor, tuple[int, ...]]:
        """The positions of a grid that the convolution reads, and the stride at which it reads them there.

        A kernel of 3 with a stride of 8 leaves out 5 of 8 rows and columns: what is computed position by position
        before the pooling need not be computed there.
        """
        conv, strides = self.conv, []
        axes = zip(conv.kernel_size, conv.stride, conv.padding, strict=True)
        for axis, (kernel, stride, padding) in enumerate(axes, start=1):
            strides.append(min(kernel, stride))
            if stride > kernel:
                grid = grid.index_select(axis, _places_read(grid.shape[axis], kernel, stride, padding, grid.device))
        return grid, tuple(strides)


@kept
def _places_read(size: int, kernel: int, stride: int, padding: int, device: torch.device) -> Tensor:
    """Positions of an axis that a strided kernel reads, int64, where the stride is longer than the kernel."""
    starts = range(-padding, size + padding - kernel + 1, stride)
    places = [place for start in starts for place in range(start, start + kernel) if 0 <= place < size]
    return torch.tensor(places, device=device)


class PoolingAttention(nn.Module):
    """Multi-head pooling attention over a grid and, optionally, a class token beside it.

    Args:
        in_channels: channels of the grid that comes in.
        channels: channels inside and out; divided by `num_heads`.
        input_size: ([T,] H, W) of the grid at the model's default input; sizes the relative tables.
        num_heads: attention heads.
        q_pool, kv_pool: (kernel, stride) of the pooling of query, and of key and value; None for none.
        relative: axes with relative positions: "none", "space" (H and W), "all" (T too).
        residual_pooling: add the pooled query to what is attended (MViTv2).
        token_residual: add the class token's query too, as timm does and the published code does not.
        qkv_bias: bias of the projections of query, key and value.
        drop_rate: dropout after the output projection.

    Raises:
        ValueError: heads do not divide the channels, or a pool would leave nothing.
    """

    def __init__(
        self,
        in_channels: int,
        channels: int,
        *,
        input_size: Sequence[int],
        num_heads: int,
        q_pool: tuple[tuple[int, ...], tuple[int, ...]] | None = None,
        kv_pool: tuple[tuple[int, ...], tuple[int, ...]] | None = None,
        relative: str = "none",
        residual_pooling: bool = False,
        token_residual: bool = False,
        qkv_bias: bool = True,
        drop_rate: float = 0.0,
    ):
        super().__init__()
        if channels % num_heads:
            raise ValueError(f"num_heads={num_heads} does not divide the {channels} channels of the attention")
        if relative not in ("none", "space", "all"):
            raise ValueError(f"relative={relative!r}, expected 'none', 'space' or 'all'")
        self.num_heads = num_heads
        self.channels = channels
        head_dim = channels // num_heads
        self.scale = head_dim**-0.5
        self.residual_pooling = residual_pooling
        self.token_residual = token_residual
        self.qkv = nn.Linear(in_channels, 3 * channels, bias=qkv_bias)
        self.proj = nn.Linear(channels, channels)
        self.drop = nn.Dropout(drop_rate)
        self.pool_q = GridPool(head_dim, *q_pool) if q_pool else None
        self.pool_k = GridPool(head_dim, *kv_pool) if kv_pool else None
        self.pool_v = GridPool(head_dim, *kv_pool) if kv_pool else None

        # Published tables are sized by whole strides, though a pool of an odd grid gives one position more.
        q_size, kv_size = (
            tuple(s // st for s, st in zip(input_size, pool[1], strict=True)) if pool else tuple(input_size)
            for pool in (q_pool, kv_pool)
        )
        if min(q_size) < 1 or min(kv_size) < 1:
            raise ValueError(
                f"a grid of {tuple(input_size)} is too small for the pooling strides "
                f"{q_pool and q_pool[1]} (query) and {kv_pool and kv_pool[1]} (key, value)"
            )
        self.relative = None
        if relative != "none":
            sizes = [max(q, k) for q, k in zip(q_size, kv_size, strict=True)]
            if len(sizes) == 3:
                sizes[0] = input_size[0] if relative == "all" else None
            self.relative = RelativePosition(sizes, head_dim)

    def _projections(self) -> list[tuple[Tensor, Tensor | None]]:
        """Weight and bias of query, key and value: parts of one tensor, whose gradients are joined in one step."""
        biases = (None,) * 3 if self.qkv.bias is None else self.qkv.bias.chunk(3)
        return list(zip(self.qkv.weight.chunk(3), biases, strict=True))

    def _pooled(
        self,
        grid: Tensor,
        token: Tensor | None,
        projection: tuple[Tensor, Tensor | None],
        pool: GridPool | None,
        stride: tuple[int, ...] | None = None,
    ) -> tuple[Tensor, Tensor | None]:
        """Projected and pooled grid (B, [T',] H', W', heads, C), and the projected token (B, heads, C)."""
        grid = F.linear(grid, *projection)
        grid = pool(grid, stride) if pool else grid.unflatten(-1, (self.num_heads, -1))
        if token is not None:
            token = F.linear(token, *projection).unflatten(-1, (self.num_heads, -1))
            token = pool.norm(token) if pool else token
        return grid, token

    def forward(self, grid: Tensor, token: Tensor | None = None) -> tuple[Tensor, Tensor | None]:
        """(B, [T,] H, W, in), (B, in) or None -> (B, [T',] H', W', channels), (B, channels) or None."""
        for_q, for_k, for_v = self._projections()
        q, q_token = self._pooled(grid, token, for_q, self.pool_q)
        read, stride = (grid, None) if self.pool_k is None else self.pool_k.read(grid)
        k, k_token = self._pooled(read, token, for_k, self.pool_k, stride)
        v, v_token = self._pooled(read, token, for_v, self.pool_v, stride)
        relative = self.relative(q.shape[1:-2], k.shape[1:-2]) if self.relative is not None else ()
        tokens = None if token is None else (q_token, k_token, v_token)
        out, out_token = grid_attention(q, k, v, relative=relative, tokens=tokens, scale=self.scale)
        if self.residual_pooling:
            out = add_branch(out, q)
            if out_token is not None and self.token_residual:
                out_token = out_token + q_token
        out = self.drop(self.proj(out.flatten(-2)))
        if out_token is not None:
            out_token = self.drop(self.proj(out_token.flatten(-2)))
        return out, out_token

    def output_size(self, size: Sequence[int]) -> tuple[int, ...]:
        """Size of the grid that goes out, ([T',] H', W'), for one that comes in."""
        if self.pool_q is None:
            return tuple(size)
        conv = self.pool_q.conv
        return pooled_size(size, conv.kernel_size, conv.stride, conv.padding)
