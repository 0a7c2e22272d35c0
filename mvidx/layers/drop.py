"""Stochastic depth (2016, arXiv 1603.09382): torchvision's, with the linear decay rule over blocks."""

import torch
from torch import Tensor, nn
from torchvision.ops import StochasticDepth


def drop_path(rate: float) -> nn.Module:
    """Drop the residual branch of whole samples with probability `rate` while training."""
    if not 0.0 <= rate < 1.0:
        raise ValueError(f"drop_path_rate={rate}, expected 0 <= rate < 1")
    return StochasticDepth(rate, mode="row") if rate > 0 else nn.Identity()


def drop_path_rates(rate: float, depth: int) -> list[float]:
    """Rates of `depth` blocks, growing linearly from 0 to `rate`."""
    return torch.linspace(0, rate, depth, device="cpu", dtype=torch.float64).tolist()


def drop_factors(drop: nn.Module, batch: int, device: torch.device) -> Tensor | None:
    """What stochastic depth multiplies every sample by, (batch, 1): 0 or 1 / (1 - rate); None while it does nothing."""
    active = drop.training and not isinstance(drop, nn.Identity)
    return drop(torch.ones(batch, 1, device=device)) if active else None


def add_branch(skip: Tensor, branch: Tensor) -> Tensor:
    """skip + branch; into the memory of `branch`, which must be new, where no gradients are wanted."""
    if torch.is_grad_enabled() or torch.compiler.is_compiling() or skip.dtype != branch.dtype:
        return skip + branch
    return branch.add_(skip)
