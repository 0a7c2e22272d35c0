"""From a video to what a model scores: windows of time, and in each of them the clips of a test.

A whole video is one window, and gives exactly the views of a test. Frames are decoded in order, a group of windows
at a time, and kept (resized) as long as a later window wants them: each is decoded once, and memory does not grow with
the length of the video.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, IterableDataset, get_worker_info

from mvidx.data.errors import VideoError
from mvidx.data.loader import start_worker
from mvidx.data.read import ClipSampling
from mvidx.data.sampling import clip_span
from mvidx.data.transforms import as_clip, resize, resized_frame, take_crops, test_image
from mvidx.errors import UserError
from mvidx.inference.inputs import Input
from mvidx.models.card import Preprocessing

GROUP_FRAMES = 64
"""Frames that are asked for at once, if several windows together want as many."""


@dataclass(frozen=True)
class Windows:
    """How a video is cut in time.

    Attributes:
        seconds: length of a window; None for the whole video as one, or with `stride_seconds` a clip's own length.
        stride_seconds: from the start of one window to the next; None for no overlap and no gap.
    """

    seconds: float | None = None
    stride_seconds: float | None = None

    def __post_init__(self):
        for name, value in (("window", self.seconds), ("stride", self.stride_seconds)):
            if value is not None and not 0 < value < float("inf"):
                raise UserError(f"a {name} of {value} seconds, expected more than 0")

    @property
    def whole(self) -> bool:
        return self.seconds is None and self.stride_seconds is None

    def of(self, num_frames: int, fps: float, clip_seconds: float) -> list[tuple[int, int]]:
        """(first frame, frame after the last) of every window; one that would jut out ends with the video instead."""
        if self.whole:
            return [(0, num_frames)]
        seconds = clip_seconds if self.seconds is None else self.seconds
        length = min(max(1, round(seconds * fps)), num_frames)
        stride = max(1.0, (seconds if self.stride_seconds is None else self.stride_seconds) * fps)
        starts, start = [], 0.0
        while round(start) + length <= num_frames:
            starts.append(round(start))
            start += stride
        if starts[-1] + length < num_frames and round(start) < num_frames:
            starts.append(num_frames - length)
        return [(first, first + length) for first in starts]


@dataclass
class WindowClips:
    """One window of one input, ready for the model.

    Attributes:
        index: which input.
        number, num_windows: which window of it, and how many there are.
        start_seconds, end_seconds: of the window.
        duration_seconds: of the input.
        frames: int64 (views, T), numbers of the frames of every temporal view.
        fps: frames a second of the input.
        clips: uint8 (views * crops, 3, [T,] crop, crop), by view, then by crop; None where it can't be read.
        failure: why not.
    """

    index: int
    number: int
    num_windows: int
    start_seconds: float = 0.0
    end_seconds: float = 0.0
    duration_seconds: float = 0.0
    frames: np.ndarray | None = None
    fps: float = 0.0
    clips: Tensor | None = None
    failure: str | None = None

    @property
    def is_last(self) -> bool:
        return self.failure is not None or self.number == self.num_windows - 1


class _ResizedFrames:
    """Frames of an open video by number, resized; kept until they are dropped."""

    def __init__(self, video, preprocessing: Preprocessing):
        self.video = video
        self.preprocessing = preprocessing
        self.kept: dict[int, Tensor] = {}

    def fetch(self, numbers: Sequence[int]) -> None:
        """Decode those of the frames (ascending) that are not here yet, each scaled as soon as it is decoded."""
        missing = [number for number in numbers if number not in self.kept]
        if missing:
            frames = torch.from_numpy(self.video.get_frames(missing, transform=self._scaled))
            self.kept.update(zip(missing, as_clip(frames).unbind(), strict=True))

    def _scaled(self, frame: np.ndarray) -> np.ndarray:
        wanted = self.preprocessing
        if isinstance(wanted.resize, int):
            return resized_frame(frame, short_side=wanted.resize, antialias=wanted.antialias)
        return resize(as_clip(frame[None]), wanted.resize, antialias=wanted.antialias)[0].permute(1, 2, 0).numpy()

    def clip(self, numbers: Sequence[int]) -> Tensor:
        """uint8 (T, 3, H, W)."""
        return torch.stack([self.kept[number] for number in numbers])

    def drop_before(self, number: int) -> None:
        """Forget frames before this one, and let go of the memory that they came in."""
        self.kept = {key: frame.clone() for key, frame in self.kept.items() if key >= number}


class ClipWindows(IterableDataset):
    """The windows of a list of inputs; each worker takes whole inputs.

    Args:
        inputs: videos or images.
        preprocessing: what the model wants.
        windows: how videos are cut.
        backend: decoder, see `mvidx.data.decode.open_video`.
    """

    def __init__(
        self, inputs: Sequence[Input], preprocessing: Preprocessing, windows: Windows, *, backend: str = "decord"
    ):
        self.inputs = inputs
        self.preprocessing = preprocessing
        self.windows = windows
        self.backend = backend
        self.sampling = ClipSampling(
            num_frames=preprocessing.num_frames or 1,
            sampling_rate=preprocessing.sampling_rate,
            target_fps=preprocessing.target_fps,
            segments=preprocessing.segments,
            use_offset=preprocessing.use_offset,
        )

    def __iter__(self) -> Iterator[WindowClips]:
        worker = get_worker_info()
        first, step = (0, 1) if worker is None else (worker.id, worker.num_workers)
        for index in range(first, len(self.inputs), step):
            number = 0
            try:
                read = self._image if self.preprocessing.takes_images else self._video
                for window in read(index):
                    number = window.number + 1
                    yield window
            except VideoError as error:
                yield WindowClips(index, number, number + 1, failure=error.reason)

    def _image(self, index: int) -> Iterator[WindowClips]:
        wanted = self.preprocessing
        with self.inputs[index].open(images=True) as image:
            pixels = image.get_frames([0])
        crop = test_image(pixels, crop=wanted.crop, crop_ratio=wanted.crop_ratio, interpolation=wanted.interpolation)
        yield WindowClips(index, 0, 1, frames=np.zeros((1, 1), np.int64), fps=1.0, clips=crop)

    def _indices(self, first: int, stop: int, num_frames: int, fps: float) -> np.ndarray:
        """int64 (views, T): frames of the views of a window.

        A window that is shorter than a clip gives a clip around its middle, where the video has room.
        """
        length = stop - first
        if not self.sampling.segments:
            wanted = self.preprocessing
            span = int(np.ceil(clip_span(wanted.num_frames, wanted.sampling_rate, fps, wanted.target_fps)))
            if length < span:
                length = min(span, num_frames)
                first = min(max(0, round((first + stop - length) / 2)), num_frames - length)
        return first + self.sampling.views(length, fps, self.preprocessing.num_views)

    def _video(self, index: int) -> Iterator[WindowClips]:
        wanted = self.preprocessing
        crops = (1,) if wanted.num_crops == 1 else (0, 1, 2)
        with self.inputs[index].open(images=False, backend=self.backend) as video:
            num_frames, fps = video.num_frames, video.fps or wanted.target_fps
            spans = self.windows.of(num_frames, fps, wanted.clip_seconds)
            frames = _ResizedFrames(video, wanted)
            number, group_frames = 0, GROUP_FRAMES
            while number < len(spans):
                group: list[np.ndarray] = []
                needed: set[int] = set()
                while number + len(group) < len(spans) and (not group or len(needed) < group_frames):
                    indices = self._indices(*spans[number + len(group)], num_frames, fps)
                    group.append(indices)
                    needed.update(indices.ravel().tolist())
                frames.drop_before(min(needed))
                try:
                    frames.fetch(sorted(needed))
                except VideoError:
                    if len(group) == 1:
                        raise
                    group_frames = 1  # window by window, up to the damage
                    continue
                for indices in group:
                    first, stop = spans[number]
                    views = [
                        take_crops(frames.clip(view), crop=wanted.crop, spatial_idx=crops) for view in indices.tolist()
                    ]
                    yield WindowClips(
                        index,
                        number,
                        len(spans),
                        start_seconds=first / fps,
                        end_seconds=stop / fps,
                        duration_seconds=num_frames / fps,
                        frames=indices,
                        fps=fps,
                        clips=torch.cat(views),
                    )
                    number += 1


def clip_loader(dataset: ClipWindows, *, num_workers: int = 0) -> DataLoader:
    """`WindowClips` one at a time, decoded ahead by worker processes; 0 decodes in this one."""
    return DataLoader(
        dataset,
        batch_size=None,
        num_workers=min(num_workers, len(dataset.inputs)),
        worker_init_fn=start_worker if num_workers else None,
    )
