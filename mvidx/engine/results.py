"""The files that a test leaves in OUTPUT_DIR: results.json, predictions.npz, per_class.csv, confusion.csv."""

import csv
import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from mvidx.checkpoint.files import write_atomically
from mvidx.data.annotations import VideoList
from mvidx.engine.tester import Predictions


def confusion_matrix(predictions: Predictions, num_classes: int) -> np.ndarray:
    """int64 (classes, classes): how many videos of class i (rows) were taken for class j (columns)."""
    matrix = np.zeros((num_classes, num_classes), np.int64)
    np.add.at(matrix, (predictions.labels, predictions.scores.argmax(1)), 1)
    return matrix


def _write_csv(path: Path, rows: Sequence[Sequence]) -> None:
    def write(temporary: str) -> None:
        with open(temporary, "w", newline="") as file:
            csv.writer(file).writerows(rows)

    write_atomically(path, write)


def write_results(
    folder: Path,
    predictions: Predictions,
    videos: VideoList,
    *,
    class_names: Sequence[str],
    num_temporal_views: int,
    num_spatial_crops: int,
    **extra,
) -> dict:
    """Write all four files into `folder`; returns what results.json holds.

    Accuracies are over the videos that could be read; `num_videos` counts all, `num_failed` the others.
    `extra` goes into results.json as it is.
    """
    folder.mkdir(parents=True, exist_ok=True)
    results = {
        **predictions.accuracy(),
        "num_videos": len(videos),
        "num_failed": len(predictions.failures),
        "views": num_temporal_views * num_spatial_crops,
        "num_temporal_views": num_temporal_views,
        "num_spatial_crops": num_spatial_crops,
        **extra,
        "failures": [
            {"row": videos.where(index), "path": path, "reason": reason}
            for index, (path, reason) in predictions.failures.items()
        ],
    }
    write_atomically(folder / "results.json", lambda name: Path(name).write_text(json.dumps(results, indent=1) + "\n"))

    ids = np.array([videos.path(int(index)) for index in predictions.indices], dtype=np.str_)

    def write_arrays(name: str) -> None:
        with open(name, "wb") as file:  # a file object: savez would append .npz to a temporary name
            np.savez_compressed(file, id=ids, label=predictions.labels, scores=predictions.scores)

    write_atomically(folder / "predictions.npz", write_arrays)

    matrix = confusion_matrix(predictions, len(class_names))
    counts, right = matrix.sum(1), matrix.diagonal()
    per_class = [
        [label, name, int(counts[label]), f"{100 * right[label] / counts[label]:.2f}" if counts[label] else ""]
        for label, name in enumerate(class_names)
    ]
    _write_csv(folder / "per_class.csv", [["label", "name", "num_videos", "top1"], *per_class])
    rows = [[name, *map(int, matrix[label])] for label, name in enumerate(class_names)]
    _write_csv(folder / "confusion.csv", [["actual \\ predicted", *class_names], *rows])
    return results
