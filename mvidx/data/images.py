"""Images and folders of frames, read as if each were a video: a list of them, and what opens one."""

import os
import re
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import nullcontext
from dataclasses import dataclass
from functools import partial

import cv2
import numpy as np
from iopath.common.file_io import g_pathmgr

from mvidx.data.annotations import DataError, VideoList
from mvidx.data.errors import VideoError

READING_THREADS = 4


def missing_or_empty(path: str) -> str | None:
    """What is plainly wrong with a file, without decoding it."""
    try:
        size = os.path.getsize(g_pathmgr.get_local_path(path))
    except OSError:
        return "does not exist"
    return None if size else "is empty"


def read_image(path: str) -> np.ndarray:
    """uint8 (H, W, 3), red first. Raises VideoError for what is no image."""
    from PIL import Image

    try:
        with g_pathmgr.open(path, "rb") as file, Image.open(file) as image:
            return np.asarray(image.convert("RGB"))
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        reason = "does not exist" if isinstance(error, FileNotFoundError) else f"not a readable image ({error})"
        raise VideoError(path, reason) from None


def read_frame(path: str) -> np.ndarray:
    """uint8 (H, W, 3), red first: decoded by OpenCV, as PySlowFast reads frames, with red first instead of blue."""
    try:
        with g_pathmgr.open(path, "rb") as file:
            content = np.frombuffer(file.read(), np.uint8)
    except OSError as error:
        raise VideoError(path, error.strerror or str(error)) from None
    frame = cv2.imdecode(content, cv2.IMREAD_COLOR) if len(content) else None
    if frame is None:
        raise VideoError(path, "not a readable image")
    return cv2.cvtColor(frame, cv2.COLOR_BGR2RGB)


@dataclass
class Frames:
    """A video that lies in single files; has what `decode.open_video` gives.

    Attributes:
        paths: of the frames, in their order.
        fps: frames a second; unknown for a folder, where segments are sampled.
    """

    paths: Sequence[str]
    fps: float = 30.0
    decoder: str = "opencv"

    @property
    def num_frames(self) -> int:
        return len(self.paths)

    def get_frames(self, indices: Sequence[int], *, transform: Callable | None = None) -> np.ndarray:
        """uint8 (N, H, W, 3); each file is read once, several at a time, and goes through `transform`."""
        needed, place = np.unique(np.asarray(indices), return_inverse=True)

        def read(index: int) -> np.ndarray:
            frame = read_frame(self.paths[index])
            return frame if transform is None else transform(frame)

        with ThreadPoolExecutor(READING_THREADS) as pool:
            frames = list(pool.map(read, needed))
        sizes = {frame.shape for frame in frames}
        if len(sizes) > 1:
            raise VideoError(self.paths[0], f"its frames have several sizes: {sorted(sizes)}")
        return np.stack(frames)[place.ravel()]


class ImageList(VideoList):
    """Images with labels; each opens as a video of one frame."""

    def problem(self, index: int) -> str | None:
        return missing_or_empty(self.path(index))

    def opener(self, index: int, backend: str = "") -> Callable:
        return partial(open_image, self.path(index))


@dataclass
class StillImage:
    """An image as a video of one frame."""

    pixels: np.ndarray
    fps: float = 1.0
    num_frames: int = 1
    decoder: str = "pillow"

    def get_frames(self, indices: Sequence[int], *, transform: Callable | None = None) -> np.ndarray:
        """uint8 (N, H, W, 3): the image, through `transform` if there is one, N times."""
        pixels = self.pixels if transform is None else transform(self.pixels)
        return np.repeat(pixels[None], len(indices), axis=0)


def open_image(path: str):
    """A context manager that gives the image at `path` as a `StillImage`. Raises VideoError for what is no image."""
    return nullcontext(StillImage(read_image(path)))


class FrameLists(VideoList):
    """Videos as lists of frames. Numbered files are kept as a pattern: millions of paths take little memory.

    Args:
        frames: the paths of each video's frames, in order.
        labels, source, rows: see `VideoList`.
    """

    def __init__(self, frames: Sequence[Sequence[str]], labels: Sequence[int], *, source: str = ""):
        patterns = [_pattern(paths) for paths in frames]
        super().__init__([pattern[0] for pattern in patterns], labels, source=source)
        self.ranges = np.array([pattern[1:] for pattern in patterns], np.int64).reshape(-1, 2)
        self.irregular = {i: list(paths) for i, paths in enumerate(frames) if not patterns[i][0].count("%")}

    def path(self, index: int) -> str:
        """Folder of the frames of a video."""
        path = super().path(index)
        return path if index in self.irregular else os.path.dirname(path)

    def frame_paths(self, index: int) -> Sequence[str]:
        """Paths of the frames of a video."""
        if index in self.irregular:
            return self.irregular[index]
        first, count = self.ranges[index].tolist()
        pattern = super().path(index)
        return [pattern % number for number in range(first, first + count)]

    def problem(self, index: int) -> str | None:
        return missing_or_empty(self.frame_paths(index)[0])

    def opener(self, index: int, backend: str = "") -> Callable:
        return partial(nullcontext, Frames(self.frame_paths(index)))


def _pattern(paths: Sequence[str]) -> tuple[str, int, int]:
    """(pattern, first, count) such that pattern % number gives the paths; the folder alone where there is none."""
    match = re.fullmatch(r"(.*?)(\d+)(\.\w+)", paths[0])
    if match and "%" not in paths[0]:
        head, digits, tail = match.groups()
        pattern = f"{head}%0{len(digits)}d{tail}"
        first = int(digits)
        if all(pattern % (first + i) == path for i, path in enumerate(paths)):
            return pattern, first, len(paths)
    return os.path.dirname(paths[0]).replace("%", "_"), 0, 0


FRAME_LIST_HEADER = "original_vido_id"


def is_frame_list(file: str) -> bool:
    """Whether a file is one of PySlowFast's frame lists rather than a list of videos."""
    with g_pathmgr.open(file, "r") as lines:
        return lines.readline().startswith(FRAME_LIST_HEADER)


def read_frame_lists(file: str, *, prefix: str = "", root: str = "") -> dict[str, list[str]]:
    """PySlowFast's frame lists, rows of `original_vido_id video_id frame_id path labels`: {video: paths}.

    Args:
        file: begins with a row of those names.
        prefix: folder put before every path.
        root: folder that relative paths are looked for in when the first is not found as it stands.
    """
    videos: dict[str, list[str]] = {}
    with g_pathmgr.open(file, "r") as lines:
        next(lines)
        for number, line in enumerate(lines, start=2):
            row = line.split()
            if not row:
                continue
            if len(row) not in (4, 5):
                raise DataError(
                    f"{file}, row {number}: {line.strip()!r}, expected 'original_vido_id video_id frame_id path labels'"
                )
            videos.setdefault(row[0], []).append(os.path.join(prefix, row[3]) if prefix else row[3])
    if not videos:
        raise DataError(f"frame list {file} is empty")
    first = next(iter(videos.values()))[0]
    if root and not os.path.isabs(first) and not os.path.exists(first):
        videos = {name: [os.path.join(root, path) for path in paths] for name, paths in videos.items()}
    return videos
