"""Stochastic depth (2016, arXiv 1603.09382): torchvision's, with the linear decay rule over blocks."""

import torch
from torch import nn
from torchvision.ops import StochasticDepth


def drop_path(rate: float) -> nn.Module:
    """Drop the residual branch of whole samples with probability `rate` while training."""
    if not 0.0 <= rate < 1.0:
        raise ValueError(f"drop_path_rate={rate}, expected 0 <= rate < 1")
    return StochasticDepth(rate, mode="row") if rate > 0 else nn.Identity()


def drop_path_rates(rate: float, depth: int) -> list[float]:
    """Rates of `depth` blocks, growing linearly from 0 to `rate`."""
    return torch.linspace(0, rate, depth, device="cpu", dtype=torch.float64).tolist()
