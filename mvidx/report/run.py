"""What a run left in its OUTPUT_DIR, read back.

A run that was interrupted, or only tested, leaves a part of the files; a file that is damaged is told as a problem and
left out, so that the rest can still be looked at.
"""

import csv
import json
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import yaml

from mvidx.errors import UserError

FILES = ("config.yaml", "metrics.jsonl", "results.json", "predictions.npz", "per_class.csv", "confusion.csv")
LOG_ENDINGS = ("*.log", "log.txt", "stdout.txt", "stderr.txt")
LOG_LINES = 400


@dataclass
class ClassRow:
    """A row of per_class.csv; `top1` in percent, None for a class without videos."""

    label: int
    name: str
    num_videos: int
    top1: float | None


@dataclass
class Predictions:
    """What predictions.npz holds: `ids` (N,) paths, `labels` int (N,), `scores` float (N, classes)."""

    ids: np.ndarray
    labels: np.ndarray
    scores: np.ndarray


@dataclass
class Run:
    """One OUTPUT_DIR.

    Attributes:
        folder: where it lies.
        name: what tells it from the others of a report.
        config: keys and values, nested; empty without config.yaml.
        records: lines of metrics.jsonl.
        results: results.json; None before a test.
        classes: rows of per_class.csv.
        confusion: int64 (classes, classes), rows are the actual classes; None before a test.
        predictions: None before a test.
        logs: (file, its last lines).
        problems: what could not be read, a line each.
    """

    folder: Path
    name: str
    config: dict[str, Any] = field(default_factory=dict)
    records: list[dict] = field(default_factory=list)
    results: dict[str, Any] | None = None
    classes: list[ClassRow] = field(default_factory=list)
    confusion: np.ndarray | None = None
    predictions: Predictions | None = None
    logs: list[tuple[str, str]] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)

    @property
    def class_names(self) -> list[str]:
        """Name of every class; numbers where no names were written."""
        if self.classes:
            return [row.name for row in self.classes]
        count = 0 if self.confusion is None else len(self.confusion)
        count = max(count, 0 if self.predictions is None else self.predictions.scores.shape[1])
        return [str(label) for label in range(count)]

    @property
    def working_folder(self) -> Path:
        """The folder that the run's relative paths are relative to, as far as OUTPUT_DIR tells."""
        output, folder = Path(str(self.config.get("OUTPUT_DIR", "."))), self.folder.resolve()
        parts = [part for part in output.parts if part != "."]
        if output.is_absolute() or ".." in parts or folder.parts[len(folder.parts) - len(parts) :] != tuple(parts):
            return Path.cwd()
        return Path(*folder.parts[: len(folder.parts) - len(parts)])


def read_config(path: Path) -> dict[str, Any]:
    content = yaml.safe_load(path.read_text())
    if not isinstance(content, dict):
        raise ValueError(f"holds a {type(content).__name__}, expected keys and values")
    return content


def read_records(path: Path) -> tuple[list[dict], list[str]]:
    """The records of metrics.jsonl, and what is wrong with lines that are none: (records, problems)."""
    records, problems = [], []
    for number, line in enumerate(path.read_text().splitlines(), start=1):
        if not line.strip():
            continue
        try:
            record = json.loads(line)
        except ValueError:
            record = None
        if isinstance(record, dict) and isinstance(record.get("kind"), str):
            records.append(record)
        else:
            problems.append(f"{path}, line {number}: not a record, expected a JSON object with a kind")
    return records, problems


def read_results(path: Path) -> dict[str, Any]:
    results = json.loads(path.read_text())
    if not isinstance(results, dict):
        raise ValueError(f"holds a {type(results).__name__}, expected an object")
    for key in ("top1", "top5", "num_videos", "num_failed"):
        if not isinstance(results.get(key), (int, float)):
            raise ValueError(f"{key} is {results.get(key)!r}, expected a number")
    failures = results.setdefault("failures", [])
    if not isinstance(failures, list) or not all(isinstance(failure, dict) for failure in failures):
        raise ValueError("failures is not a list of objects")
    return results


