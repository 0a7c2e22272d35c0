"""The second half of a transformer block, x + mlp(norm(x)), in little memory: for the eager mode on a CPU.

Two things make the plain composition slow and large there. The hidden activations are four times as wide as the grid,
and every tensor beyond some tens of MiB is new memory, whose pages the system must clear first: writing them costs as
much as computing them. And training keeps the norm's output and the hidden activations twice, before and after GELU.

`residual_mlp` works through the rows in pieces whose hidden activations stay in the cache, adds into its result, and
for the backward pass keeps nothing but its input: norm and hidden activations are computed a second time, piece by
piece. One matrix product of five is repeated; for large grids that costs less than writing and reading what it saves.
For small ones the hidden activations before GELU are kept, and only norm and GELU are repeated. Samples that stochastic
depth drops are not computed at all. A scale of the output's channels is a factor of whichever is smaller, the second
Linear's weights or its output.
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass, replace

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mvidx.layers.nd import to_one_row

HIDDEN_BYTES = 8 * 2**20  # of the hidden activations of one piece
KEPT_BYTES = 16 * 2**20  # of the hidden activations of a batch up to which they are kept rather than computed twice

aten = torch.ops.aten


def _pieces(rows: int, width: int, itemsize: int) -> Iterator[slice]:
    """Slices of the rows, as equal as possible, whose hidden activations of `width` stay below HIDDEN_BYTES."""
    count = -(-rows * width * itemsize // HIDDEN_BYTES)
    size = -(-rows // count)
    return (slice(start, min(start + size, rows)) for start in range(0, rows, size))


def _runs(keep: Tensor | None, x: Tensor, width: int) -> Iterator[tuple[slice, float]]:
    """Samples that are computed together, and their factor: as many neighbours of one factor as make a piece.

    Matrix products of few rows are slow: those of 49 take twice as long a row as those of 196.
    """
    factors = [1.0] * x.shape[0] if keep is None else keep.flatten().tolist()
    sample_bytes = math.prod(x.shape[1:-1]) * width * x.element_size()
    most = max(1, HIDDEN_BYTES // sample_bytes)
    start = 0
    for stop in range(1, len(factors) + 1):
        if stop == len(factors) or stop - start == most or factors[stop] != factors[start]:
            yield slice(start, stop), factors[start]
            start = stop


def _part(x: Tensor, part: slice) -> Tensor:
    """x[part], without a view where that is all of it: views are a good part of the time of small grids."""
    return x if part.stop - part.start == x.shape[0] else x[part]


class _Norm:
    """The norm of samples (B, *S, C), forward in pieces of their rows and backward at once.

    LayerNorm, or GroupNorm of one group.
    """

    def __init__(self, kind: str, weight: Tensor, bias: Tensor, eps: float, x: Tensor):
        self.kind, self.weight, self.bias, self.eps, self.x = kind, weight, bias, eps, x.flatten(0, -2)
        self.channels = (x.shape[-1],)
        self.samples = x.shape[0]
        if kind == "group":
            first = self._channels_first(self.x)
            whole, self.mean, self.rstd = aten.native_group_norm(
                first, weight, bias, self.samples, x.shape[-1], first.shape[3], 1, eps
            )
            self.whole = self._rows(whole)

    def _channels_first(self, rows: Tensor) -> Tensor:
        """(B * N, C) -> (B, C, 1, N), channels last."""
        return to_one_row(rows.unflatten(0, (self.samples, -1)))

    def _rows(self, grid: Tensor) -> Tensor:
        """(B, C, 1, N) -> (B * N, C)."""
        return grid.squeeze(2).transpose(1, 2).flatten(0, 1)

    def __call__(self, rows: slice) -> Tensor:
        if self.kind == "group":
            return _part(self.whole, rows)
        normed, self.mean, self.rstd = aten.native_layer_norm(
            _part(self.x, rows), self.channels, self.weight, self.bias, self.eps
        )
        return normed

    def piece_backward(self, grad: Tensor, rows: slice, grads: list[Tensor]) -> Tensor:
        """Gradient of the piece that was normed last; for GroupNorm that of the norm's output."""
        if self.kind == "group":
            return grad
        grad, grad_weight, grad_bias = aten.native_layer_norm_backward(
            grad, _part(self.x, rows), self.channels, self.mean, self.rstd, self.weight, self.bias, [True, True, True]
        )
        grads[0] += grad_weight
        grads[1] += grad_bias
        return grad

    def finish(self, grad: Tensor, grads: list[Tensor]) -> Tensor:
        """GroupNorm's gradient of all rows; LayerNorm's is there already."""
        if self.kind != "group":
            return grad
        first, x = self._channels_first(grad), self._channels_first(self.x)
        grad, grad_weight, grad_bias = aten.native_group_norm_backward(
            first, x, self.mean, self.rstd, self.weight, *x.shape[:2], x.shape[3], 1, [True, True, True]
        )
        grads[0] += grad_weight
        grads[1] += grad_bias
        return self._rows(grad)


