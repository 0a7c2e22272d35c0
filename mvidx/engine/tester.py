"""Multi-view evaluation: every video once, all its views, joined after the softmax or before."""

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor, nn
from tqdm import tqdm

from mvidx import distributed
from mvidx.data.datasets import Sample, Views
from mvidx.engine.loading import batches_of
from mvidx.engine.metrics import average_precision, topk_correct
from mvidx.engine.stop import Stopped, StopRequest
from mvidx.engine.trainer import autocast


@dataclass
class Predictions:
    """Scores of the videos that could be read, and the others with their reasons.

    Attributes:
        indices: int64 (N,), which video of the list; ascending.
        labels: int64 (N,); of videos with several labels uint8 (N, classes), 1 for each of them.
        scores: float32 (N, classes), mean or maximum over the views.
        failures: {video: (path, reason)}.
        decoders: str (N,), what decoded each video; None where that is not known.
    """

    indices: np.ndarray
    labels: np.ndarray
    scores: np.ndarray
    failures: dict[int, tuple[str, str]] = field(default_factory=dict)
    decoders: np.ndarray | None = None

    @property
    def multi_label(self) -> bool:
        """Whether a video may have several labels."""
        return self.labels.ndim == 2

    def accuracy(self) -> dict[str, float]:
        """top1 and top5 in percent of the videos that could be read; k is cut to the number of classes.

        With several labels a video any of them counts, and "map" is the mean over the classes of their average
        precision, in percent; classes that no video has are left out.
        """
        values = {"top1": 0.0, "top5": 0.0}
        if len(self.labels):
            correct = topk_correct(torch.from_numpy(self.scores), torch.from_numpy(self.labels))
            values = {name: 100 * float(n) / len(self.labels) for name, n in zip(values, correct, strict=True)}
        if self.multi_label:
            precisions = average_precision(self.scores, self.labels)
            known = precisions[~np.isnan(precisions)]
            values = {"map": 100 * float(known.mean()) if len(known) else 0.0, **values}
        return values

    def loss(self) -> float:
        """Mean negative logarithm of the right class's score; of several labels that of each class's yes or no."""
        if not len(self.labels):
            return float("nan")
        if self.multi_label:
            right = np.where(self.labels > 0, self.scores, 1 - self.scores)
        else:
            right = self.scores[np.arange(len(self.labels)), self.labels]
        return float(-np.log(np.maximum(right, 1e-12)).mean())

    def summary(self) -> dict[str, float]:
        """Accuracies and loss."""
        return {**self.accuracy(), "loss": self.loss()}


ACTIVATIONS: dict[str, Callable[[Tensor], Tensor]] = {
    "softmax": lambda logits: logits.softmax(dim=-1),
    "sigmoid": torch.sigmoid,
    "none": lambda logits: logits,
}
ENSEMBLES: dict[str, Callable[[Tensor], Tensor]] = {
    "sum": lambda scores: scores.mean(0),  # the mean ranks as the sum does
    "max": lambda scores: scores.amax(0),
}


def join_views(logits: Tensor, *, activation: str = "softmax", ensemble: str = "sum") -> Tensor:
    """Scores of a video, (classes,), from the logits of its views, (views, classes).

    Args:
        activation: of each view, "softmax" or "sigmoid"; "none" joins logits and takes the softmax at the end.
        ensemble: "sum" (its mean, which ranks the same) or "max".
    """
    scores = ENSEMBLES[ensemble](ACTIVATIONS[activation](logits.float()))
    return scores.softmax(dim=-1) if activation == "none" else scores


