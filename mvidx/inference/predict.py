"""What a model says about videos and images: the classes it thinks likeliest, over the whole or window by window."""

import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from tqdm import tqdm

from mvidx.data.batch import Normalization
from mvidx.engine.tester import join_views
from mvidx.engine.trainer import PRECISIONS, autocast
from mvidx.errors import UserError
from mvidx.inference.clips import ClipWindows, WindowClips, Windows, clip_loader
from mvidx.inference.inputs import Input, find_inputs
from mvidx.inference.load import load_model
from mvidx.models.card import ModelCard, Preprocessing, card_of


@dataclass(frozen=True)
class ClassScore:
    """A class and how likely the model thinks it."""

    label: int
    name: str
    probability: float


@dataclass(frozen=True)
class WindowPrediction:
    """What the model says about a stretch of time.

    Attributes:
        start_seconds, end_seconds: of the stretch.
        top: the likeliest classes, the first the likeliest.
        scores: float32 (classes,).
    """

    start_seconds: float
    end_seconds: float
    top: tuple[ClassScore, ...]
    scores: np.ndarray


@dataclass(frozen=True)
class Prediction:
    """What the model says about a video or image.

    Attributes:
        path: of it.
        top: the likeliest classes; over windows, by the mean of their scores. Empty when nothing could be read.
        scores: float32 (classes,), or None.
        windows: in the order of time; one for a video that was taken as a whole.
        duration_seconds: of the video.
        failure: why it could not be read, or not to its end; None when all went well.
    """

    path: str
    top: tuple[ClassScore, ...] = ()
    scores: np.ndarray | None = None
    windows: tuple[WindowPrediction, ...] = field(default_factory=tuple)
    duration_seconds: float = 0.0
    failure: str | None = None

    def to_dict(self) -> dict[str, Any]:
        """Plain values, without the scores of the classes that are not in `top`."""
        spans = [
            {"start_seconds": w.start_seconds, "end_seconds": w.end_seconds, "top": list(map(vars, w.top))}
            for w in self.windows
        ]
        return {
            "path": self.path,
            "duration_seconds": self.duration_seconds,
            "top": list(map(vars, self.top)),
            "windows": spans,
        }


def top_classes(scores: np.ndarray, names: Sequence[str], topk: int) -> tuple[ClassScore, ...]:
    """The `topk` likeliest classes of scores (classes,), all of them where there are fewer."""
    order = np.argsort(-scores, kind="stable")[:topk]
    return tuple(ClassScore(int(label), names[label], float(scores[label])) for label in order)


def scored(
    model: nn.Module,
    windows: Iterable[WindowClips],
    compute: Callable[[Tensor], Tensor],
    preprocessing: Preprocessing,
    *,
    batch_size: int,
    precision: str = "float32",
) -> Iterator[tuple[WindowClips, Tensor | None]]:
    """Every window with what `compute` (of normalised clips) gives for its clips, (views * crops, ...) on the CPU.

    Clips of several windows share a batch. None for a window that could not be read.
    """
    device = next(model.parameters()).device
    normalize = Normalization(preprocessing.mean, preprocessing.std, preprocessing.reverse)
    waiting: list[WindowClips] = []
    num_waiting = 0

    def flush() -> Iterator[tuple[WindowClips, Tensor | None]]:
        readable = [window.clips for window in waiting if window.clips is not None]
        if readable:
            clips = torch.cat(readable)
            chunks = []
            for chunk in clips.split(batch_size):
                with torch.inference_mode(), autocast(device, precision):
                    chunks.append(compute(normalize(chunk.to(device))).float().cpu())
            results = iter(torch.cat(chunks).split([len(clips) for clips in readable]))
        for window in waiting:
            yield window, None if window.clips is None else next(results)

    for window in windows:
        waiting.append(window)
        num_waiting += 0 if window.clips is None else len(window.clips)
        if num_waiting >= batch_size or window.failure:
            yield from flush()
            waiting, num_waiting = [], 0
    yield from flush()


def in_order(finished: Iterable[tuple[int, Any]]) -> Iterator[Any]:
    """Values in the order of their numbers 0, 1, ..., each as soon as those before it are there."""
    early: dict[int, Any] = {}
    wanted = 0
    for number, value in finished:
        early[number] = value
        while wanted in early:
            yield early.pop(wanted)
            wanted += 1


def _join(
    inputs: Sequence[Input],
    windows: Iterable[tuple[WindowClips, Tensor | None]],
    card: ModelCard,
    topk: int,
    observe: Callable[[WindowClips, np.ndarray], None] | None,
) -> Iterator[tuple[int, Prediction]]:
    """(index, prediction) of every input whose last window has come."""
    wanted = card.preprocessing
    parts: dict[int, list[WindowPrediction]] = {}
    for window, logits in windows:
        done = parts.setdefault(window.index, [])
        if logits is not None:
            names = card.names(logits.shape[1])
            scores = join_views(logits, activation=wanted.activation, ensemble=wanted.ensemble).numpy()
            top = top_classes(scores, names, topk)
            done.append(WindowPrediction(window.start_seconds, window.end_seconds, top, scores))
            if observe is not None:
                views = logits.view(-1, wanted.num_crops, logits.shape[1])
                per_view = [join_views(v, activation=wanted.activation, ensemble=wanted.ensemble) for v in views]
                observe(window, torch.stack(per_view).numpy())
        if window.is_last:
            del parts[window.index]
            path = inputs[window.index].path
            if not done:
                yield window.index, Prediction(path, failure=window.failure)
                continue
            scores = np.mean([part.scores for part in done], axis=0)
            top = top_classes(scores, card.names(len(scores)), topk)
            seconds = window.duration_seconds or done[-1].end_seconds
            yield window.index, Prediction(path, top, scores, tuple(done), seconds, window.failure)


