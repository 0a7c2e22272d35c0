"""Mixup (arXiv 1710.09412) and cutmix (arXiv 1905.04899): each clip of a batch with the one at the other end.

One draw a batch, as in PySlowFast (`slowfast/datasets/mixup.py` at 287ec00) and timm.
"""

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

Box = tuple[int, int, int, int]  # top, bottom, left, right


def smooth_one_hot(labels: Tensor, num_classes: int, smoothing: float = 0.0) -> Tensor:
    """int64 (B,) -> float32 (B, num_classes): 1 - smoothing for the label, and smoothing spread over all classes."""
    rest = smoothing / num_classes
    targets = torch.full((len(labels), num_classes), rest, device=labels.device)
    return targets.scatter_(1, labels.view(-1, 1), 1.0 - smoothing + rest)


def smoothed(labels: Tensor, num_classes: int, smoothing: float = 0.0) -> Tensor:
    """Targets float32 (B, num_classes) of labels int64 (B,), or of float 0 or 1 (B, num_classes) for several each."""
    if labels.ndim == 1:
        return smooth_one_hot(labels, num_classes, smoothing)
    return labels.float() * (1.0 - smoothing) + smoothing / num_classes


def cutmix_box(height: int, width: int, share: float, rng: np.random.Generator) -> Box:
    """A box of 1 - `share` of the area around a random centre, cut off at the borders."""
    ratio = np.sqrt(1 - share)
    cut_h, cut_w = int(height * ratio), int(width * ratio)
    y, x = int(rng.integers(height)), int(rng.integers(width))
    top, bottom = np.clip([y - cut_h // 2, y + cut_h // 2], 0, height)
    left, right = np.clip([x - cut_w // 2, x + cut_w // 2], 0, width)
    return int(top), int(bottom), int(left), int(right)


@dataclass(frozen=True)
class Mix:
    """Mixes the clips of a batch and their labels.

    Attributes:
        num_classes: width of the targets.
        mixup_alpha, cutmix_alpha: of the Beta distribution of the share; 0 switches one off.
        probability: of mixing a batch at all.
        switch_probability: of cutmix where both are on.
        smoothing: of the labels.
    """

    num_classes: int
    mixup_alpha: float = 0.8
    cutmix_alpha: float = 1.0
    probability: float = 1.0
    switch_probability: float = 0.5
    smoothing: float = 0.1

    def draw(self, height: int, width: int, rng: np.random.Generator) -> tuple[float, Box | None]:
        """(share that each clip keeps, box for cutmix or None for mixup); a share of 1 changes nothing."""
        if rng.random() >= self.probability or (self.mixup_alpha <= 0 and self.cutmix_alpha <= 0):
            return 1.0, None
        cut = self.cutmix_alpha > 0 and (self.mixup_alpha <= 0 or rng.random() < self.switch_probability)
        alpha = self.cutmix_alpha if cut else self.mixup_alpha
        share = float(rng.beta(alpha, alpha))
        if not cut:
            return share, None
        top, bottom, left, right = box = cutmix_box(height, width, share, rng)
        return 1 - (bottom - top) * (right - left) / (height * width), box

    def apply(self, clips: Tensor, labels: Tensor, share: float, box: Box | None) -> tuple[Tensor, Tensor]:
        """Mix with what was drawn: float (B, ..., H, W), labels (see `smoothed`) -> the same, float32 targets."""
        targets = smoothed(labels, self.num_classes, self.smoothing)
        if share == 1.0:
            return clips, targets
        if box is None:
            clips = clips * share + clips.flip(0) * (1 - share)
        else:
            top, bottom, left, right = box
            mixed = clips.clone()
            mixed[..., top:bottom, left:right] = clips.flip(0)[..., top:bottom, left:right]
            clips = mixed
        return clips, targets * share + targets.flip(0) * (1 - share)

    def __call__(self, clips: Tensor, labels: Tensor, rng: np.random.Generator) -> tuple[Tensor, Tensor]:
        """Draw and apply."""
        return self.apply(clips, labels, *self.draw(*clips.shape[-2:], rng))
