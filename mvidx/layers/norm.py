"""Normalisation layers of the model families, all on channels-last grids."""

from functools import partial

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
