"""Runs to one HTML file: styles, scripts, data and pictures are inside, nothing is fetched.

Everything that comes from files is escaped: by Jinja in the markup, and in the data by JSON without <, > and &.
"""

import dataclasses
from collections.abc import Mapping, Sequence
from datetime import datetime
from pathlib import Path
from typing import Any

import jinja2
import numpy as np

from mvidx import __version__
from mvidx.checkpoint.paths import write_text
from mvidx.errors import UserError
from mvidx.report import analysis
from mvidx.report.analysis import Mistake, flatten, shown
from mvidx.report.pictures import picture
from mvidx.report.run import Run

ASSETS = Path(__file__).parent / "assets"
MAX_PAIRS = 50
NO_DEFAULT = ("OUTPUT_DIR",)  # differs in every run, and tells nothing


def environment() -> jinja2.Environment:
    """Jinja with escaping on, and undefined names as errors."""
    made = jinja2.Environment(
        loader=jinja2.FileSystemLoader(ASSETS), autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True
    )
    made.filters["percent"] = lambda value: "–" if value is None else f"{value:.2f}%"
    made.filters["ending"] = lambda path: path if len(path) <= 36 else f"…{path[-35:]}"
    return made


def cards(run: Run) -> list[tuple[str, str, str]]:
    """The figures at the top of a run: (what, value, remark)."""
    found = []
    if run.results is not None:
        results = run.results
        views = f"{results.get('num_temporal_views', '?')} views × {results.get('num_spatial_crops', '?')} crops"
        if results.get("shuffled_frames"):
            views += ", frames shuffled"
        found.append(("Test top-1", f"{results['top1']:.2f}%", views))
        found.append(("Test top-5", f"{results['top5']:.2f}%", views))
        failed = f"{results['num_failed']:,} unreadable" if results["num_failed"] else "all readable"
        found.append(("Test videos", f"{results['num_videos']:,}", failed))
    if (mean := analysis.mean_class_accuracy(run)) is not None:
        found.append(("Mean class accuracy", f"{mean:.2f}%", f"{len(run.classes)} classes"))
    if best := analysis.best_validation(run):
        found.append(("Best validation top-1", f"{best[0]:.2f}%", f"epoch {best[1]}, one view"))
    epochs = [record.get("epoch", 0) for record in run.records if record["kind"] == "train_epoch"]
    if epochs:
        wanted = run.config.get("SOLVER", {}).get("MAX_EPOCH")
        found.append(("Epochs", f"{max(epochs)}", f"of {wanted}" if wanted else ""))
    if (speed := analysis.median_speed(run)) is not None:
        found.append(("Training speed", f"{speed:,.1f}", "clips/s, median"))
    replaced = max((record.get("num_replaced") or 0 for record in run.records), default=0)
    if replaced:
        found.append(("Replaced videos", f"{replaced:,}", "unreadable in training"))
    return found


def matrix_cells(confusion: np.ndarray) -> list[int]:
    """[actual, predicted, videos, ...] of the cells that are not zero."""
    return np.column_stack([*np.nonzero(confusion), confusion[np.nonzero(confusion)]]).ravel().tolist()


def describe(run: Run, *, num_mistakes: int, num_pictures: int, roots: Sequence[Path], progress) -> dict[str, Any]:
    """What the template shows of one run."""
    mistakes, total = analysis.find_mistakes(run, num_mistakes)
    folders = [*roots, run.working_folder]
    pictured: list[Mistake] = mistakes[:num_pictures]
    for mistake in progress(pictured):
        mistake.picture, mistake.reason = picture(mistake.path, folders)
    pairs = [] if run.confusion is None else analysis.confused_pairs(run.confusion, MAX_PAIRS)
    return {
        "run": run,
        "cards": cards(run),
        "names": run.class_names,
        "pictured": pictured,
        "has_pictures": any(mistake.picture for mistake in pictured),
        "mistakes": mistakes,
        "num_mistakes": total,
        "pairs": pairs,
        "failures": (run.results or {}).get("failures", []),
        "class_mean": analysis.mean_class_accuracy(run),
        "config": {key: shown(value) for key, value in flatten(run.config).items()},
    }


def render(
    runs: Sequence[Run],
    *,
    defaults: Mapping[str, Any],
    title: str = "",
    num_mistakes: int = 300,
    num_pictures: int = 24,
    roots: Sequence[Path] = (),
    progress=lambda items: items,
) -> str:
    """The report of some runs as HTML.

    Args:
        runs: at least one.
        defaults: of the config, nested: what differs from them is marked.
        title: of the page; by default the names of the runs.
        num_mistakes: the most that are listed of each run.
        num_pictures: how many of them get a picture.
        roots: folders that recorded paths are also looked for in.
        progress: passes on what is iterated, for a bar.
    """
    described = [
        describe(run, num_mistakes=num_mistakes, num_pictures=num_pictures, roots=roots, progress=progress)
        for run in runs
    ]
    configs = [one["config"] for one in described]
    differing = [key for key in analysis.differing_keys(configs) if key not in NO_DEFAULT]
    data = {
        "charts": [dataclasses.asdict(chart) for chart in analysis.curves(runs)],
        "runs": [
            {
                "name": run.name,
                "classes": run.class_names,
                "cells": [] if run.confusion is None else matrix_cells(run.confusion),
            }
            for run in runs
        ],
    }
    return (
        environment()
        .get_template("report.html.j2")
        .render(
            title=title or ", ".join(run.name for run in runs),
            runs=described,
            data=data,
            defaults={key: shown(value) for key, value in flatten(defaults).items()},
            differing=differing,
            style=(ASSETS / "report.css").read_text(),
            script=(ASSETS / "report.js").read_text(),
            made=datetime.now().strftime("%Y-%m-%d %H:%M"),
            version=__version__,
        )
    )


def write_report(path: Path, html: str) -> None:
    """Write the page. Raises UserError where that is impossible; nothing half-written stays."""
    try:
        write_text(path, html)
    except OSError as error:
        raise UserError(f"cannot write {path}: {error.strerror}") from None