@dataclass(frozen=True)
class Weights:
    """Parameters of a residual MLP: two Linears, a Linear beside them and a scale of the output, or None for those."""

    w1: Tensor
    b1: Tensor
    w2: Tensor
    b2: Tensor
    w_skip: Tensor | None = None
    b_skip: Tensor | None = None
    scale: Tensor | None = None

    def folded(self) -> "Weights":
        """The same with the scale in the second Linear."""
        if self.scale is None:
            return self
        return replace(self, w2=self.w2 * self.scale[:, None], b2=self.b2 * self.scale, scale=None)


@dataclass(frozen=True)
class Kept:
    """What training keeps of a small grid: hidden activations before GELU, and the output before its scale if any."""

    hidden: Tensor
    branch: Tensor | None

    def of(self, samples: slice, rows: slice) -> "Kept":
        """The part of some rows of some samples, flat."""
        hidden, branch = (
            None if kept is None else _part(_part(kept, samples).flatten(0, -2), rows)
            for kept in (self.hidden, self.branch)
        )
        return Kept(hidden, branch)


def _scales_output(x: Tensor, weights: Weights) -> bool:
    """Whether the output of a grid x (B, *S, C) is smaller than the weights it comes from."""
    return weights.scale is not None and math.prod(x.shape[:-1]) <= weights.w1.shape[0]


def _forward_rows(out: Tensor, normed: Tensor, weights: Weights, factor: float, kept: Kept | None) -> None:
    """out += factor * mlp(normed); `out` holds the residual, or nothing yet where that is a projection."""
    if kept is None:
        hidden = torch.addmm(weights.b1, normed, weights.w1.t())
        torch._C._nn.gelu_(hidden)
    else:
        hidden = F.gelu(torch.addmm(weights.b1, normed, weights.w1.t(), out=kept.hidden))
    if weights.w_skip is not None:
        torch.addmm(weights.b_skip, normed, weights.w_skip.t(), out=out)
    if weights.scale is None:
        out.add_(weights.b2, alpha=factor).addmm_(hidden, weights.w2.t(), alpha=factor)
    else:
        branch = torch.addmm(weights.b2, hidden, weights.w2.t(), out=None if kept is None else kept.branch)
        out.addcmul_(branch, weights.scale, value=factor)


class ResidualMlp(torch.autograd.Function):
    """skip + keep * scale * fc2(gelu(fc1(norm(x)))) with the skip x itself or a projection of norm(x)."""

    @staticmethod
    def forward(ctx, x, kind, eps, gamma, beta, w1, b1, w2, b2, w_skip, b_skip, scale, keep):
        weights = Weights(w1, b1, w2, b2, w_skip, b_skip, scale)
        width = w1.shape[0]
        small = math.prod(x.shape[:-1]) * width * x.element_size() <= KEPT_BYTES
        kept = None
        if small and any(ctx.needs_input_grad):
            branch = x.new_empty(*x.shape[:-1], w2.shape[0]) if _scales_output(x, weights) else None
            kept = Kept(x.new_empty(*x.shape[:-1], width), branch)
        tensors = (None, None) if kept is None else (kept.hidden, kept.branch)
        ctx.save_for_backward(x, gamma, beta, w1, b1, w2, b2, w_skip, b_skip, scale, *tensors)
        ctx.kind, ctx.eps, ctx.keep = kind, eps, keep
        if kept is None or kept.branch is None:
            weights = weights.folded()
        return forward(x, kind, eps, gamma, beta, weights, keep, kept=kept)

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx, grad):
        x, gamma, beta, *parameters, hidden, branch = ctx.saved_tensors
        plain = Weights(*parameters)
        kept = None if hidden is None else Kept(hidden, branch)
        weights = plain.folded() if branch is None else plain
        scale = weights.scale  # of the output; that of the weights is folded in
        grad = grad.contiguous()
        projects = weights.w_skip is not None
        grad_x = torch.zeros_like(x) if projects else grad.clone()
        norm_grads = [torch.zeros_like(gamma), torch.zeros_like(beta)]
        weight_grads = WeightGradients(*parameters[:-1])
        grad_scale = None if scale is None else torch.zeros_like(scale)
        width = weights.w1.shape[0]
        for samples, factor in _runs(ctx.keep, x, width):
            if not factor and not projects:
                continue
            rows_grad, rows_out = (_part(t, samples).flatten(0, -2) for t in (grad, grad_x))
            norm = _Norm(ctx.kind, gamma, beta, ctx.eps, _part(x, samples))
            whole = torch.empty_like(rows_grad) if ctx.kind == "group" else None
            for rows in _pieces(rows_grad.shape[0], width, x.element_size()):
                g, normed = _part(rows_grad, rows), norm(rows)
                if kept is None:
                    before = torch.addmm(weights.b1, normed, weights.w1.t())
                else:
                    of_rows = kept.of(samples, rows)
                    before = of_rows.hidden
                hidden = F.gelu(before)
                g_branch = g
                if scale is not None:
                    grad_scale.add_((g * of_rows.branch).sum(0), alpha=factor)
                    g_branch = g * scale
                weight_grads.add(2, g_branch, hidden, factor)
                torch.mm(g_branch, weights.w2, out=hidden)
                grad_before = aten.gelu_backward.grad_input(hidden, before, grad_input=hidden)
                if factor != 1.0:
                    grad_before *= factor
                weight_grads.add(0, grad_before, normed)
                grad_normed = grad_before @ weights.w1
                if projects:
                    weight_grads.add(4, g, normed)
                    grad_normed.addmm_(g, weights.w_skip)
                piece = norm.piece_backward(grad_normed, rows, norm_grads)
                if whole is None:
                    _part(rows_out, rows).add_(piece)
                elif piece.shape[0] == whole.shape[0]:
                    whole = piece
                else:
                    whole[rows] = piece
            if whole is not None:
                rows_out.add_(norm.finish(whole, norm_grads))
        gw1, gb1, gw2, gb2, gw_skip, gb_skip = weight_grads.all()
        if plain.scale is not None and scale is None:  # weight and bias were multiplied by it
            grad_scale = (gw2 * plain.w2).sum(1) + gb2 * plain.b2
            gw2, gb2 = gw2.mul_(plain.scale[:, None]), gb2.mul_(plain.scale)
        return (grad_x, None, None, *norm_grads, gw1, gb1, gw2, gb2, gw_skip, gb_skip, grad_scale, None)


