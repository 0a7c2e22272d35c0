"""Heat over frames, as videos and pictures, and plots of spectra."""

from collections.abc import Iterator, Sequence
from fractions import Fraction
from pathlib import Path

import cv2
import matplotlib
import numpy as np
from matplotlib.figure import Figure
from PIL import Image, ImageDraw

from mvidx.checkpoint.paths import write_atomically
from mvidx.errors import UserError
from mvidx.explain.attention import AttentionMap
from mvidx.explain.fourier import WHOLE, Spectrum
from mvidx.inference.draw import DARK, WHITE, font, shortened

COLOURS = "turbo"
STRENGTH = 0.65  # opacity of the hottest place
VIDEO_SIDE = 320  # pixels; smaller crops are enlarged
CAPTION = 30
MAX_COLUMNS = 8
MAX_HEADS = 6
CONCENTRATED = 4.0
LOWEST = -8.0  # of plots by depth; repeated cells have nothing at all at the highest frequency, far below
BRANCH_COLOURS = {"block": "#444444", "attention": "#d1493f", "convolution": "#2f62d9", "max pool": "#1f8a70"}


def overlaid(frames: np.ndarray, heat: np.ndarray) -> np.ndarray:
    """Heat over frames: uint8 (T, H, W, 3) and float (T, H, W) from 0 to 1 -> uint8 (T, H, W, 3).

    Cold places keep their picture; the hotter, the more of the heat's colour.
    """
    colours = matplotlib.colormaps[COLOURS](heat)[..., :3] * 255
    alpha = STRENGTH * np.clip(heat, 0, 1)[..., None] ** 0.7
    return (frames * (1 - alpha) + colours * alpha).round().astype(np.uint8)


def chosen_columns(count: int) -> np.ndarray:
    """Which of `count` frames are shown, at most MAX_COLUMNS, from the first to the last."""
    return np.unique(np.linspace(0, count - 1, min(count, MAX_COLUMNS)).round().astype(int))


def save_figure(figure: Figure, path: Path) -> None:
    """Write a figure as PNG. Raises UserError where that is impossible."""
    try:
        write_atomically(path, lambda name: figure.savefig(name, format="png", dpi=110, facecolor="white"))
    except OSError as error:
        raise UserError(f"cannot write {path}: {error.strerror or error}") from None


def write_heat_video(
    path: Path, frames: Iterator[np.ndarray], heat: Iterator[np.ndarray], *, fps: float, caption: str
) -> None:
    """The clip beside itself under its heat, as H.264 in MP4.

    Args:
        frames: uint8 (H, W, 3), one after the other.
        heat: float (H, W) from 0 to 1 of each.
        fps: frames a second.
        caption: a line above.
    """

    def write(name: str) -> None:
        import av

        with av.open(name, "w", format="mp4") as container:
            stream = None
            for frame, hot in zip(frames, heat, strict=True):
                scale = max(1.0, VIDEO_SIDE / min(frame.shape[:2]))
                height, width = (max(2, round(side * scale / 2) * 2) for side in frame.shape[:2])
                pair = [frame, overlaid(frame[None], hot[None])[0]]
                pair = [cv2.resize(one, (width, height), interpolation=cv2.INTER_CUBIC) for one in pair]
                picture = np.concatenate(pair, axis=1)
                if stream is None:
                    stream = container.add_stream("libx264", rate=Fraction(fps).limit_denominator(1001))
                    stream.width, stream.height, stream.pix_fmt = 2 * width, height + CAPTION, "yuv420p"
                    stream.options = {"crf": "18", "preset": "fast"}
                    band = caption_band(caption, 2 * width)
                picture = np.concatenate([band, picture])
                container.mux(stream.encode(av.VideoFrame.from_ndarray(picture, format="rgb24")))
            container.mux(stream.encode())

    try:
        write_atomically(path, write)
    except OSError as error:
        raise UserError(f"cannot write {path}: {error.strerror or error}") from None


