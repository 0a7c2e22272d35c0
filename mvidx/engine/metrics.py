"""Accuracies and running means, exact however the work is split over processes."""

import torch
from torch import Tensor

from mvidx import distributed


def topk_correct(scores: Tensor, labels: Tensor, ks: tuple[int, ...] = (1, 5)) -> list[Tensor]:
    """How many labels are among the k highest scores, for each k; k is cut to the number of classes.

    Args:
        scores: (B, classes).
        labels: int64 (B,).

    Returns:
        A float32 scalar for each k.
    """
    ranked = scores.topk(min(max(ks), scores.shape[1]), dim=1).indices
    hits = ranked == labels[:, None]
    return [hits[:, :k].any(1).sum().float() for k in ks]


class Totals:
    """Sums of named quantities over samples, kept on the device until they are asked for.

    Adding costs no synchronisation. `state_dict` makes them survive a resume.
    """

    def __init__(self):
        self.sums: dict[str, Tensor] = {}
        self.count = 0

    def add(self, count: int, **sums: Tensor) -> None:
        """Add the sums of `count` samples."""
        self.count += count
        for name, value in sums.items():
            value = value.detach().double()
            self.sums[name] = self.sums[name] + value if name in self.sums else value

    def means(self) -> dict[str, float]:
        """Mean of every quantity over all samples of all processes."""
        if not self.sums:
            return {}
        names = sorted(self.sums)
        values = torch.stack([self.sums[name] for name in names])
        values = torch.cat([values, values.new_tensor([self.count])])
        values = distributed.all_sum(values).tolist()
        return {name: value / max(values[-1], 1) for name, value in zip(names, values[:-1], strict=True)}

    def clear(self) -> None:
        self.sums, self.count = {}, 0

    def state_dict(self) -> dict:
        return {"sums": {name: value.cpu() for name, value in self.sums.items()}, "count": self.count}

    def load_state_dict(self, state: dict, device: torch.device) -> None:
        self.sums = {name: value.to(device) for name, value in state["sums"].items()}
        self.count = state["count"]