class WeightGradients:
    """Gradients of weights and biases, in that order, summed over pieces."""

    def __init__(self, *parameters: Tensor | None):
        self.parameters = parameters
        self.grads: list[Tensor | None] = [None] * len(parameters)

    def add(self, index: int, grad: Tensor, inputs: Tensor, factor: float = 1.0) -> None:
        """Add those of a Linear, whose weight has this index: `grad` (N, out) of its output, `inputs` (N, in)."""
        first = self.grads[index] is None  # it writes: zeros would be written first
        if first:
            self.grads[index : index + 2] = map(torch.empty_like, self.parameters[index : index + 2])
        ones, beta = grad.new_ones(grad.shape[0]), 0.0 if first else 1.0
        self.grads[index].addmm_(grad.t(), inputs, alpha=factor, beta=beta)
        self.grads[index + 1].addmv_(grad.t(), ones, alpha=factor, beta=beta)

    def all(self) -> list[Tensor | None]:
        """The gradients; zeros where no piece came, None for a parameter that is None."""
        return [
            torch.zeros_like(parameter) if grad is None and parameter is not None else grad
            for parameter, grad in zip(self.parameters, self.grads, strict=True)
        ]


def forward(
    x: Tensor, kind: str, eps: float, gamma: Tensor, beta: Tensor, weights: Weights, keep, *, out=None, kept=None
) -> Tensor:
    """The numbers of `ResidualMlp`: into `out`, which may be `x`, if given; what training keeps into `kept`."""
    projects = weights.w_skip is not None
    if out is None:
        out = x.new_empty(*x.shape[:-1], weights.w2.shape[0]) if projects else x.clone()
    width = weights.w1.shape[0]
    for samples, factor in _runs(keep, x, width):
        if not factor and not projects:
            continue
        rows_out = _part(out, samples).flatten(0, -2)
        norm = _Norm(kind, gamma, beta, eps, _part(x, samples))
        for rows in _pieces(rows_out.shape[0], width, x.element_size()):
            rows_kept = None if kept is None else kept.of(samples, rows)
            _forward_rows(_part(rows_out, rows), norm(rows), weights, factor, rows_kept)
    return out


def residual_mlp(
    x: Tensor,
    *,
    norm: tuple[str, Tensor, Tensor, float],
    fc1: nn.Linear,
    fc2: nn.Linear,
    scale: Tensor | None = None,
    skip: nn.Linear | None = None,
    keep: Tensor | None = None,
    owned: bool = False,
) -> Tensor:
    """skip(x) + keep * scale * fc2(gelu(fc1(norm(x)))), see this module.

    Args:
        x: (B, *S, C), contiguous, on a CPU.
        norm: "layer" or "group" (all positions and channels of a sample), weight (C,), bias (C,), eps.
        fc1, fc2: with biases.
        scale: of the output's channels.
        skip: projects norm(x); None for x itself as the residual.
        keep: (B,) factors of the branch, 0 for a dropped sample; None for 1.
        owned: nobody else needs x, which may be overwritten where no gradients are wanted.
    """
    kind, gamma, beta, eps = norm
    first, second = (fc1.weight, fc1.bias), (fc2.weight, fc2.bias)
    beside = (None, None) if skip is None else (skip.weight, skip.bias)
    if torch.is_grad_enabled():
        return ResidualMlp.apply(x, kind, eps, gamma, beta, *first, *second, *beside, scale, keep)
    weights = Weights(*first, *second, *beside, scale)
    if not _scales_output(x, weights):
        weights = weights.folded()
    return forward(x, kind, eps, gamma, beta, weights, keep, out=x if owned and skip is None else None)
