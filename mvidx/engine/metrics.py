"""Accuracies and running means, exact however the work is split over processes."""

import numpy as np
import torch
from torch import Tensor

from mvidx import distributed


def topk_correct(scores: Tensor, targets: Tensor, ks: tuple[int, ...] = (1, 5)) -> list[Tensor]:
    """How many samples have a right class among the k highest scores, for each k; k is cut to the number of classes.

    Args:
        scores: (B, classes).
        targets: labels int64 (B,), or shares (B, classes), of which the largest are right: the one label that most
            of a mixed clip is of, or all labels of a video.

    Returns:
        A float32 scalar for each k.
    """
    ranked = scores.topk(min(max(ks), scores.shape[1]), dim=1).indices
    if targets.ndim == 1:
        hits = ranked == targets[:, None]
    else:
        largest = targets.amax(1, keepdim=True)
        hits = (targets.gather(1, ranked) == largest) & (largest > 0)
    return [hits[:, :k].any(1).sum().float() for k in ks]


def average_precision(scores: np.ndarray, targets: np.ndarray) -> np.ndarray:
    """Average precision of every class: the precision at each threshold, weighted by the recall it adds.

    Samples of equal score pass a threshold together, and nothing is interpolated, as in scikit-learn.

    Args:
        scores: (N, classes), a larger one for a likelier class.
        targets: (N, classes), above 0 where a class is right.

    Returns:
        float64 (classes,) from 0 to 1; NaN for a class that is never right.
    """
    values = np.full(scores.shape[1], np.nan)
    for label in np.flatnonzero((targets > 0).any(0)):
        order = np.argsort(-scores[:, label], kind="stable")
        ranked = scores[order, label]
        last = np.append(ranked[1:] != ranked[:-1], True)  # of each group of equal scores
        found = np.cumsum(targets[order, label] > 0)[last]
        precision = found / (np.flatnonzero(last) + 1)
        recall_gained = np.diff(found, prepend=0) / found[-1]
        values[label] = (precision * recall_gained).sum()
    return values


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

    @staticmethod
    def merged(states: list[dict]) -> dict:
        """The state of one that had added what several have."""
        names = {name for state in states for name in state["sums"]}
        sums = {name: sum(state["sums"].get(name, 0.0) for state in states) for name in names}
        return {"sums": sums, "count": sum(state["count"] for state in states)}

    def load_state_dict(self, state: dict, device: torch.device) -> None:
        self.sums = {name: value.to(device) for name, value in state["sums"].items()}
        self.count = state["count"]
