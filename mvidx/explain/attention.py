"""Attention maps of every mixer that attends: pooling attention, the inception mixer, mixing block, plain attention.

Fused kernels keep no weights. Here every call of PyTorch's `scaled_dot_product_attention` inside a mixer is watched,
and its weights are computed again from the same query, key and mask: what a map shows is what the model computed,
relative positions included. They are reduced at once, some queries at a time, so that memory stays small.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from mvidx.errors import UserError
from mvidx.explain.places import Block, blocks_of, evaluating
from mvidx.layers.nd import pooled_size
from mvidx.mixers.baseline import Attention
from mvidx.mixers.inception import Inception
from mvidx.mixers.mixing import Mixing, frame_windows, from_windows
from mvidx.mixers.pooling_attention import PoolingAttention
from mvidx.models.base import Backbone

ATTENDING = (PoolingAttention, Inception, Mixing, Attention)
QUERIES_AT_ONCE = 1024


@dataclass
class AttentionMap:
    """Attention of one block, averaged over nothing but the queries.

    Attributes:
        block: whose it is.
        received: float32 (B, heads, [T',] H', W') over the keys: the mean over all queries, 1 in sum. With windows
            (MixFormer) the mean over the queries of each window, 1 in sum in each of them.
        point: the same of one query alone, at `where`; zero outside its window.
        token: the same of the class token; None without one.
        where: index of the query in its grid, ([t,] y, x).
        query_size: size of the grid of queries, ([T',] H', W').
    """

    block: str
    received: Tensor
    point: Tensor
    token: Tensor | None
    where: tuple[int, ...]
    query_size: tuple[int, ...]


@dataclass
class _Call:
    """One call of the kernel: weights reduced over queries, (B, heads, Nk), and all rows asked for."""

    num_queries: int
    mean: Tensor
    rows: dict[int, Tensor] = field(default_factory=dict)


def attention_rows(query: Tensor, key: Tensor, mask: Tensor | None, scale: float | None) -> Tensor:
    """softmax(scale * q k^T + mask) in float32: (B, heads, N, C) and (B, heads, M, C) -> (B, heads, N, M)."""
    scale = query.shape[-1] ** -0.5 if scale is None else scale
    logits = (query.float() @ key.float().transpose(-2, -1)) * scale
    if mask is not None:
        logits = logits.masked_fill(~mask, float("-inf")) if mask.dtype == torch.bool else logits + mask.float()
    return logits.softmax(-1)


class _Watch(TorchFunctionMode):
    """Keeps what calls of the kernel attend to; `wanted` are the queries whose rows are kept."""

    def __init__(self):
        super().__init__()
        self.calls: list[_Call] | None = None  # of the mixer that runs; None outside of one
        self.wanted: Sequence[int] = ()

    def __torch_function__(self, function, types, arguments=(), named=None):
        named = named or {}
        if function is F.scaled_dot_product_attention and self.calls is not None:
            self._keep(*arguments, **named)
        return function(*arguments, **named)

    def _keep(self, query, key, value, attn_mask=None, dropout_p=0.0, is_causal=False, scale=None, **_):
        total, rows, count = 0.0, {}, query.shape[-2]
        for start in range(0, count, QUERIES_AT_ONCE):
            stop = min(count, start + QUERIES_AT_ONCE)
            mask = attn_mask
            if mask is not None and mask.shape[-2] > 1:
                mask = mask[..., start:stop, :]
            weights = attention_rows(query[..., start:stop, :], key, mask, scale)
            total = total + weights.sum(-2)
            rows.update({row: weights[..., row - start, :] for row in self.wanted if start <= row < stop})
        self.calls.append(_Call(count, total / count, rows))


def attending(model: Backbone) -> list[tuple[Block, nn.Module]]:
    """The blocks of a model that attend, each with its mixer."""
    found = []
    for block in blocks_of(model):
        mixer = next((module for module in block.module.modules() if isinstance(module, ATTENDING)), None)
        if mixer is not None:
            found.append((block, mixer))
    return found


def _cells(size: Sequence[int]) -> int:
    return math.prod(size)


def _flat(where: Sequence[int], size: Sequence[int]) -> int:
    """Number of a position in a flattened grid."""
    number = 0
    for index, length in zip(where, size, strict=True):
        number = number * length + index
    return number


def _place(where: Sequence[float], size: Sequence[int]) -> tuple[int, ...]:
    """Index of a point given as fractions of a grid's sides."""
    return tuple(min(int(fraction * length), length - 1) for fraction, length in zip(where, size, strict=True))


def _global(mixer: nn.Module, size: tuple[int, ...]) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """Sizes of the grids of queries and keys of a mixer that attends to a whole grid."""
    if isinstance(mixer, PoolingAttention):
        keys = size
        if mixer.pool_k is not None:
            conv = mixer.pool_k.conv
            keys = pooled_size(size, conv.kernel_size, conv.stride, conv.padding)
        return tuple(mixer.output_size(size)), tuple(keys)
    if isinstance(mixer, Inception):
        pooled = tuple(-(-length // pool) for length, pool in zip(size, mixer.pool, strict=True))
        return pooled, pooled
    return size, size


def _global_map(name: str, calls: list[_Call], queries, keys, where) -> AttentionMap:
    """The map of a mixer that attends to a whole grid, in one call or with one more for the class token."""
    count, positions = _cells(keys), _cells(queries)
    extra = calls[0].mean.shape[-1] - count  # 1 with a class token among the keys, which stands first
    if extra not in (0, 1) or calls[0].num_queries - positions not in (0, 1):
        raise RuntimeError(
            f"{name}: attention of {calls[0].num_queries} queries to {calls[0].mean.shape[-1]} keys, "
            f"expected grids of {queries} and {keys}"
        )
    first = calls[0].num_queries - positions  # 1 where the class token is a query of the same call

    def shaped(weights: Tensor) -> Tensor:
        return weights[..., extra:].unflatten(-1, keys)

    token = None
    if extra:
        token = shaped(calls[0].rows[0]) if first else shaped(calls[1].mean)
    return AttentionMap(
        name, shaped(calls[0].mean), shaped(calls[0].rows[_flat(where, queries) + first]), token, where, queries
    )


def _window_map(name: str, mixer: Mixing, calls: list[_Call], size: tuple[int, ...], where) -> AttentionMap:
    """The map of a mixing block, put together from its windows; each call has those of some frames."""
    padded = (*size[:-2], *(-(-length // n) * n for length, n in zip(size[-2:], mixer.window[-2:], strict=True)))
    if len(size) == 2:
        parts = [(padded, mixer.window)]
    else:
        parts = [
            ((windows * frames, *padded[1:]), (frames, *mixer.window[1:]))
            for _, windows, frames in frame_windows(size[0], mixer.window[0])
        ]
    if len(parts) != len(calls):
        raise RuntimeError(f"{name}: {len(calls)} calls of attention, expected {len(parts)}")

    received, points, frames_before = [], [], 0
    for (part, window), call in zip(parts, calls, strict=True):
        # (B * windows, heads, N) -> (B, *part, heads) -> (B, heads, *part)
        received.append(from_windows(call.mean.transpose(1, 2), window, part).movedim(-1, 1))
        local = where if len(size) == 2 else (where[0] - frames_before, *where[1:])
        frames_before += part[0] if len(size) == 3 else 0
        if not 0 <= local[0] < part[0]:
            points.append(torch.zeros_like(received[-1]))
            continue
        inside = _flat([index % n for index, n in zip(local, window, strict=True)], window)
        counts = [length // n for length, n in zip(part, window, strict=True)]
        own = _flat([index // n for index, n in zip(local, window, strict=True)], counts)
        rows = call.rows[inside].unflatten(0, (-1, _cells(counts)))  # (B, windows, heads, N)
        alone = torch.zeros_like(rows)
        alone[:, own] = rows[:, own]
        points.append(from_windows(alone.flatten(0, 1).transpose(1, 2), window, part).movedim(-1, 1))
    join = (lambda maps: torch.cat(maps, dim=2)) if len(size) == 3 else (lambda maps: maps[0])
    crop = (..., slice(size[-2]), slice(size[-1]))
    return AttentionMap(name, join(received)[crop], join(points)[crop], None, where, size)


@torch.no_grad()
def attention_maps(
    model: Backbone, clips: Tensor, *, where: Sequence[float] | None = None, blocks: Sequence[str] | None = None
) -> list[AttentionMap]:
    """The attention maps of a model's blocks, in order.

    Args:
        model: of a family that attends: MViT, Inception Transformer, MixFormer, or a MetaFormer with attention.
        clips: what the model takes, (B, 3, [T,] H, W).
        where: the query that `AttentionMap.point` is about, as fractions ([t,] y, x) of the input; the middle by
            default.
        blocks: names of the blocks that are wanted; all that attend by default.

    Raises:
        UserError: nothing in the model attends, or a block of that name does not.
    """
    known = attending(model)
    if not known:
        raise UserError(f"{type(model).__name__} has no attention to show: its mixers do not attend")
    names = [block.name for block, _ in known]
    if unknown := [name for name in blocks or () if name not in names]:
        raise UserError(f"block {unknown[0]!r} does not attend, expected one of {', '.join(names)}")
    where = (0.5,) * model.ndim if where is None else tuple(where)
    if len(where) != model.ndim or not all(0 <= fraction <= 1 for fraction in where):
        raise UserError(f"query {where}, expected {model.ndim} fractions from 0 to 1")

    watch, maps = _Watch(), []

    def before(block: Block, mixer: nn.Module):
        def hook(_, inputs) -> None:
            size = tuple(inputs[0].shape[1:-1])
            watch.calls = []
            if isinstance(mixer, Mixing):
                watch.wanted = range(_cells(mixer.window))
                return
            queries = _global(mixer, size)[0]
            number = _flat(_place(where, queries), queries)
            watch.wanted = (0, number, number + 1)

        return hook

    def after(block: Block, mixer: nn.Module):
        def hook(_, inputs, __) -> None:
            calls, watch.calls = watch.calls, None
            size = tuple(inputs[0].shape[1:-1])
            if not calls:
                raise RuntimeError(f"{block.name}: {type(mixer).__name__} did not call PyTorch's attention kernel")
            if isinstance(mixer, Mixing):
                maps.append(_window_map(block.name, mixer, calls, size, _place(where, size)))
                return
            queries, keys = _global(mixer, size)
            maps.append(_global_map(block.name, calls, queries, keys, _place(where, queries)))

        return hook

    handles = []
    for block, mixer in known:
        if blocks is None or block.name in blocks:
            handles.append(mixer.register_forward_pre_hook(before(block, mixer)))
            handles.append(mixer.register_forward_hook(after(block, mixer)))
    try:
        with evaluating(model), watch:
            model(clips)
    finally:
        for handle in handles:
            handle.remove()
    return maps
