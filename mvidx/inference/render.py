"""A video with what a model says about it drawn in, as H.264 in MP4 (without its sound)."""

from fractions import Fraction

import cv2
import numpy as np
from tqdm import tqdm

from mvidx.checkpoint.paths import write_atomically
from mvidx.errors import UserError
from mvidx.inference.draw import WHITE, blend, covering, label_panel, mean_top, timeline_strip
from mvidx.inference.inputs import Input
from mvidx.inference.predict import Prediction

DECODED_BYTES = 64 << 20
SMALLEST_SIDE = 360
"""Videos with a shorter side are enlarged: labels would have no room."""
LARGEST_SIDE = 1080
"""Videos with a longer short side are reduced."""


def _even_size(height: int, width: int) -> tuple[int, int]:
    """(height, width) of what is written: even, as H.264 with 4:2:0 wants it, with a short side within the limits."""
    short = min(height, width)
    scale = max(1.0, SMALLEST_SIDE / short) if short < LARGEST_SIDE else LARGEST_SIDE / short
    return tuple(max(2, round(side * scale / 2) * 2) for side in (height, width))


class _Labels:
    """Draws what the windows of a prediction say onto frames."""

    def __init__(self, prediction: Prediction, height: int, width: int):
        self.windows = prediction.windows
        self.size = height, width
        self.seconds = prediction.duration_seconds
        self.panels: dict[tuple[int, ...], np.ndarray] = {}
        self.last = (0,)
        self.strip_height = max(14, height // 24)
        several = len(self.windows) > 1
        self.strip = timeline_strip(self.windows, self.seconds, width, self.strip_height) if several else None

    def draw(self, frame: np.ndarray, seconds: float) -> None:
        """Onto uint8 (H, W, 3), the frame at this time, in place. Between windows the one before counts."""
        height, width = self.size
        self.last = numbers = covering(self.windows, seconds) or self.last
        if numbers not in self.panels:
            self.panels = {numbers: label_panel(mean_top(self.windows, numbers), width, height)}
        margin = max(3, height // 60)
        blend(frame, self.panels[numbers], margin, margin)
        if self.strip is not None:
            frame[height - self.strip_height :] = self.strip
            here = min(width - 1, round(seconds / self.seconds * width))
            frame[height - self.strip_height - 2 :, max(0, here - 1) : here + 1] = WHITE


def write_labelled_video(
    one: Input, prediction: Prediction, target: str, *, backend: str = "decord", progress: bool = False
) -> None:
    """Write the video of a prediction with its labels to `target`, frame by frame at its mean rate.

    Raises:
        VideoError: a frame can't be decoded.
        UserError: `target` can't be written.
    """

    def write(name: str) -> None:
        import av

        with one.open(images=False, backend=backend) as video:
            count, fps = video.num_frames, video.fps or 30.0
            first = video.get_frames([0])
            height, width = _even_size(*first.shape[1:3])
            labels = _Labels(prediction, height, width)
            at_once = max(1, DECODED_BYTES // first.nbytes)
            bar = tqdm(total=count, unit="frame", desc="rendering", disable=not progress, leave=False)
            with av.open(name, "w", format="mp4") as container, bar:
                stream = container.add_stream("libx264", rate=Fraction(fps).limit_denominator(1001))
                stream.width, stream.height, stream.pix_fmt = width, height, "yuv420p"
                stream.options = {"crf": "20", "preset": "fast"}
                for start in range(0, count, at_once):
                    frames = video.get_frames(np.arange(start, min(start + at_once, count)))
                    for number, frame in enumerate(frames, start):
                        if frame.shape[:2] != (height, width):
                            smooth = cv2.INTER_AREA if height < frame.shape[0] else cv2.INTER_CUBIC
                            frame = cv2.resize(frame, (width, height), interpolation=smooth)
                        frame = np.ascontiguousarray(frame)
                        frame = frame if frame.flags.writeable else frame.copy()
                        labels.draw(frame, (number + 0.5) / fps)
                        container.mux(stream.encode(av.VideoFrame.from_ndarray(frame, format="rgb24")))
                        bar.update()
                container.mux(stream.encode())

    try:
        write_atomically(target, write)
    except OSError as error:
        raise UserError(f"cannot write {target}: {error.strerror or error}") from None
