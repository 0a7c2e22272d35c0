"""Losses by the names that configs use. Each takes labels int64 (B,) or mixed targets float (B, classes)."""

from collections.abc import Callable

import torch.nn.functional as F
from torch import Tensor


def binary_cross_entropy(logits: Tensor, targets: Tensor) -> Tensor:
    """Mean over samples and classes of the cross entropy of a yes or no for each class."""
    if targets.ndim == 1:
        targets = F.one_hot(targets, logits.shape[1])
    return F.binary_cross_entropy_with_logits(logits, targets.to(logits.dtype))


LOSSES: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "cross_entropy": F.cross_entropy,
    "soft_cross_entropy": F.cross_entropy,
    "bce": binary_cross_entropy,
    "bce_logit": binary_cross_entropy,
}
