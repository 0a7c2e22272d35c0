"""Plots of how time and memory grow."""

import os
from collections.abc import Sequence

from matplotlib.figure import Figure

from mvidx.benchmark.common import straight_line
from mvidx.checkpoint.paths import write_atomically
from mvidx.errors import UserError

MEBIBYTE = 2**20


def plot_growth(path: str | os.PathLike, rows: Sequence[dict], key: str, title: str) -> None:
    """Draw time and peak memory of both sides against a swept value, and a straight line through our memory.

    Args:
        path: of the image; its ending says the format.
        rows: of `mvidx.benchmark.model.measure`, one a value and model.
        key: name of the swept value, in `rows`.
        title: above the plot.

    Raises:
        UserError: the file can't be written.
    """
    has_memory = "ours_peak_bytes" in rows[0]
    figure = Figure(figsize=(11 if has_memory else 6, 4.5), layout="constrained")
    panels = figure.subplots(1, 1 + has_memory, squeeze=False)[0]
    names = list(dict.fromkeys(row["model"] for row in rows))
    for name in names:
        own = [row for row in rows if row["model"] == name]
        values = [row[key] for row in own]
        sides = {"ours": f"mvidx {name}"}
        if own[0]["against"]:
            sides["theirs"] = f"{own[0]['against']} {own[0]['against_model']}"
        for side, label in sides.items():
            measured = [row for row in own if f"{side}_seconds" in row]
            axis = [row[key] for row in measured]
            panels[0].plot(axis, [row[f"{side}_seconds"] for row in measured], marker="o", label=label)
            if has_memory:
                memory = [row[f"{side}_peak_bytes"] / MEBIBYTE for row in measured]
                panels[1].plot(axis, memory, marker="o", label=label)
        if has_memory:
            slope, start = straight_line(values, [row["ours_peak_bytes"] / MEBIBYTE for row in own])
            line = [start + slope * value for value in values]
            panels[1].plot(values, line, color="grey", linestyle=":", label="straight line through ours")
    for panel, unit in zip(panels, ("seconds", "peak memory, MiB"), strict=False):
        panel.set(xlabel=key, ylabel=unit, xlim=(0, None), ylim=(0, None))
        panel.legend()
        panel.grid(alpha=0.3)
    figure.suptitle(title, fontsize=10)
    try:
        kind = os.path.splitext(path)[1].lstrip(".").lower() or "png"
        write_atomically(path, lambda name: figure.savefig(name, format=kind, dpi=110))
    except (OSError, ValueError) as error:
        raise UserError(f"cannot write {path}: {error}") from None
