"""What a report shows, computed from runs: curves, mistakes, confused pairs, and how configs differ."""

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from mvidx.report.run import Run

MAX_POINTS = 1500  # of a curve; more are averaged in groups


@dataclass
class Curve:
    """One line of a chart: `kind` says how it is drawn ("steps", "train" or "val"), `x` are epochs."""

    run: int
    kind: str
    label: str
    x: list[float]
    y: list[float | None]


@dataclass
class Chart:
    """Curves over the same axes; `log` where values span orders of magnitude."""

    title: str
    unit: str
    curves: list[Curve] = field(default_factory=list)
    log: bool = False


@dataclass
class Mistake:
    """A video that was taken for another class.

    Attributes:
        path: of the video.
        actual, predicted: labels.
        confidence: score of the predicted class.
        actual_score: score of the actual class.
        rank: place of the actual class among the scores, from 1.
        picture: data URI of some frames; None where the file can't be opened, for `reason`.
    """

    path: str
    actual: int
    predicted: int
    confidence: float
    actual_score: float
    rank: int
    picture: str | None = None
    reason: str = ""


def number(value: Any) -> float | None:
    """A finite number, or None."""
    return float(value) if isinstance(value, (int, float)) and math.isfinite(value) else None


def steps_per_epoch(records: Sequence[Mapping]) -> float:
    """Steps of an epoch, as the records of finished epochs say; else the largest step that was logged."""
    for record in records:
        if record.get("kind") == "train_epoch" and record.get("epoch") and record.get("global_step"):
            return record["global_step"] / record["epoch"]
    return max((record.get("step") or 0 for record in records if record["kind"] == "train_step"), default=0) or 1


def thinned(x: Sequence[float], y: Sequence[float | None], limit: int = MAX_POINTS) -> tuple[list, list]:
    """At most `limit` points: means of equal groups of neighbours. A group without any number gives None."""
    if len(x) <= limit:
        return list(x), list(y)
    groups = np.array_split(np.arange(len(x)), limit)
    values = np.array([np.nan if value is None else value for value in y], float)
    means = [values[group][~np.isnan(values[group])] for group in groups]
    return (
        [float(np.mean(np.asarray(x)[group])) for group in groups],
        [float(group.mean()) if len(group) else None for group in means],
    )


def curves(runs: Sequence[Run]) -> list[Chart]:
    """The charts of metrics.jsonl, of all runs; those without a curve are left out."""
    charts = {
        "loss": Chart("Loss", ""),
        "top1": Chart("Top-1", "%"),
        "top5": Chart("Top-5", "%"),
        "lr": Chart("Learning rate", ""),
        "clips_per_second": Chart("Training speed", "clips/s"),
        "data_share": Chart("Waiting for data", "%"),
        "memory_gib": Chart("Peak memory", "GiB"),
    }
    for index, run in enumerate(runs):
        per_epoch = steps_per_epoch(run.records)
        for kind, label in (("train_step", "steps"), ("train_epoch", "train"), ("val", "val")):
            records = [record for record in run.records if record["kind"] == kind]
            x = [number(record.get("global_step")) for record in records]
            for key, chart in charts.items():
                factor = 100 if key == "data_share" else 1
                points = [
                    (step / per_epoch, None if value is None else factor * value)
                    for step, record in zip(x, records, strict=True)
                    if step is not None
                    for value in [number({**record, **(record.get("timing") or {})}.get(key))]
                ]
                if any(value is not None for _, value in points):
                    chart.curves.append(Curve(index, label, kind, *thinned(*zip(*points, strict=True))))
    return [chart for chart in charts.values() if chart.curves]


def find_mistakes(run: Run, limit: int) -> tuple[list[Mistake], int]:
    """The `limit` most confident mistakes, most confident first, and how many there are in all."""
    if run.predictions is None or not len(run.predictions.labels):
        return [], 0
    labels, scores = run.predictions.labels, run.predictions.scores
    rows = np.arange(len(labels))
    predicted = scores.argmax(1)
    wrong = rows[predicted != labels]
    wrong = wrong[np.argsort(-scores[wrong, predicted[wrong]], kind="stable")]
    found = [
        Mistake(
            path=str(run.predictions.ids[row]),
            actual=int(labels[row]),
            predicted=int(predicted[row]),
            confidence=float(scores[row, predicted[row]]),
            actual_score=float(scores[row, labels[row]]),
            rank=1 + int((scores[row] > scores[row, labels[row]]).sum()),
        )
        for row in wrong[:limit]
    ]
    return found, len(wrong)


def confused_pairs(confusion: np.ndarray, limit: int) -> list[tuple[int, int, int, float]]:
    """(actual, predicted, videos, percent of the actual class) of the most frequent confusions."""
    counts = confusion.sum(1)
    wrong = confusion.copy()
    np.fill_diagonal(wrong, 0)
    order = np.argsort(-wrong, axis=None, kind="stable")[:limit]
    pairs = zip(*np.unravel_index(order, wrong.shape), strict=True)
    return [(int(i), int(j), int(wrong[i, j]), 100 * wrong[i, j] / counts[i]) for i, j in pairs if wrong[i, j]]


def mean_class_accuracy(run: Run) -> float | None:
    """Mean of the classes' accuracies in percent, over the classes that have videos."""
    found = [row.top1 for row in run.classes if row.top1 is not None]
    return sum(found) / len(found) if found else None


def flatten(config: Mapping, prefix: str = "") -> dict[str, Any]:
    """{"SECTION.KEY": value}; an empty section stays as {}."""
    flat = {}
    for key, value in config.items():
        if isinstance(value, Mapping) and value:
            flat |= flatten(value, f"{prefix}{key}.")
        else:
            flat[f"{prefix}{key}"] = value
    return flat


def shown(value: Any) -> str:
    """A config value as text; lists and tuples look the same."""
    if isinstance(value, (list, tuple)):
        return f"[{', '.join(map(shown, value))}]"
    return str(value)


def differing_keys(configs: Iterable[Mapping[str, str]]) -> list[str]:
    """Keys, sorted, that not all flat configs have with the same value."""
    configs = list(configs)
    keys = sorted({key for config in configs for key in config})
    return [key for key in keys if len({config.get(key) for config in configs}) > 1]


def best_validation(run: Run) -> tuple[float, int] | None:
    """(top-1 in percent, epoch) of the best validation."""
    found = [
        (value, record.get("epoch", 0))
        for record in run.records
        if record["kind"] == "val" and (value := number(record.get("top1"))) is not None
    ]
    return max(found, key=lambda pair: pair[0], default=None)


def median_speed(run: Run) -> float | None:
    """Median of the clips a second that the training steps logged."""
    speeds = [
        value
        for record in run.records
        if (value := number((record.get("timing") or {}).get("clips_per_second"))) is not None
    ]
    return float(np.median(speeds)) if speeds else None
