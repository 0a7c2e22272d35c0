"""Datasets of videos: training clips, and test videos with all their views from one decode.

An item is asked for as (epoch, index). Everything random in it comes from a generator seeded by (seed,
epoch, index), so clips and augmentations do not depend on the number of workers or processes, nor on
where a run was resumed.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from functools import partial

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset

from mvidx.data.annotations import VideoList
from mvidx.data.errors import VideoError
from mvidx.data.guard import decode_with_timeout
from mvidx.data.read import ClipSampling, read_random_clip, read_views
from mvidx.data.transforms import TrainImageTransform, TrainTransform, crop_offset, test_image

MAX_REPLACEMENTS = 10


@dataclass
class Views:
    """The views of a test video as a sequence of clips, which are cut out when they are asked for.

    Views share most of their pixels: 30 of them weigh as much as the frames that they are made of.

    Attributes:
        frames: uint8 (N, 3, h, w), each once.
        rows: int64 (temporal views, T), which frames a temporal view has.
        offsets: (top, left) of the crops of each temporal view.
        crop: their side in pixels.
    """

    frames: Tensor
    rows: Tensor
    offsets: Sequence[tuple[int, int]]
    crop: int

    @classmethod
    def of(cls, frames: Tensor, rows: Tensor, offsets: Sequence[tuple[int, int]], crop: int) -> "Views":
        """From frames uint8 (N, H, W, 3); what no crop covers is left out."""
        top, left = (min(offset[axis] for offset in offsets) for axis in (0, 1))
        bottom, right = (max(offset[axis] for offset in offsets) + crop for axis in (0, 1))
        covered = frames[:, top:bottom, left:right].permute(0, 3, 1, 2).contiguous()
        return cls(covered, rows, [(y - top, x - left) for y, x in offsets], crop)

    def __len__(self) -> int:
        return len(self.rows) * len(self.offsets)

    def __getitem__(self, index: int) -> Tensor:
        """View `index`, uint8 (3, T, crop, crop), memory of its own; views are ordered by time, then by crop."""
        shape = (self.frames.shape[1], self.rows.shape[1], self.crop, self.crop)
        return self.write(index, torch.empty(shape, dtype=torch.uint8, device=self.frames.device))

    def write(self, index: int, out: Tensor) -> Tensor:
        """Write view `index` into `out`, uint8 (3, T, crop, crop), and return it."""
        if not 0 <= index < len(self):
            raise IndexError(f"view {index} of {len(self)}")
        time, crop = divmod(index, len(self.offsets))
        top, left = self.offsets[crop]
        region = self.frames[:, :, top : top + self.crop, left : left + self.crop]
        if region.is_cuda:
            return out.copy_(region[self.rows[time]].transpose(0, 1))
        for frame, row in zip(out.unbind(1), self.rows[time].tolist(), strict=True):  # no copy between the two
            frame.copy_(region[row])
        return out

    def to(self, device: torch.device, *, non_blocking: bool = False) -> "Views":
        """The views on a device."""
        frames, rows = (t.to(device, non_blocking=non_blocking) for t in (self.frames, self.rows))
        return replace(self, frames=frames, rows=rows)

    def pin_memory(self) -> "Views":
        """The views in page-locked memory."""
        return replace(self, frames=self.frames.pin_memory(), rows=self.rows.pin_memory())


@dataclass
class Sample:
    """One item of a loader.

    Attributes:
        clips: uint8 (N, 3, [T,] H, W): the augmented clips of a training video or a test image, or the `Views` of a
            test video; None when it could not be read.
        label: class, or the row of a multi-label target.
        index: which video of the list.
        failures: (path, reason) of videos that could not be read.
        decoder: what decoded it.
    """

    clips: Tensor | Views | None
    label: int
    index: int
    failures: list[tuple[str, str]] = field(default_factory=list)
    decoder: str = ""


class TrainVideos(Dataset):
    """Random clips of a list of videos; an unreadable video is replaced by another one and reported.

    Args:
        videos: the list.
        clip: how frames are picked.
        transform: frames uint8 (T, H, W, 3) and a generator -> uint8 (3, T, H, W), of images (3, H, W).
        backend: decoder, see `mvidx.data.decode.open_video`.
        seed: of every draw.
        num_augmentations: clips from one decode (repeated augmentation).
        timeout_seconds: a video that takes longer counts as unreadable; 0 for no limit.
    """

    def __init__(
        self,
        videos: VideoList,
        *,
        clip: ClipSampling,
        transform: TrainTransform | TrainImageTransform | Callable[[np.ndarray, np.random.Generator], Tensor],
        backend: str = "decord",
        seed: int = 0,
        num_augmentations: int = 1,
        timeout_seconds: float = 0,
    ):
        self.videos = videos
        self.clip = clip
        self.transform = transform
        self.backend = backend
        self.seed = seed
        self.num_augmentations = num_augmentations
        self.timeout_seconds = timeout_seconds

    def __len__(self) -> int:
        return len(self.videos)

    def __getitem__(self, item: tuple[int, int]) -> Sample:
        """The sample of (epoch, index). Raises VideoError when no replacement can be read either."""
        epoch, index = item
        rng = np.random.default_rng((self.seed, epoch, index))
        failures: list[tuple[str, str]] = []
        each_frame = getattr(self.transform, "each_frame", None)
        while True:
            try:
                frames, decoder, rng = decode_with_timeout(
                    read_random_clip,
                    self.videos.opener(index, self.backend),
                    self.clip,
                    rng,
                    each_frame,
                    timeout_seconds=self.timeout_seconds,
                    path=self.videos.path(index),
                )
                break
            except VideoError as error:
                failures.append((self.videos.path(index), error.reason))
                if len(failures) > MAX_REPLACEMENTS:
                    raise VideoError(
                        error.path, f"{error.reason}; {MAX_REPLACEMENTS} videos tried instead could not be read either"
                    ) from None
                index = int(rng.integers(len(self.videos)))
        clips = torch.stack([self.transform(frames, rng) for _ in range(self.num_augmentations)])
        return Sample(clips, int(self.videos.labels[index]), index, failures, decoder)


class TestVideos(Dataset):
    """Videos with all their views from one decode, for validation and testing; nothing is replaced.

    Args:
        videos: the list.
        clip: how frames are picked.
        num_views: temporal views.
        spatial_idx: spatial crops of each view, see `transforms.crop_offset`.
        short_side, crop: pixels.
        antialias: smooth before scaling down.
        backend: decoder.
        shuffle_seed: shuffle the frames of every view in time with this seed: what a model that ignores
            time would not notice. None leaves them in order.
        timeout_seconds: a video that takes longer counts as unreadable; 0 for no limit.
    """

    __test__ = False  # not a pytest class

    def __init__(
        self,
        videos: VideoList,
        *,
        clip: ClipSampling,
        num_views: int,
        spatial_idx: Sequence[int] = (1,),
        short_side: int,
        crop: int,
        antialias: bool = False,
        backend: str = "decord",
        shuffle_seed: int | None = None,
        timeout_seconds: float = 0,
    ):
        self.videos = videos
        self.clip = clip
        self.num_views = num_views
        self.spatial_idx = tuple(spatial_idx)
        self.short_side = short_side
        self.crop = crop
        self.antialias = antialias
        self.backend = backend
        self.shuffle_seed = shuffle_seed
        self.timeout_seconds = timeout_seconds

    def __len__(self) -> int:
        return len(self.videos)

    def __getitem__(self, index: int) -> Sample:
        """The sample of video `index`; its views are ordered by time, then by crop."""
        label, path = int(self.videos.labels[index]), self.videos.path(index)
        read = partial(
            read_views,
            num_views=self.num_views,
            short_side=self.short_side,
            antialias=self.antialias,
            shuffle=None if self.shuffle_seed is None else np.random.default_rng((self.shuffle_seed, index)),
        )
        try:
            frames, rows, decoder = decode_with_timeout(
                read,
                self.videos.opener(index, self.backend),
                self.clip,
                timeout_seconds=self.timeout_seconds,
                path=path,
            )
        except VideoError as error:
            return Sample(None, label, index, [(path, error.reason)])
        height, width = frames.shape[1:3]
        offsets = [crop_offset(height, width, self.crop, index) for index in self.spatial_idx]
        views = Views.of(torch.from_numpy(frames), torch.from_numpy(rows), offsets, self.crop)
        return Sample(views, label, index, decoder=decoder)


class TestImages(Dataset):
    """Images with their centre crop, for validation and testing; nothing is replaced.

    Args:
        images: an `ImageList`.
        crop: pixels.
        crop_ratio: see `transforms.test_image`.
        interpolation: "bicubic" or "bilinear".
    """

    __test__ = False  # not a pytest class

    def __init__(self, images: VideoList, *, crop: int, crop_ratio: float, interpolation: str = "bicubic"):
        self.images = images
        self.crop = crop
        self.crop_ratio = crop_ratio
        self.interpolation = interpolation

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, index: int) -> Sample:
        """The sample of image `index`: clips (1, 3, crop, crop)."""
        label = int(self.images.labels[index])
        try:
            with self.images.open(index) as image:
                frames = image.get_frames([0])
        except VideoError as error:
            return Sample(None, label, index, [(error.path, error.reason)])
        view = test_image(frames, crop=self.crop, crop_ratio=self.crop_ratio, interpolation=self.interpolation)
        return Sample(view, label, index, decoder=image.decoder)
