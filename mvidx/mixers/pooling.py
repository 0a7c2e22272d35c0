"""Pooling as a token mixer: PoolFormer (arXiv 2111.11418), the mean of a neighbourhood minus the position itself.

Published in sail-sg/poolformer (`models/poolformer.py` at a075575). Deviations: none in the numbers.
"""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mvidx.layers.kept import kept
from mvidx.layers.nd import avg_pool, check_kernel, to_one_row
from mvidx.layers.norm import GroupNorm1


def neighbourhood_mean(grid: Tensor, kernel: tuple[int, ...]) -> Tensor:
    """Mean over the part of the neighbourhood of every position that lies inside: (B, [T,] H, W, C) -> the same."""
    if torch.compiler.is_compiling() and not torch.compiler.is_exporting():
        return _mean_of_shifts(grid, kernel)
    return avg_pool(grid, kernel, (1,) * len(kernel), tuple(k // 2 for k in kernel))


def _mean_of_shifts(grid: Tensor, kernel: tuple[int, ...]) -> Tensor:
    """`neighbourhood_mean` as sums of shifted grids, for inductor: it stores the output of a pool with columns last."""
    total = grid
    for axis, k in enumerate(kernel, start=1):
        padded = F.pad(total, [0, 0] * (grid.ndim - 1 - axis) + [k // 2, k // 2])
        total = sum(padded.narrow(axis, shift, grid.shape[axis]) for shift in range(k))
    return total / _counts(grid.shape[1:-1], kernel, grid.device, grid.dtype)


class Pooling(nn.Module):
    """Mean over a neighbourhood minus the input; positions outside the grid do not count.

    Args:
        kernel: neighbourhood, ([t,] h, w), odd numbers. Its length says 2-D or 3-D.

    Raises:
        ValueError: the kernel has another number of entries than 2 or 3, or an even one.
    """

    def __init__(self, kernel: Sequence[int] = (3, 3)):
        super().__init__()
        self.kernel = check_kernel(kernel, "kernel")

    def forward(self, grid: Tensor) -> Tensor:  # (B, [T,] H, W, C) -> the same
        return self.mean(grid) - grid

    def mean(self, grid: Tensor) -> Tensor:  # (B, [T,] H, W, C) -> the same
        """Mean over the neighbourhood of every position."""
        return neighbourhood_mean(grid, self.kernel)

    def extra_repr(self) -> str:
        return f"kernel={self.kernel}"


def pooling_residual(
    x: Tensor, mixer: Pooling, norm: GroupNorm1, *, scale: Tensor | None = None, keep: Tensor | None = None
) -> Tensor:
    """x + keep * scale * mixer(norm(x)), without computing norm(x).

    The mean of a neighbourhood minus the position takes away whatever is the same everywhere: the norm's mean and
    bias. What stays is a factor a sample and channel, w = keep * scale * norm.weight / std, so that the result is
    x + w * (mean of the neighbourhood - x): one interpolation between the grid and its pool.

    Args:
        x: (B, [T,] H, W, C).
        scale: (C,), of the branch.
        keep: (B, 1) factors of the branch by sample; None for 1.
    """
    factors = norm.weight if scale is None else norm.weight * scale
    factors = factors.expand(x.shape[0], -1) if keep is None else factors * keep
    if torch.is_grad_enabled():
        return PoolingResidual.apply(x, factors, norm.bias, mixer.kernel, norm.eps)
    rstd = _statistics(x, norm.eps)[1]
    return torch.lerp(x, mixer.mean(x), _by_channel(factors * rstd, x))


def _statistics(x: Tensor, eps: float) -> tuple[Tensor, Tensor]:
    """Mean and 1 / std of every sample, (B, 1) each."""
    batch, channels = x.shape[0], x.shape[-1]
    first = to_one_row(x)
    _, mean, rstd = torch.ops.aten.native_group_norm(first, None, None, batch, channels, first.shape[3], 1, eps)
    return mean, rstd


def _by_channel(factors: Tensor, x: Tensor) -> Tensor:
    """(B, C) -> (B, 1, ..., C), to multiply a grid by."""
    return factors.view(x.shape[0], *[1] * (x.ndim - 2), -1)


class PoolingResidual(torch.autograd.Function):
    """x + factors / std(x) * (pool(x) - x), with a backward pass that keeps x alone.

    The norm's bias does nothing; its gradient is zero, and must not be missing (DistributedDataParallel waits for it).
    """

    @staticmethod
    def forward(ctx, x: Tensor, factors: Tensor, bias: Tensor, kernel: tuple[int, ...], eps: float) -> Tensor:
        mean, rstd = _statistics(x, eps)
        ctx.save_for_backward(x, factors, mean, rstd)
        ctx.kernel = kernel
        return torch.lerp(x, neighbourhood_mean(x, kernel), _by_channel(factors * rstd, x))

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx, grad: Tensor):
        x, factors, mean, rstd = ctx.saved_tensors
        difference = neighbourhood_mean(x, ctx.kernel).sub_(x)
        products = difference.mul_(grad).flatten(1, -2).sum(1)  # (B, C)
        grad_factors = products * rstd
        grad_rstd = (products * factors).sum(1, keepdim=True)  # (B, 1)

        # Pooling divides a sum over the neighbourhood, which is symmetric, by the number of positions in it: its
        # transpose divides first, and then sums.
        branch = grad * _by_channel(factors * rstd, x)
        counts = _counts(x.shape[1:-1], ctx.kernel, x.device, x.dtype)
        back = neighbourhood_mean(branch / counts, ctx.kernel).mul_(counts).sub_(branch)
        # rstd = (variance + eps) ** -0.5, whose gradient by x is -rstd ** 3 * (x - mean) / N.
        slope = grad_rstd * rstd**3 / x[0].numel()
        back.addcmul_(x, _by_channel(slope, x), value=-1).add_(_by_channel(slope * mean, x))
        return back.add_(grad), grad_factors, torch.zeros_like(factors[0]), None, None


@kept
def _counts(size: tuple[int, ...], kernel: tuple[int, ...], device: torch.device, dtype: torch.dtype) -> Tensor:
    """How many positions of the grid the neighbourhood of each position has, (*size, 1)."""
    counts = torch.ones((), dtype=dtype, device=device)
    for n, k in zip(size, kernel, strict=True):
        places = torch.arange(n, device=device)
        inside = (places + k // 2).clamp(max=n - 1) - (places - k // 2).clamp(min=0) + 1
        counts = counts.unsqueeze(-1) * inside.to(dtype)
    return counts.unsqueeze(-1)
