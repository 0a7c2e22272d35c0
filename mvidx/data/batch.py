"""From uint8 clips on the device to what a model takes: normalised, and in training erased and mixed.

Everything random is seeded by what it belongs to: erasing by (epoch, video), mixing by (epoch, step), so
that a resumed run draws what an uninterrupted one does.
"""

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from mvidx.data.erase import RandomErasing
from mvidx.data.mix import Mix
from mvidx.data.transforms import normalize

_ERASING, _MIXING = 1, 2


@dataclass(frozen=True)
class Normalization:
    """uint8 (B, 3, [T,] H, W), red first -> normalised float32.

    Attributes:
        mean, std: of the channels as they come, red first.
        reverse: give blue first.
    """

    mean: tuple[float, ...]
    std: tuple[float, ...]
    reverse: bool = False

    def __call__(self, clips: Tensor, out: Tensor | None = None) -> Tensor:
        """Normalised clips, in `out` (float32, contiguous, of their shape) where it is given."""
        values = normalize(clips, self.mean, self.std, axis=1, out=out)
        return values.flip(1) if self.reverse else values


@dataclass(frozen=True)
class BatchTransform:
    """What a training step does to its batch before the model sees it.

    Attributes:
        normalization: first.
        erasing: second, a draw for each clip.
        mix: third, a draw for the batch.
        seed: of all draws.
        rank: this process: each mixes its own batch.
        targets_of: gives uint8 (B, classes) by labels, where a video may have several; see `MultiLabelList`.
    """

    normalization: Normalization
    erasing: RandomErasing | None = None
    mix: Mix | None = None
    seed: int = 0
    rank: int = 0
    targets_of: Callable[[Sequence[int]], np.ndarray] | None = None

    def __call__(
        self, clips: Tensor, labels: Tensor, *, indices: Sequence[int], epoch: int, step: int
    ) -> tuple[Tensor, Tensor]:
        """uint8 (B, 3, [T,] H, W), int64 (B,) -> float32 clips, and labels or targets (B, classes).

        Args:
            indices: which video each clip is of.
            epoch, step: where the run stands.
        """
        clips = self.normalization(clips)
        if self.targets_of is not None:
            labels = torch.from_numpy(self.targets_of(labels.tolist())).to(clips.device, torch.float32)
        if self.erasing is not None:
            seen: Counter[int] = Counter()
            for clip, index in zip(clips, indices, strict=True):
                key = (self.seed, epoch, index, seen[index], _ERASING)
                self.erasing(clip, np.random.default_rng(key))
                seen[index] += 1
        if self.mix is None:
            return clips, labels
        return self.mix(clips, labels, np.random.default_rng((self.seed, epoch, step, self.rank, _MIXING)))
