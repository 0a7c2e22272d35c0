"""From decoded frames to what a model takes: uint8 clips (T, H, W, 3) until the crop is made, float last.

Every random parameter is drawn once a clip from an explicit generator. Sizes and offsets follow PySlowFast
(`slowfast/datasets/transform.py` at 287ec00): bilinear without antialiasing, the long side rounded down,
the middle of a crop rounded up.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial

import cv2
import numpy as np
import torch
from torch import Tensor
from torchvision.transforms import InterpolationMode
from torchvision.transforms.v2 import functional as F2


def as_clip(frames: np.ndarray | Tensor) -> Tensor:
    """uint8 (T, H, W, 3) -> the same memory viewed as (T, 3, H, W), as torchvision wants it."""
    frames = torch.from_numpy(frames) if isinstance(frames, np.ndarray) else frames
    if frames.ndim != 4 or frames.shape[-1] != 3 or frames.dtype != torch.uint8:
        raise ValueError(f"got frames of {frames.dtype} {tuple(frames.shape)}, expected uint8 (T, H, W, 3)")
    return frames.permute(0, 3, 1, 2)


def scaled_size(height: int, width: int, short_side: int) -> tuple[int, int]:
    """(height, width) with the short side at `short_side` pixels and the long one in proportion, rounded down."""
    if min(height, width) == short_side:
        return height, width
    if width < height:
        return math.floor(height / width * short_side), short_side
    return short_side, math.floor(width / height * short_side)


def resize(clip: Tensor, size: tuple[int, int], *, antialias: bool = False) -> Tensor:
    """Resize uint8 (T, 3, H, W) bilinearly to `size`; returns the clip itself when it has that size."""
    if tuple(clip.shape[-2:]) == tuple(size):
        return clip
    return F2.resize(clip, list(size), interpolation=InterpolationMode.BILINEAR, antialias=antialias)


def resized_frame(frame: np.ndarray, *, short_side: int, antialias: bool = False) -> np.ndarray:
    """uint8 (H, W, 3) with its short side scaled to `short_side` pixels, as `resize` does; itself when it has it."""
    size = scaled_size(*frame.shape[:2], short_side)
    if size == frame.shape[:2]:
        return frame
    return resize(as_clip(frame[None]), size, antialias=antialias)[0].permute(1, 2, 0).numpy()


def crop_offset(height: int, width: int, crop: int, spatial_idx: int) -> tuple[int, int]:
    """(top, left) of a test crop: 0 is left or top, 1 the centre, 2 right or bottom, along the longer side."""
    if spatial_idx not in (0, 1, 2):
        raise ValueError(f"spatial_idx={spatial_idx}, expected 0, 1 or 2")
    if min(height, width) < crop:
        raise ValueError(f"a crop of {crop} pixels does not fit into {height} x {width}: short_side is below crop")
    top, left = math.ceil((height - crop) / 2), math.ceil((width - crop) / 2)
    if height > width:
        return (0, top, height - crop)[spatial_idx], left
    return top, (0, left, width - crop)[spatial_idx]


def test_crops(
    frames: np.ndarray | Tensor, *, short_side: int, crop: int, spatial_idx: Sequence[int], antialias: bool = False
) -> Tensor:
    """Test crops of a clip from one resize.

    Args:
        frames: uint8 (T, H, W, 3).
        short_side: pixels that the short side is scaled to.
        crop: side of the square crop in pixels.
        spatial_idx: which crops, see `crop_offset`.
        antialias: smooth before scaling down; the published numbers are without.

    Returns:
        uint8 (len(spatial_idx), 3, T, crop, crop), memory of its own.
    """
    clip = as_clip(frames)
    clip = resize(clip, scaled_size(*clip.shape[-2:], short_side), antialias=antialias)
    return take_crops(clip, crop=crop, spatial_idx=spatial_idx)


def take_crops(clip: Tensor, *, crop: int, spatial_idx: Sequence[int]) -> Tensor:
    """Crops of a resized clip, uint8 (T, 3, H, W) -> (len(spatial_idx), 3, T, crop, crop), memory of its own."""
    offsets = [crop_offset(*clip.shape[-2:], crop, index) for index in spatial_idx]
    return torch.stack([clip[..., y : y + crop, x : x + crop].transpose(0, 1) for y, x in offsets])


test_crops.__test__ = False  # not a pytest test


def normalize(
    clips: Tensor, mean: Sequence[float], std: Sequence[float], *, axis: int | None = None, out: Tensor | None = None
) -> Tensor:
    """uint8 (..., 3, T, H, W) or (..., 3, H, W) -> float32: (x / 255 - mean) / std, a channel at a time.

    The channel axis is `axis`; by default the fourth from the end for clips and the third for images,
    whichever holds 3 channels. Runs on the device of `clips`. The result goes into `out`, where it is given.
    """
    if axis is None:
        axis = clips.ndim - 4 if clips.ndim >= 4 and clips.shape[-4] == 3 else clips.ndim - 3
    normalized = torch.empty(clips.shape, device=clips.device) if out is None else out
    channels = zip(clips.unbind(axis), normalized.unbind(axis), mean, std, strict=True)
    for pixels, values, m, s in channels:  # one at a time, where caches are small
        values.copy_(pixels).mul_(1 / (255 * s)).sub_(m / s)
    return normalized


def test_view(
    frames: np.ndarray | Tensor,
    *,
    short_side: int,
    crop: int,
    spatial_idx: int,
    mean: Sequence[float],
    std: Sequence[float],
    antialias: bool = False,
) -> Tensor:
    """One normalised test crop.

    Args:
        frames: uint8 (T, H, W, 3).
        short_side, crop, spatial_idx, antialias: see `test_crops`.
        mean, std: of each channel, with pixels in [0, 1].

    Returns:
        float32 (3, T, crop, crop).
    """
    views = test_crops(frames, short_side=short_side, crop=crop, spatial_idx=[spatial_idx], antialias=antialias)
    return normalize(views, mean, std)[0]


test_view.__test__ = False  # not a pytest test


def random_resized_region(
    height: int, width: int, *, scale: Sequence[float], aspect: Sequence[float], rng: np.random.Generator
) -> tuple[int, int, int, int]:
    """(top, left, height, width) of a random region: its area a fraction in `scale`, its shape in `aspect`.

    Ten tries, the aspect drawn evenly in its logarithm; then the largest centred region within `aspect`
    (Inception's crop, as in torchvision's RandomResizedCrop).
    """
    for _ in range(10):
        area = height * width * rng.uniform(*scale)
        ratio = math.exp(rng.uniform(math.log(aspect[0]), math.log(aspect[1])))
        w, h = round(math.sqrt(area * ratio)), round(math.sqrt(area / ratio))
        if 0 < w <= width and 0 < h <= height:
            return int(rng.integers(0, height - h + 1)), int(rng.integers(0, width - w + 1)), h, w
    ratio = min(max(width / height, aspect[0]), aspect[1])
    w = min(width, round(height * ratio))
    h = min(height, round(width / ratio))
    return (height - h) // 2, (width - w) // 2, h, w


def shrunk_frame(frame: np.ndarray, short_side: int) -> np.ndarray:
    """uint8 (H, W, 3) with a short side of at most `short_side` pixels, averaged over areas."""
    height, width = frame.shape[:2]
    if min(height, width) <= short_side:
        return frame
    height, width = scaled_size(height, width, short_side)
    return cv2.resize(frame, (width, height), interpolation=cv2.INTER_AREA)


def shrunk(frames: np.ndarray, short_side: int) -> np.ndarray:
    """`shrunk_frame` of uint8 (T, H, W, 3)."""
    if min(frames.shape[1:3]) <= short_side:
        return frames
    return np.stack([shrunk_frame(frame, short_side) for frame in frames])


@dataclass(frozen=True)
class TrainTransform:
    """Random augmentation, crop and flip of a training clip, drawn once for all its frames.

    Attributes:
        crop: side of the square clip that comes out, pixels.
        scale, aspect: area (fraction) and shape of the random region that becomes the crop; with an empty
            `scale` the short side is scaled to a random length of `short_sides` and a crop cut out instead.
        short_sides: (smallest, largest) short side in pixels; its inverse is drawn evenly unless
            `uniform_sides`.
        flip: mirror half of the clips.
        antialias: smooth before scaling down.
        augment: changes the whole frames first, scaled down to a short side of `short_sides[0]` where they
            are larger: the size that PySlowFast decodes at.
    """

    crop: int
    scale: tuple[float, ...] = ()
    aspect: tuple[float, ...] = (0.75, 4 / 3)
    short_sides: tuple[int, int] = (256, 320)
    uniform_sides: bool = False
    flip: bool = True
    antialias: bool = False
    augment: Callable[[np.ndarray, np.random.Generator], np.ndarray] | None = None

    @property
    def each_frame(self) -> Callable[[np.ndarray], np.ndarray] | None:
        """What may be done to each frame as it is decoded, since the first step here would do it; None for nothing."""
        return None if self.augment is None else partial(shrunk_frame, short_side=self.short_sides[0])

    def __call__(self, frames: np.ndarray, rng: np.random.Generator) -> Tensor:
        """uint8 (T, H, W, 3) -> uint8 (3, T, crop, crop), memory of its own."""
        if self.augment is not None:
            frames = self.augment(shrunk(frames, self.short_sides[0]), rng)
        clip = as_clip(frames)
        height, width = clip.shape[-2:]
        if self.scale:
            top, left, h, w = random_resized_region(height, width, scale=self.scale, aspect=self.aspect, rng=rng)
            clip = resize(clip[..., top : top + h, left : left + w], (self.crop, self.crop), antialias=self.antialias)
        else:
            low, high = self.short_sides
            side = rng.uniform(low, high) if self.uniform_sides else 1 / rng.uniform(1 / high, 1 / low)
            clip = resize(clip, scaled_size(height, width, max(round(side), self.crop)), antialias=self.antialias)
            height, width = clip.shape[-2:]
            top = int(rng.integers(0, height - self.crop + 1))
            left = int(rng.integers(0, width - self.crop + 1))
            clip = clip[..., top : top + self.crop, left : left + self.crop]
        if self.flip and rng.random() < 0.5:
            clip = clip.flip(-1)
        return clip.transpose(0, 1).contiguous()


def _resize_image(image: Tensor, size: Sequence[int], interpolation: str) -> Tensor:
    """Resize uint8 (1, 3, H, W) as PIL does, smoothed where it gets smaller."""
    mode = {"bicubic": InterpolationMode.BICUBIC, "bilinear": InterpolationMode.BILINEAR}[interpolation]
    return F2.resize(image, list(size), interpolation=mode, antialias=True)


def test_image(frames: np.ndarray, *, crop: int, crop_ratio: float, interpolation: str = "bicubic") -> Tensor:
    """Centre crop of an image.

    Args:
        frames: uint8 (1, H, W, 3).
        crop: side of the square crop in pixels.
        crop_ratio: its side over the short side that the image is resized to; 0 squeezes the whole image into
            the crop.
        interpolation: "bicubic" (published numbers) or "bilinear".

    Returns:
        uint8 (1, 3, crop, crop), memory of its own.
    """
    image = as_clip(frames)
    if crop_ratio == 0:
        return _resize_image(image, (crop, crop), interpolation).contiguous()
    short_side = int(1 / crop_ratio * crop)
    image = _resize_image(image, scaled_size(*image.shape[-2:], short_side), interpolation)
    return F2.center_crop(image, [crop, crop]).contiguous()


test_image.__test__ = False  # not a pytest test


@dataclass(frozen=True)
class TrainImageTransform:
    """Random crop, flip and augmentation of a training image, in timm's order.

    Attributes:
        crop: side of the square image that comes out, pixels.
        scale, aspect: area (fraction) and shape of the random region that becomes the crop.
        interpolation: "bicubic", "bilinear" or "random".
        flip: mirror half of the images.
        augment: changes the crop.
    """

    crop: int
    scale: tuple[float, ...] = (0.08, 1.0)
    aspect: tuple[float, ...] = (0.75, 4 / 3)
    interpolation: str = "bicubic"
    flip: bool = True
    augment: Callable[[np.ndarray, np.random.Generator], np.ndarray] | None = None

    def __call__(self, frames: np.ndarray, rng: np.random.Generator) -> Tensor:
        """uint8 (1, H, W, 3) -> uint8 (3, crop, crop), memory of its own."""
        image = as_clip(frames)
        top, left, h, w = random_resized_region(*image.shape[-2:], scale=self.scale, aspect=self.aspect, rng=rng)
        method = self.interpolation
        if method == "random":
            method = ("bicubic", "bilinear")[rng.integers(2)]
        image = _resize_image(image[..., top : top + h, left : left + w], (self.crop, self.crop), method)
        if self.flip and rng.random() < 0.5:
            image = image.flip(-1)
        if self.augment is not None:
            pixels = np.ascontiguousarray(image.permute(0, 2, 3, 1).numpy())
            image = as_clip(self.augment(pixels, rng))
        return image[0].contiguous()
