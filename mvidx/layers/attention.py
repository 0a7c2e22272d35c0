"""The one attention kernel: softmax(q k^T) v with decomposed relative positions, without their matrix.

MViTv2 (arXiv 2112.01526) adds q·Rt[i, t(j)] + q·Rh[i, h(j)] + q·Rw[i, w(j)] to the logit of query i and
key j. Published code builds these as (Nq x Nk) matrices. The same sum is a dot product of longer vectors,

    q' = [q | q·Rt | q·Rh | q·Rw],    k' = [k | onehot(t) | onehot(h) | onehot(w)],

so softmax(q' k'^T) v is exact, and any fused attention kernel computes it in memory that grows with the
tokens and not with their square. A class token has zeros in the extra places.
"""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from mvidx.layers.kept import kept
from mvidx.layers.kept_attention import keeps_weights, kept_attention

ALIGNMENT = 8  # fused CUDA kernels want head dimensions that are multiples of this


def attention(q: Tensor, k: Tensor, v: Tensor, *, scale: float | None = None, mask: Tensor | None = None) -> Tensor:
    """softmax(scale * q k^T + mask) v.

    Args:
        q: (B, Nq, heads, C).
        k: (B, Nk, heads, C).
        v: (B, Nk, heads, Cv) with Cv <= C.
        scale: C ** -0.5 by default.
        mask: added to the logits, broadcastable to (B, heads, Nq, Nk).

    Returns:
        (B, Nq, heads, Cv).
    """
    width = v.shape[-1]
    extra = q.shape[-1] - width
    if mask is None and keeps_weights(q, k, v):
        return kept_attention(q, k, v, q.shape[-1] ** -0.5 if scale is None else scale)
    if extra:
        v = F.pad(v, (0, extra))  # fused kernels want q, k and v of one width
    out = F.scaled_dot_product_attention(
        q.transpose(1, 2), k.transpose(1, 2), v.transpose(1, 2), attn_mask=mask, scale=scale
    )
    return out.transpose(1, 2)[..., :width]


def relative_terms(q: Tensor, tables: Sequence[Tensor | None]) -> list[Tensor]:
    """Dot products of every query with the relative position vectors of its row, axis by axis.

    Args:
        q: (B, *Sq, heads, C) with Sq = ([T,] H, W).
        tables: one an axis, (Sq[a], Sk[a], C), or None for an axis without relative positions.

    Returns:
        One tensor an axis that has a table, (B, *Sq, heads, Sk[a]).
    """
    terms = []
    for axis, table in enumerate(tables, start=1):
        if table is None:
            continue
        grouped = q.flatten(0, axis - 1).flatten(2, -2)  # (P, Sq[a], R, C): what lies before and after the axis
        before, size, after, channels = grouped.shape
        if after < size:  # few rows a matrix: batch over the axis alone
            rows = grouped.transpose(0, 1).reshape(size, before * after, channels)
            term = torch.bmm(rows, table.transpose(1, 2)).view(size, before, after, -1).transpose(0, 1)
        else:
            term = grouped @ table.transpose(1, 2)
        terms.append(term.reshape(*q.shape[:-1], table.shape[1]))
    return terms


@kept
def one_hot_positions(
    size: tuple[int, ...], axes: tuple[int, ...], width: int, value: float, device: torch.device, dtype: torch.dtype
) -> Tensor:
    """One-hot coordinates of every position of a grid along some axes, side by side.

    Args:
        size: of the grid.
        axes: whose coordinates are wanted.
        width: columns, at least sum(size[a] for a in axes); those beyond are zero.
        value: stands in the place of ones.

    Returns:
        (prod(size), width).
    """
    hots = []
    for axis in axes:
        n = size[axis]
        eye = torch.eye(n, dtype=dtype, device=device) * value
        shape = [1] * len(size) + [n]
        shape[axis] = n
        hots.append(eye.view(shape).expand(*size, n))
    hot = torch.cat(hots, dim=-1).flatten(0, -2)
    return F.pad(hot, (0, width - hot.shape[1]))


def grid_attention(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    *,
    relative: Sequence[Tensor | None] = (),
    tokens: tuple[Tensor, Tensor, Tensor] | None = None,
    scale: float | None = None,
) -> tuple[Tensor, Tensor | None]:
    """Attention between the positions of grids, and a class token if there is one.

    Args:
        q: (B, *Sq, heads, C).
        k, v: (B, *Sk, heads, C).
        relative: relative position vectors, (Sq[a], Sk[a], C) or None for every axis a of the grid; empty
            for no position term.
        tokens: q, k and v of a class token, (B, heads, C) each. It takes part in attention on both sides
            and has no position.
        scale: C ** -0.5 by default.

    Returns:
        The attended grid, (B, *Sq, heads, C), and the attended token, (B, heads, C) or None.
    """
    channels = q.shape[-1]
    scale = channels**-0.5 if scale is None else scale
    k_size = k.shape[1:-2]
    grid_shape = q.shape
    axes = [axis for axis, table in enumerate(relative) if table is not None]
    terms_width = sum(k_size[axis] for axis in axes)
    padding = -(channels + terms_width) % ALIGNMENT if axes else 0
    extra = terms_width + padding
    if axes:
        terms = relative_terms(q, relative)
        zeros = [q.new_zeros(()).expand(*q.shape[:-1], padding)] if padding else []
        q = torch.cat([q, *terms, *zeros], dim=-1)
    q, k, v = q.flatten(1, -3), k.flatten(1, -3), v.flatten(1, -3)  # (B, N, heads, C)
    if axes:
        # The kernel multiplies the terms by the scale too: the other side undoes it.
        hot = one_hot_positions(k_size, tuple(axes), extra, 1 / scale, k.device, k.dtype)
        k = torch.cat([k, hot[None, :, None].expand(*k.shape[:-1], extra)], dim=-1)
    if tokens is not None:
        q_token, k_token, v_token = (token.unsqueeze(1) for token in tokens)  # (B, 1, heads, C)
        k, v = torch.cat([F.pad(k_token, (0, extra)), k], dim=1), torch.cat([v_token, v], dim=1)

    out = attention(q, k, v, scale=scale).view(grid_shape)
    if tokens is None:
        return out, None
    return out, attention(q_token, k[..., :channels], v, scale=scale)[:, 0]