class ViewBatches:
    """Makes batches of views for the model.

    On a CPU they lie in memory that is used again: to get hundreds of megabytes from the system for each batch takes
    longer than to fill them. A batch is therefore good until the next one is made.

    Args:
        prepare: uint8 clips -> what the model takes, written into its keyword `out` where that is given.
        device: where the views are.
    """

    def __init__(self, prepare: Callable[..., Tensor], device: torch.device):
        self.prepare = prepare
        self.device = device
        self._memory: dict[str, Tensor] = {}

    def _reused(self, name: str, shape: Sequence[int], dtype: torch.dtype) -> Tensor:
        size = math.prod(shape)
        if name not in self._memory or len(self._memory[name]) < size:
            self._memory[name] = torch.empty(size, dtype=dtype)
        return self._memory[name][:size].view(shape)

    def __call__(self, views: Sequence[tuple[Tensor | Views, int]]) -> Tensor:
        """The batch of (clips of a video, number of one of them)."""
        if self.device.type != "cpu":
            return self.prepare(torch.stack([clips[number] for clips, number in views]))
        first = views[0][0][views[0][1]]
        batch = self._reused("uint8", (len(views), *first.shape), torch.uint8)
        for target, (clips, number) in zip(batch, views, strict=True):
            if isinstance(clips, Views):
                clips.write(number, target)
            else:
                target.copy_(clips[number])
        return self.prepare(batch, out=self._reused("float32", batch.shape, torch.float32))


@torch.no_grad()
def evaluate(
    model: nn.Module,
    loader: Iterable[list[Sample]],
    *,
    num_classes: int,
    prepare: Callable[..., Tensor],
    device: torch.device,
    views_per_batch: int,
    precision: str = "float32",
    activation: str = "softmax",
    ensemble: str = "sum",
    targets_of: Callable[[np.ndarray], np.ndarray] | None = None,
    stop: StopRequest | None = None,
    progress: bool = False,
) -> Predictions:
    """Score every video of a loader; each process does its share, each gets the whole result.

    Args:
        model: prepared clips -> logits; put into eval mode, and back into the mode it was in.
        loader: lists of test samples, see `mvidx.data.loader.test_loader`.
        num_classes: width of the scores.
        prepare: see `ViewBatches`.
        views_per_batch: the most views in one forward pass.
        precision: see `Trainer`.
        activation, ensemble: see `join_views`.
        targets_of: gives the labels uint8 (N, classes) of videos by their labels in the samples, where a video may
            have several.
        stop: who may ask for the end of the run.
        progress: show a bar on a terminal.

    Raises:
        Stopped: the evaluation was asked to end; on all processes alike.
    """
    was_training = model.training
    model.eval()
    scores: dict[int, tuple[int, np.ndarray, str]] = {}
    failures: dict[int, tuple[str, str]] = {}
    total = len(loader) if hasattr(loader, "__len__") else None
    hidden = None if progress else True  # None: hidden unless on a terminal
    batch_of = ViewBatches(prepare, device)
    for samples in tqdm(batches_of(loader), total=total, desc="evaluating", unit="batch", leave=False, disable=hidden):
        if stop:
            break
        readable = [sample for sample in samples if sample.clips is not None]
        failures.update({sample.index: sample.failures[0] for sample in samples if sample.clips is None})
        if not readable:
            continue
        clips = [sample.clips.pin_memory() if device.type == "cuda" else sample.clips for sample in readable]
        clips = [each.to(device, non_blocking=True) for each in clips]
        views = [(each, number) for each in clips for number in range(len(each))]
        chunks = []
        for start in range(0, len(views), views_per_batch):
            batch = batch_of(views[start : start + views_per_batch])
            with autocast(device, precision):
                logits = model(batch)
            chunks.append(logits.float())
        per_video = torch.cat(chunks).split([len(sample.clips) for sample in readable])
        for sample, logits in zip(readable, per_video, strict=True):
            joined = join_views(logits, activation=activation, ensemble=ensemble)
            scores[sample.index] = (sample.label, joined.cpu().numpy(), sample.decoder)
    model.train(was_training)

    signum = 0
    for other_scores, other_failures, asked in distributed.gather((scores, failures, stop.signum if stop else 0)):
        scores.update(other_scores)
        failures.update(other_failures)
        signum = signum or asked
    if signum:
        raise Stopped(signum)
    order = sorted(scores)
    labels = np.array([scores[index][0] for index in order], np.int64)
    return Predictions(
        np.array(order, np.int64),
        labels if targets_of is None else targets_of(labels),
        np.array([scores[index][1] for index in order], np.float32).reshape(len(order), num_classes),
        dict(sorted(failures.items())),
        np.array([scores[index][2] for index in order], np.str_),
    )
