"""The files that a test leaves in OUTPUT_DIR: results.json, predictions.npz, per_class.csv, confusion.csv."""

import csv
import json
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from mvidx.checkpoint.paths import join, make_folder, write_atomically, write_text
from mvidx.data.annotations import VideoList
from mvidx.engine.metrics import average_precision
from mvidx.engine.tester import Predictions

THRESHOLD = 0.5
"""Score from which a class counts as seen in confusion.csv, where a video may have several."""


def confusion_matrix(predictions: Predictions, num_classes: int) -> np.ndarray:
    """int64 (classes, classes): how many videos of class i (rows) were taken for class j (columns)."""
    matrix = np.zeros((num_classes, num_classes), np.int64)
    np.add.at(matrix, (predictions.labels, predictions.scores.argmax(1)), 1)
    return matrix


def _class_tables(predictions: Predictions, class_names: Sequence[str]) -> tuple[list[list], list[list]]:
    """Rows of per_class.csv and confusion.csv, where a video has one class."""
    matrix = confusion_matrix(predictions, len(class_names))
    counts, right = matrix.sum(1), matrix.diagonal()
    per_class = [
        [label, name, int(counts[label]), f"{100 * right[label] / counts[label]:.2f}" if counts[label] else ""]
        for label, name in enumerate(class_names)
    ]
    rows = [[name, *map(int, matrix[label])] for label, name in enumerate(class_names)]
    return [["label", "name", "num_videos", "top1"], *per_class], [["actual \\ predicted", *class_names], *rows]


def _multi_label_tables(predictions: Predictions, class_names: Sequence[str]) -> tuple[list[list], list[list]]:
    """Rows of per_class.csv and confusion.csv, where a video may have several classes: a yes or no for each."""
    precisions = average_precision(predictions.scores, predictions.labels)
    is_one, seen = predictions.labels > 0, predictions.scores >= THRESHOLD
    per_class: list[list] = [["label", "name", "num_videos", "average_precision"]]
    confusion: list[list] = [["name", "true_positives", "false_positives", "false_negatives", "true_negatives"]]
    for label, name in enumerate(class_names):
        actual, predicted = is_one[:, label], seen[:, label]
        precision = "" if np.isnan(precisions[label]) else f"{100 * precisions[label]:.2f}"
        per_class.append([label, name, int(actual.sum()), precision])
        pairs = ((actual, predicted), (~actual, predicted), (actual, ~predicted), (~actual, ~predicted))
        confusion.append([name, *(int((a & b).sum()) for a, b in pairs)])
    return per_class, confusion


def _write_csv(path: str, rows: Sequence[Sequence]) -> None:
    def write(temporary: str) -> None:
        with open(temporary, "w", newline="") as file:
            csv.writer(file).writerows(rows)

    write_atomically(path, write)


def write_results(
    folder: str | Path,
    predictions: Predictions,
    videos: VideoList,
    *,
    class_names: Sequence[str],
    num_temporal_views: int,
    num_spatial_crops: int,
    **extra,
) -> dict:
    """Write all four files into `folder`; returns what results.json holds.

    Accuracies are over the videos that could be read; `num_videos` counts all, `num_failed` the others. What decoded
    each video is counted under `decoders`, and stands in predictions.npz for each.
    `extra` goes into results.json as it is.
    """
    make_folder(folder)
    results = {
        **predictions.accuracy(),
        "num_videos": len(videos),
        "num_failed": len(predictions.failures),
        "views": num_temporal_views * num_spatial_crops,
        "num_temporal_views": num_temporal_views,
        "num_spatial_crops": num_spatial_crops,
        **({} if predictions.decoders is None else {"decoders": dict(Counter(predictions.decoders.tolist()))}),
        **extra,
        "failures": [
            {"row": videos.where(index), "path": path, "reason": reason}
            for index, (path, reason) in predictions.failures.items()
        ],
    }
    write_text(join(folder, "results.json"), json.dumps(results, indent=1) + "\n")

    arrays = {
        "id": np.array([videos.path(int(index)) for index in predictions.indices], dtype=np.str_),
        "label": predictions.labels,
        "scores": predictions.scores,
    }
    if predictions.decoders is not None:
        arrays["decoder"] = predictions.decoders

    def write_arrays(name: str) -> None:
        with open(name, "wb") as file:  # a file object: savez would append .npz to a temporary name
            np.savez_compressed(file, **arrays)

    write_atomically(join(folder, "predictions.npz"), write_arrays)
    tables = _multi_label_tables if predictions.multi_label else _class_tables
    per_class, confusion = tables(predictions, class_names)
    _write_csv(join(folder, "per_class.csv"), per_class)
    _write_csv(join(folder, "confusion.csv"), confusion)
    return results