def read_classes(path: Path) -> list[ClassRow]:
    with open(path, newline="") as file:
        return [
            ClassRow(
                int(row["label"]), row["name"], int(row["num_videos"]), float(row["top1"]) if row["top1"] else None
            )
            for row in csv.DictReader(file)
        ]


def read_confusion(path: Path) -> np.ndarray:
    """int64 (classes, classes)."""
    with open(path, newline="") as file:
        matrix = np.array([[int(count) for count in row[1:]] for row in list(csv.reader(file))[1:]], np.int64)
    if matrix.ndim != 2 or matrix.shape[0] != matrix.shape[1]:
        raise ValueError(f"its counts have the shape {matrix.shape}, expected a square")
    return matrix


def read_predictions(path: Path) -> Predictions:
    with np.load(path, allow_pickle=False) as arrays:
        found = Predictions(arrays["id"], arrays["label"].astype(np.int64), arrays["scores"].astype(np.float32))
    count, num_classes = found.scores.shape
    if not len(found.ids) == len(found.labels) == count:
        raise ValueError(f"{len(found.ids)} ids, {len(found.labels)} labels and {count} rows of scores")
    if count and not 0 <= found.labels.min() <= found.labels.max() < num_classes:
        raise ValueError(f"labels from {found.labels.min()} to {found.labels.max()} for {num_classes} classes")
    return found


def read_logs(folder: Path) -> list[tuple[str, str]]:
    """The log files in a folder with their last lines."""
    paths = sorted({path for pattern in LOG_ENDINGS for path in folder.glob(pattern) if path.is_file()})
    return [
        (path.name, "\n".join(path.read_text(errors="replace").splitlines()[-LOG_LINES:]))
        for path in paths
    ]  # fmt: skip


def read_run(folder: str | Path, name: str | None = None) -> Run:
    """Everything that lies in an OUTPUT_DIR.

    Raises:
        UserError: there is no such folder, or none of a run's files in it.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise UserError(f"{folder} is not a folder, expected the OUTPUT_DIR of a run")
    if not any((folder / file).is_file() for file in FILES):
        raise UserError(f"{folder} holds none of a run's files ({', '.join(FILES)}), expected the OUTPUT_DIR of a run")
    run = Run(folder, name or folder.resolve().name)

    def read(file: str, reader: Callable[[Path], Any], default):
        path = folder / file
        if not path.is_file():
            return default
        try:
            return reader(path)
        except Exception as error:  # a damaged file raises nearly anything
            run.problems.append(f"{path} can't be read: {' '.join(f'{type(error).__name__}: {error}'.split())[:300]}")
            return default

    run.config = read("config.yaml", read_config, {})
    run.records, problems = read("metrics.jsonl", read_records, ([], []))
    run.problems += problems[:3]
    if len(problems) > 3:
        run.problems.append(f"{folder / 'metrics.jsonl'}: {len(problems) - 3} more lines are no records")
    run.results = read("results.json", read_results, None)
    run.classes = read("per_class.csv", read_classes, [])
    run.confusion = read("confusion.csv", read_confusion, None)
    run.predictions = read("predictions.npz", read_predictions, None)
    run.logs = read_logs(folder)

    counts = {len(run.classes), len(run.confusion) if run.confusion is not None else 0}
    counts.add(run.predictions.scores.shape[1] if run.predictions is not None else 0)
    if len(counts - {0}) > 1:
        run.problems.append(
            f"{folder}: per_class.csv, confusion.csv and predictions.npz are of different numbers of classes "
            f"({', '.join(map(str, sorted(counts - {0})))}); classes are numbered"
        )
        run.classes = []
    return run


def read_runs(folders: list[str]) -> list[Run]:
    """Several runs, with names that differ: as much of their paths as it takes. Raises UserError, see `read_run`."""
    paths = [Path(folder).resolve() for folder in folders]
    if len(set(paths)) < len(paths):
        twice = next(str(path) for index, path in enumerate(paths) if path in paths[:index])
        raise UserError(f"{twice} is named twice, expected different runs")
    depth = 1
    while len({path.parts[-depth:] for path in paths}) < len(paths):
        depth += 1
    return [
        read_run(folder, str(Path(*path.parts[-depth:]))) for folder, path in zip(folders, paths, strict=True)
    ]  # fmt: skip
