"""A contact sheet: the frames that a model saw of a video, view by view, with what it said about each."""

from collections.abc import Sequence
from dataclasses import dataclass

import cv2
import numpy as np
from PIL import Image, ImageDraw

from mvidx.checkpoint.paths import write_atomically
from mvidx.inference.clips import WindowClips
from mvidx.inference.draw import DARK, GREY, WHITE, colour, font, shortened
from mvidx.inference.predict import ClassScore, Prediction, top_classes
from mvidx.models.card import ModelCard

THUMB = 112
COLUMNS = 16
MAX_ROWS = 24
GAP = 4
CAPTION = 22


@dataclass
class _Row:
    """Thumbnails of a view, uint8 (THUMB, THUMB, 3) each, their times, and the view's likeliest class."""

    caption: str
    thumbs: list[np.ndarray]
    seconds: list[float]
    best: ClassScore


class Sheets:
    """Collects what is scored, and writes the sheet of an input when its prediction is there.

    Args:
        card: of the model; its preprocessing tells crops apart.
    """

    def __init__(self, card: ModelCard):
        self.card = card
        self.rows: dict[int, list[_Row]] = {}
        self.left_out: dict[int, int] = {}

    def add(self, window: WindowClips, scores: np.ndarray) -> None:
        """Keep small copies of the clips of a window; of many windows, some at even distances.

        Args:
            window: with clips uint8 (views * crops, 3, [T,] crop, crop).
            scores: (views, classes).
        """
        num_views = len(scores)
        wanted = max(1, MAX_ROWS // (len(window.clips)))
        kept = np.unique(np.linspace(0, window.num_windows - 1, wanted).round().astype(int))
        if window.num_windows > wanted and window.number not in kept:
            self.left_out[window.index] = self.left_out.get(window.index, 0) + 1
            return
        clips = window.clips.numpy()
        if clips.ndim == 4:
            clips = clips[:, :, None]  # an image is a clip of one frame
        num_crops = len(clips) // num_views
        names = self.card.names(scores.shape[1])
        for place, clip in enumerate(clips):
            view, crop = divmod(place, num_crops)
            frames = np.ascontiguousarray(clip.transpose(1, 2, 3, 0))
            thumbs = [cv2.resize(frame, (THUMB, THUMB), interpolation=_smooth(frame)) for frame in frames]
            seconds = (window.frames[view] / window.fps).tolist()
            parts = []
            if window.num_windows > 1:
                parts.append(f"window {window.number + 1} of {window.num_windows}")
            if num_views > 1:
                parts.append(f"view {view + 1} of {num_views}")
            if num_crops > 1:
                parts.append(f"crop {crop + 1} of {num_crops}")
            if clip.shape[1] > 1:
                parts.append(f"{seconds[0]:.2f} to {seconds[-1]:.2f} s")
            best = top_classes(scores[view], names, 1)[0]
            self.rows.setdefault(window.index, []).append(_Row(", ".join(parts), thumbs, seconds, best))

    def write(self, index: int, prediction: Prediction, target: str) -> None:
        """Write the sheet of an input to a PNG file."""
        picture = draw_sheet(prediction, self.rows.pop(index), num_left_out=self.left_out.pop(index, 0))
        write_atomically(target, lambda name: picture.save(name, format="PNG"))


def _smooth(frame: np.ndarray) -> int:
    return cv2.INTER_AREA if frame.shape[0] > THUMB else cv2.INTER_CUBIC


def draw_sheet(prediction: Prediction, rows: Sequence[_Row], *, num_left_out: int = 0) -> Image.Image:
    """The picture: a title, then each row's caption and its frames in lines of up to COLUMNS."""
    columns = min(COLUMNS, max(len(row.thumbs) for row in rows))
    width = max(columns * (THUMB + GAP) + GAP, 640)
    lines = [-(-len(row.thumbs) // columns) for row in rows]
    timed = len(rows[0].thumbs) > 1
    line_height = THUMB + (14 if timed else 0) + GAP
    title = 64 if len(rows) > 1 or num_left_out or timed else 44
    picture = Image.new("RGB", (width, title + sum(CAPTION + n * line_height for n in lines) + GAP), DARK)
    draw = ImageDraw.Draw(picture)
    large, small, tiny = font(18), font(14), font(11)
    draw.text((GAP * 2, 8), shortened(prediction.path, width - 16, large), font=large, fill=WHITE)
    summary = "   ".join(f"{score.name} {100 * score.probability:.1f}%" for score in prediction.top)
    draw.text((GAP * 2, 34), shortened(summary, width - 16, small), font=small, fill=GREY)
    y = title
    for row, count in zip(rows, lines, strict=True):
        says = f"{row.best.name} {100 * row.best.probability:.1f}%"
        draw.rectangle((GAP * 2, y + 5, GAP * 2 + 10, y + 15), fill=colour(row.best.label))
        draw.text((GAP * 2 + 18, y + 2), says, font=small, fill=WHITE)
        after = GAP * 2 + 18 + int(small.getlength(says)) + 16
        draw.text((after, y + 2), shortened(row.caption, max(0, width - after - 8), small), font=small, fill=GREY)
        y += CAPTION
        for place, thumb in enumerate(row.thumbs):
            x, top = GAP + place % columns * (THUMB + GAP), y + place // columns * line_height
            picture.paste(Image.fromarray(thumb), (x, top))
            if timed:
                draw.text((x + 2, top + THUMB + 1), f"{row.seconds[place]:.2f} s", font=tiny, fill=GREY)
        y += count * line_height
    if num_left_out:
        draw.text((width - 8, 36), f"{num_left_out} windows not shown", font=small, fill=GREY, anchor="ra")
    return picture