def caption_band(text: str, width: int) -> np.ndarray:
    """uint8 (CAPTION, width, 3)."""
    band = Image.new("RGB", (width, CAPTION), DARK)
    face = font(16)
    ImageDraw.Draw(band).text((8, CAPTION // 2), shortened(text, width - 16, face), font=face, fill=WHITE, anchor="lm")
    return np.asarray(band)


def _picture(axes, picture: np.ndarray, title: str = "") -> None:
    axes.imshow(picture)
    axes.set_xticks([])
    axes.set_yticks([])
    axes.set_frame_on(False)
    if title:
        axes.set_title(title, fontsize=9, color="#444")


def heat_figure(frames: np.ndarray, heat: np.ndarray, *, seconds: Sequence[float], caption: str) -> Figure:
    """Frames, the same under their heat, and how hot each moment is.

    Args:
        frames: uint8 (T, H, W, 3); one frame is an image.
        heat: float (T, H, W), from 0 to 1.
        seconds: of each frame.
    """
    if len(frames) == 1:
        figure = Figure(figsize=(7.4, 4), layout="constrained")
        left, right = figure.subplots(1, 2)
        _picture(left, frames[0])
        _picture(right, overlaid(frames, heat)[0])
        figure.suptitle(caption, fontsize=11)
        return figure
    columns = chosen_columns(len(frames))
    figure = Figure(figsize=(1.55 * len(columns) + 0.3, 4.7), layout="constrained")
    grid = figure.add_gridspec(3, len(columns), height_ratios=(1, 1, 0.55))
    hot = overlaid(frames[columns], heat[columns])
    for place, number in enumerate(columns):
        _picture(figure.add_subplot(grid[0, place]), frames[number], f"{seconds[number]:.2f} s")
        _picture(figure.add_subplot(grid[1, place]), hot[place])
    axes = figure.add_subplot(grid[2, :])
    axes.fill_between(seconds, heat.mean((1, 2)), color="#d1493f", alpha=0.25, linewidth=0)
    axes.plot(seconds, heat.mean((1, 2)), color="#d1493f", marker="o", markersize=3)
    axes.set_ylim(0, None)
    axes.set_xlim(seconds[0], max(seconds[-1], seconds[0] + 1e-3))
    axes.set_ylabel("mean heat", fontsize=8)
    axes.set_xlabel("seconds", fontsize=8)
    axes.tick_params(labelsize=8)
    axes.spines[["top", "right"]].set_visible(False)
    figure.suptitle(caption, fontsize=11)
    return figure


def _as_heat(weights: np.ndarray, size: tuple[int, ...]) -> np.ndarray:
    """Weights over a grid, ([T',] H', W') -> (T, H, W) at `size`, from 0 to 1.

    1 is the largest weight, or CONCENTRATED times the mean where none is that large: even attention looks cool.
    """
    hottest = max(float(weights.max()), CONCENTRATED * float(weights[weights > 0].mean()) if weights.any() else 1e-12)
    weights = weights if weights.ndim == 3 else weights[None]
    frames = [cv2.resize(frame, size[::-1][:2], interpolation=cv2.INTER_LINEAR) for frame in weights]
    stacked = np.stack(frames)
    length = size[0] if len(size) == 3 else 1
    times = np.clip((np.arange(length) + 0.5) * len(stacked) / length - 0.5, 0, len(stacked) - 1)
    low = np.floor(times).astype(int)
    high = np.minimum(low + 1, len(stacked) - 1)
    share = (times - low)[:, None, None]
    heat = stacked[low] * (1 - share) + stacked[high] * share
    return heat / hottest


def _cross(axes, where: Sequence[float], shape: tuple[int, int]) -> None:
    """A mark at ([t,] y, x), fractions of the sides, of a picture."""
    y, x = where[-2] * shape[0], where[-1] * shape[1]
    axes.plot([x], [y], marker="o", markersize=9, markerfacecolor="none", markeredgecolor="white", markeredgewidth=2.6)
    axes.plot([x], [y], marker="o", markersize=9, markerfacecolor="none", markeredgecolor="black", markeredgewidth=1.1)


def attention_figure(frames: np.ndarray, maps: Sequence[AttentionMap], *, index: int, caption: str) -> Figure:
    """Attention over frames: of every block, what all queries attend to, and what one of them (or the token) does.

    Args:
        frames: uint8 (T, H, W, 3); one frame is an image, of which heads are shown too.
        maps: of the blocks.
        index: which clip of the maps' batch.
    """
    video = len(frames) > 1
    size = frames.shape[:3] if video else frames.shape[1:3]
    rows: list[tuple[str, list[np.ndarray], int | None]] = []  # (label, heat over what is shown, column of the query)
    columns = chosen_columns(len(frames)) if video else np.zeros(1, int)
    titles: list[str] = []
    for one in maps:
        kinds = [("all queries", one.received[index]), ("one query", one.point[index])]
        if one.token is not None:
            kinds.append(("class token", one.token[index]))
        middles = [(place + 0.5) / length for place, length in zip(one.where, one.query_size, strict=True)]
        if video:
            for label, weights in kinds:
                heat = _as_heat(weights.mean(0).cpu().numpy(), size)[columns]
                nearest = int(np.abs((columns + 0.5) / len(frames) - middles[0]).argmin())
                rows.append((f"{one.block}\n{label}", list(heat), nearest if label == "one query" else None))
            titles = [f"frame {number + 1}" for number in columns]
            continue
        heads = one.point[index][:MAX_HEADS]
        heat = [_as_heat(weights.mean(0).cpu().numpy(), size)[0] for _, weights in kinds]
        heat += [_as_heat(head.cpu().numpy(), size)[0] for head in heads]
        rows.append((one.block, heat, 1))
        names = [label for label, _ in kinds] + [f"head {number + 1}" for number in range(len(heads))]
        titles = names if len(names) > len(titles) else titles
    width = max(len(heat) for _, heat, _ in rows)
    figure = Figure(figsize=(1.45 * width + 1.7, 1.5 * len(rows) + 0.6), layout="constrained")
    grid = figure.add_gridspec(len(rows), width)
    where = {one.block: [(p + 0.5) / n for p, n in zip(one.where, one.query_size, strict=True)] for one in maps}
    titled = 0  # how many columns have their title: later blocks may have more heads
    for row, (label, heat, marked) in enumerate(rows):
        for column, hot in enumerate(heat):
            axes = figure.add_subplot(grid[row, column])
            frame = frames[columns[column]] if video else frames[0]
            _picture(axes, overlaid(frame[None], hot[None])[0], titles[column] if column >= titled else "")
            if column == marked:
                _cross(axes, where[label.split("\n")[0]], frame.shape[:2])
            if column == 0:
                axes.set_ylabel(label, rotation=0, ha="right", va="center", fontsize=8.5)
        titled = max(titled, len(heat))
    figure.suptitle(caption, fontsize=11)
    return figure


def fourier_figure(spectra: Sequence[Spectrum], *, caption: str) -> Figure:
    """Spectra by frequency and by depth, of the branches too, and where there are branches their planes."""
    blocks = [one for one in spectra if one.branch == WHOLE]
    branches = list(dict.fromkeys(one.branch for one in spectra if one.branch != WHOLE))
    timed = [one for one in blocks if one.time_high is not None]
    shown = [] if not branches else sorted({0, len(blocks) // 2, len(blocks) - 1})
    figure = Figure(figsize=(11.5, 3.7 + 2.1 * len(shown)), layout="constrained")
    parts = figure.subfigures(2, 1, height_ratios=(3.5, 2.1 * len(shown))) if shown else [figure]
    axes = parts[0].subplots(1, 3 if timed else 2)

    colours = matplotlib.colormaps["viridis"]
    deepest = max(one.depth for one in blocks)
    for one in blocks:
        colour = colours((one.depth - 1) / max(1, deepest - 1) * 0.92)
        axes[0].plot(one.frequencies, one.log_amplitude, color=colour, linewidth=1.4)
    scale = matplotlib.cm.ScalarMappable(matplotlib.colors.Normalize(1, max(2, deepest)), colours)
    bar = parts[0].colorbar(scale, ax=axes[0], shrink=0.85)
    bar.set_label("depth (block)", fontsize=8)
    bar.ax.yaxis.set_major_locator(matplotlib.ticker.MaxNLocator(integer=True))
    axes[0].set(title="Blocks, by frequency", xlabel="frequency (π)", ylabel="Δ log amplitude")

    for branch in (WHOLE, *branches):
        points = [(one.depth, one.high) for one in spectra if one.branch == branch]
        axes[1].plot(*zip(*points, strict=True), color=BRANCH_COLOURS[branch], marker="o", markersize=3.5, label=branch)
    axes[1].set(title="Highest frequency, by depth", xlabel="depth (block)", ylabel="Δ log amplitude at π")
    axes[1].legend(fontsize=8, frameon=False)
    if timed:
        for branch in (WHOLE, *branches):
            points = [
                (one.depth, one.time_high) for one in spectra if one.branch == branch and one.time_high is not None
            ]
            axes[2].plot(*zip(*points, strict=True), color=BRANCH_COLOURS[branch], marker="o", markersize=3.5)
        axes[2].set(title="Highest frequency of time, by depth", xlabel="depth (block)", ylabel="Δ log amplitude")
    for one in axes:
        one.grid(alpha=0.25)
        one.spines[["top", "right"]].set_visible(False)
        one.title.set_fontsize(10)
        one.tick_params(labelsize=8)
    for one in axes[1:]:
        one.set_ylim(max(one.get_ylim()[0], LOWEST), None)
        one.xaxis.set_major_locator(matplotlib.ticker.MaxNLocator(integer=True))

    if shown:
        planes = parts[1].subplots(len(shown), len(branches) + 1, squeeze=False)
        for row, number in enumerate(shown):
            name = blocks[number].block
            for column, branch in enumerate((*branches, WHOLE)):
                one = next(s for s in spectra if s.block == name and s.branch == branch)
                plane = one.plane - one.plane.max()
                axis = planes[row][column]
                drawn = axis.imshow(plane, cmap="magma", vmin=-6, vmax=0, extent=(-1, 1, 1, -1))
                axis.set_xticks([-1, 0, 1], ["−π", "0", "π"], fontsize=7)
                axis.set_yticks([-1, 0, 1], ["−π", "0", "π"], fontsize=7)
                if row == 0:
                    axis.set_title(branch, fontsize=9)
                if column == 0:
                    axis.set_ylabel(name, fontsize=8)
        parts[1].colorbar(drawn, ax=planes, shrink=0.8, label="log amplitude")
    figure.suptitle(caption, fontsize=11)
    return figure
