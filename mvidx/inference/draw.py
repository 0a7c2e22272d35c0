"""Labels drawn with Pillow: a panel of the likeliest classes, and a strip of what a video shows when."""

from bisect import bisect_right
from collections.abc import Sequence

import numpy as np
from PIL import Image, ImageDraw, ImageFont

WHITE, GREY, DARK = (255, 255, 255), (176, 176, 176), (16, 16, 16)
# Okabe and Ito's colours, which those who see colours differently can tell apart, and lighter ones of the same.
PALETTE = (
    *((230, 159, 0), (86, 180, 233), (0, 158, 115), (240, 228, 66), (0, 114, 178), (213, 94, 0), (204, 121, 167)),
    *((255, 207, 110), (168, 216, 244), (110, 205, 178), (120, 180, 220), (240, 160, 110), (230, 180, 205)),
)


def colour(label: int) -> tuple[int, int, int]:
    """The colour of a class, the same in every picture."""
    return PALETTE[label % len(PALETTE)]


def font(pixels: int) -> ImageFont.FreeTypeFont:
    """Pillow's own font, at this height."""
    return ImageFont.load_default(pixels)


def shortened(text: str, width: int, face: ImageFont.FreeTypeFont) -> str:
    """`text`, cut to a width in pixels."""
    if face.getlength(text) <= width:
        return text
    while text and face.getlength(text + "...") > width:
        text = text[:-1]
    return text + "..."


def label_panel(scores: Sequence, width: int, height: int) -> np.ndarray:
    """A panel for the corner of a picture: name, bar and percentage of each class, uint8 (h, w, 4), the last opacity.

    Args:
        scores: `ClassScore`s, the likeliest first.
        width, height: of the picture; the panel takes at most half of its height and nearly all of its width.
    """
    rows = max(1, min(len(scores), (height // 2) // 14))
    size = max(11, min(height // 22, (height // 2) // rows - 3))
    face, line, margin = font(size), size + 5, max(3, size // 3)
    number = int(face.getlength("100.0%"))
    room = width - 6 * margin
    longest = max(int(face.getlength(score.name)) for score in scores[:rows])
    names = max(20, min(longest, room - number - 2 * size))
    bars = max(0, min(5 * size, room - names - number))
    panel_width = min(width, names + bars + number + 4 * margin)
    panel = Image.new("RGBA", (panel_width, rows * line + 2 * margin), (*DARK, 176))
    draw = ImageDraw.Draw(panel)
    for row, score in enumerate(scores[:rows]):
        y = margin + row * line
        shade = WHITE if row == 0 else GREY
        draw.text((margin, y), shortened(score.name, names, face), font=face, fill=(*shade, 255))
        left = margin + names + margin
        draw.rectangle((left, y + 3, left + bars, y + size), fill=(70, 70, 70, 255))
        if filled := round(bars * min(1.0, score.probability)):
            draw.rectangle((left, y + 3, left + filled, y + size), fill=(*colour(score.label), 255))
        draw.text(
            (panel_width - margin, y), f"{100 * score.probability:.1f}%", font=face, fill=(*shade, 255), anchor="ra"
        )
    return np.asarray(panel)


def timeline_strip(windows: Sequence, seconds: float, width: int, height: int) -> np.ndarray:
    """Coloured bands of what each moment shows most, stronger where that is surer: uint8 (height, width, 3).

    Args:
        windows: `WindowPrediction`s in the order of time; where they overlap, the mean of their scores counts.
        seconds: of the whole video.
    """
    strip = Image.new("RGB", (width, height), DARK)
    draw = ImageDraw.Draw(strip)
    face = font(max(9, min(height - 4, 16)))
    moments = (np.arange(width) + 0.5) / width * seconds
    shown = [covering(windows, moment) for moment in moments]
    x = 0
    while x < width:
        stop = x + 1
        while stop < width and shown[stop] == shown[x]:
            stop += 1
        if shown[x]:
            best = mean_top(windows, shown[x])[0]
            strength = 0.35 + 0.65 * best.probability
            draw.rectangle((x, 0, stop - 1, height), fill=tuple(round(strength * c) for c in colour(best.label)))
        x = stop
    # a name where its band has room for it
    bands, start = [], 0
    names = [mean_top(windows, numbers)[0].name if numbers else None for numbers in shown]
    for x in range(1, width + 1):
        if x == width or names[x] != names[start]:
            bands.append((start, x, names[start]))
            start = x
    for start, stop, name in bands:
        if name and face.getlength(name) + 6 <= stop - start:
            draw.text(
                (start + 3, height // 2), name, font=face, fill=WHITE, anchor="lm", stroke_width=2, stroke_fill=DARK
            )
    return np.asarray(strip)


def covering(windows: Sequence, moment: float) -> tuple[int, ...]:
    """Which windows a moment lies in, by their numbers. Both their starts and their ends ascend."""
    first = bisect_right(windows, moment, key=lambda window: window.end_seconds)
    return tuple(range(first, bisect_right(windows, moment, key=lambda window: window.start_seconds)))


def mean_top(windows: Sequence, numbers: Sequence[int]) -> tuple:
    """`ClassScore`s by the mean scores of some windows: of the classes that are among the likeliest of any of them."""
    if len(numbers) == 1:
        return windows[numbers[0]].top
    named = {score.label: score for number in numbers for score in windows[number].top}
    means = {label: float(np.mean([windows[n].scores[label] for n in numbers])) for label in named}
    order = sorted(means, key=lambda label: -means[label])[: len(windows[numbers[0]].top)]
    kind = type(next(iter(named.values())))
    return tuple(kind(label, named[label].name, means[label]) for label in order)


def blend(picture: np.ndarray, overlay: np.ndarray, top: int, left: int) -> None:
    """Lay uint8 (h, w, 4) over a picture, uint8 (H, W, 3), in place; what juts out is cut."""
    target = picture[top : top + overlay.shape[0], left : left + overlay.shape[1]]
    overlay = overlay[: target.shape[0], : target.shape[1]].astype(np.uint16)
    alpha = overlay[..., 3:]
    target[:] = ((overlay[..., :3] * alpha + target * (255 - alpha) + 127) // 255).astype(np.uint8)