def iter_predictions(
    model: nn.Module,
    inputs: Sequence[Input],
    *,
    topk: int = 5,
    windows: Windows | None = None,
    num_views: int | None = None,
    num_crops: int | None = None,
    batch_size: int = 8,
    num_workers: int = 0,
    precision: str = "float32",
    backend: str = "decord",
    observe: Callable[[WindowClips, np.ndarray], None] | None = None,
    progress: bool = False,
) -> Iterator[Prediction]:
    """Predictions of inputs, in their order, each as soon as it is there; arguments as of `predict`.

    `observe` is called with every window and the scores of its temporal views, (views, classes). Cut into windows,
    a video gets one view a window unless `num_views` says otherwise.
    """
    card, windows = card_of(model), windows or Windows()
    check_numbers(topk=topk, batch_size=batch_size, num_views=num_views or 1)
    if precision not in PRECISIONS:
        raise UserError(f"precision {precision!r}, expected one of {', '.join(PRECISIONS)}")
    if num_views is None and not windows.whole:
        num_views = 1
    wanted = card.preprocessing.with_views(num_views, num_crops)
    if wanted.takes_images and not windows.whole:
        raise UserError("windows of time, but the model takes images")
    card = ModelCard(card.name, card.arguments, wanted, card.class_names)
    loader = clip_loader(ClipWindows(inputs, wanted, windows, backend=backend), num_workers=num_workers)
    results = scored(model, loader, model, wanted, batch_size=batch_size, precision=precision)
    bar = tqdm(total=len(inputs), unit="image" if wanted.takes_images else "video", disable=not progress, leave=False)
    was_training = model.training
    model.eval()
    try:
        with bar:
            yield from in_order(_join(inputs, _shown(results, bar), card, topk, observe))
    finally:
        model.train(was_training)


def _shown(results: Iterable[tuple[WindowClips, Any]], bar: tqdm) -> Iterator[tuple[WindowClips, Any]]:
    """The same, moving a progress bar by the windows of each input."""
    for window, result in results:
        yield window, result
        bar.update(1 - bar.n % 1 if window.is_last and window.num_windows == 1 else 1 / window.num_windows)


def check_numbers(**numbers: int) -> None:
    """Raise UserError for a number below 1, by its name."""
    for name, value in numbers.items():
        if value < 1:
            raise UserError(f"{name.replace('_', ' ')} {value}, expected 1 or more")


def predict(
    model: nn.Module | str | os.PathLike,
    paths: str | os.PathLike | Sequence[str | os.PathLike],
    *,
    topk: int = 5,
    window_seconds: float | None = None,
    stride_seconds: float | None = None,
    num_views: int | None = None,
    num_crops: int | None = None,
    batch_size: int = 8,
    num_workers: int = 0,
    precision: str = "float32",
    backend: str = "decord",
    progress: bool = False,
) -> list[Prediction]:
    """Classify videos, or images with an image model.

    Args:
        model: of `load_model`, `create_model` or a config; or a checkpoint, as `load_model` takes it. It runs where
            it is, in eval mode.
        paths: files, folders (searched to any depth) and lists (.txt or .csv, a path a row).
        topk: classes of each result.
        window_seconds, stride_seconds: cut videos into windows of this length, this far apart: each gets a result
            of its own, and the video their mean. One alone: no overlap, or windows as long as a clip.
        num_views, num_crops: clips and crops (1 or 3) that are scored and joined; those of the model's test by
            default, and one view in each window.
        batch_size: clips in a forward pass.
        num_workers: processes that decode ahead; 0 decodes in this one.
        precision: "float32", "bfloat16" or "float16".
        backend: decoder, see `mvidx.data.decode.open_video`.
        progress: show a bar.

    Returns:
        One `Prediction` an input, in their order. What can't be read has a `failure` and no classes.

    Raises:
        UserError: a model that does not say what it wants to see, an empty folder, a number out of range.
    """
    if not isinstance(model, nn.Module):
        model = load_model(model)
    paths = [paths] if isinstance(paths, (str, os.PathLike)) else list(paths)
    inputs = find_inputs(paths, images=card_of(model).preprocessing.takes_images)
    found = iter_predictions(
        model,
        inputs,
        topk=topk,
        windows=Windows(window_seconds, stride_seconds),
        num_views=num_views,
        num_crops=num_crops,
        batch_size=batch_size,
        num_workers=num_workers,
        precision=precision,
        backend=backend,
        progress=progress,
    )
    return list(found)
