"""Normalisation layers of the model families, all on channels-last grids."""

from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mvidx.layers.nd import to_channels_first, to_grid

LayerNorm = partial(nn.LayerNorm, eps=1e-6)


class GroupNorm1(nn.Module):
    """GroupNorm with one group over a channels-last grid: PoolFormer's norm.

    Each sample is normalised over all its positions and channels together, then scaled by channel.
    """

    def __init__(self, channels: int, *, eps: float = 1e-5):
        super().__init__()
        self.eps = eps
        ones_and_zeros = nn.LayerNorm(channels)  # holds weight (C,) and bias (C,) with the usual start
        self.weight, self.bias = ones_and_zeros.weight, ones_and_zeros.bias

    def forward(self, grid: Tensor) -> Tensor:  # (B, [T,] H, W, C) -> the same
        return to_grid(F.group_norm(to_channels_first(grid), 1, self.weight, self.bias, self.eps))


class SampleBatchNorm(nn.BatchNorm1d):
    """BatchNorm of one vector a sample, (B, C), that also trains on a batch of one.

    A single vector has no statistics of its own: it is normalised by the running ones, which stay as they are.
    """

    def forward(self, x: Tensor) -> Tensor:  # (B, C) -> the same
        if self.training and x.shape[0] == 1:
            return F.batch_norm(x, self.running_mean, self.running_var, self.weight, self.bias, False, 0.0, self.eps)
        return super().forward(x)


class PartsNorm(torch.autograd.Function):
    """LayerNorm with a weight and bias for each of several parts; keeps the normed parts alone."""

    @staticmethod
    def forward(ctx, x: Tensor, weight: Tensor, bias: Tensor, eps: float) -> Tensor:
        normed, _, rstd = torch.ops.aten.native_layer_norm(x, x.shape[-1:], None, None, eps)
        ctx.save_for_backward(normed, rstd, weight)
        return torch.addcmul(bias, normed, weight)

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx, grad: Tensor):
        normed, rstd, weight = ctx.saved_tensors
        # Positions first, then heads: both at once would walk through memory in small steps.
        grad_weight, grad_bias = (x.flatten(0, -4).sum(0).sum(1, keepdim=True) for x in (grad * normed, grad))
        # What is normed already has mean 0 and deviation 1.
        mean, ones = torch.zeros_like(rstd), torch.ones_like(rstd)
        grad_x, _, _ = torch.ops.aten.native_layer_norm_backward(
            grad * weight, normed, normed.shape[-1:], mean, ones, None, None, [True, False, False]
        )
        return grad_x.mul_(rstd), grad_weight, grad_bias, None


def norm_parts(x: Tensor, weight: Tensor, bias: Tensor, eps: float) -> Tensor:
    """LayerNorm over the last axis, with other weights for each part.

    Args:
        x: (..., P, heads, C), contiguous, on a CPU.
        weight, bias: (P, C).
    """
    weight, bias = weight.unsqueeze(1), bias.unsqueeze(1)
    if torch.is_grad_enabled():
        return PartsNorm.apply(x, weight, bias, eps)
    normed = F.layer_norm(x, x.shape[-1:], None, None, eps)
    return torch.addcmul(bias, normed, weight, out=normed)
