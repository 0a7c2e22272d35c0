"""Learning rates by the exact epoch (a fraction inside an epoch), as PySlowFast computes them.

`slowfast/utils/lr_policy.py` at 287ec00.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class Schedule:
    """A learning rate that warms up linearly and then follows a cosine or steps.

    Attributes:
        policy: "cosine" or "steps".
        base_lr: rate after the warm-up.
        end_lr: rate at the end of the cosine.
        max_epochs: length of the run.
        warmup_epochs: epochs of linear warm-up, 0 for none.
        warmup_start_lr: rate at epoch 0 of a warm-up.
        cosine_after_warmup: let the cosine start where the warm-up ends, instead of at epoch 0.
        steps: first epoch of every step ("steps"), from 0.
        step_factors: factor on base_lr in each step.
    """

    policy: str
    base_lr: float
    max_epochs: float
    end_lr: float = 0.0
    warmup_epochs: float = 0.0
    warmup_start_lr: float = 0.0
    cosine_after_warmup: bool = False
    steps: Sequence[float] = ()
    step_factors: Sequence[float] = ()

    def __post_init__(self):
        if self.policy not in ("cosine", "steps"):
            raise ValueError(f"learning rate policy {self.policy!r}, expected 'cosine' or 'steps'")
        if self.policy == "steps" and (not self.steps or len(self.steps) != len(self.step_factors)):
            raise ValueError(
                f"steps={list(self.steps)}, step_factors={list(self.step_factors)}: expected as many factors as steps"
            )
        if self.cosine_after_warmup and self.warmup_epochs >= self.max_epochs:
            raise ValueError(f"warmup_epochs={self.warmup_epochs} leaves nothing of max_epochs={self.max_epochs}")

    def _main(self, epoch: float) -> float:
        if self.policy == "steps":
            factors = [factor for start, factor in zip(self.steps, self.step_factors, strict=True) if epoch >= start]
            return self.base_lr * (factors[-1] if factors else 1.0)
        offset = self.warmup_epochs if self.cosine_after_warmup else 0.0
        progress = (epoch - offset) / (self.max_epochs - offset)
        return self.end_lr + (self.base_lr - self.end_lr) * (math.cos(math.pi * progress) + 1) / 2

    def lr(self, epoch: float) -> float:
        """Learning rate at an exact epoch, such as 3.25."""
        if epoch < self.warmup_epochs:
            end = self._main(self.warmup_epochs)
            return self.warmup_start_lr + (end - self.warmup_start_lr) * epoch / self.warmup_epochs
        return self._main(epoch)
