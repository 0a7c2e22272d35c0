"""RandAugment (arXiv 1909.13719) of uint8 clips, in timm's words and with the results of its operations on PIL images.

An operation and its strength are drawn once a clip and applied to every frame, as PySlowFast does. Warps run
in OpenCV, everything that maps values through look-up tables. Deviation from timm 1.0: rotation takes
OpenCV's bicubic kernel (a = -0.75, PIL's is -1), by less than 1/255 on average.
"""

import math
import re
from collections.abc import Callable
from dataclasses import dataclass

import cv2
import numpy as np

from mvidx.errors import UserError

Fill = tuple[int, int, int]
GREY: Fill = (128, 128, 128)
_INTERPOLATIONS = {"bilinear": cv2.INTER_LINEAR, "bicubic": cv2.INTER_CUBIC}
INTERPOLATIONS = (*_INTERPOLATIONS, "random")


class AugmentError(UserError, ValueError):
    """A policy that can't be read: the message quotes it."""


# ---------------------------------------------------------------------------- values through tables


def _look_up(frames: np.ndarray, table: np.ndarray) -> np.ndarray:
    """One uint8 table (256,) for all values of (T, H, W, 3)."""
    rows = frames.reshape(-1, frames.shape[2] * 3)
    return cv2.LUT(rows, table.astype(np.uint8)).reshape(frames.shape)


def _look_up_each(frames: np.ndarray, tables: Callable[[np.ndarray], np.ndarray]) -> np.ndarray:
    """A table for each frame and channel, made from its histogram, int64 (256,)."""
    out = np.empty_like(frames)
    for frame, changed in zip(frames, out, strict=True):
        counts = [cv2.calcHist([frame], [channel], None, [256], [0, 256]).ravel() for channel in range(3)]
        table = np.stack([tables(count.astype(np.int64)) for count in counts], axis=-1)
        cv2.LUT(frame, np.clip(table, 0, 255).astype(np.uint8)[None], dst=changed)
    return out


_VALUES = np.arange(256)


def _stretched(histogram: np.ndarray) -> np.ndarray:
    used = np.flatnonzero(histogram)
    low, high = used[0], used[-1]
    return _VALUES if high <= low else ((_VALUES - low) * (255.0 / (high - low))).astype(int)


def _equalized(histogram: np.ndarray) -> np.ndarray:
    used = histogram[histogram > 0]
    step = (histogram.sum() - used[-1]) // 255 if len(used) > 1 else 0
    if step == 0:
        return _VALUES
    return (step // 2 + np.concatenate([[0], np.cumsum(histogram)[:-1]])) // step


def auto_contrast(frames: np.ndarray) -> np.ndarray:
    """Stretch each channel of each frame to 0..255."""
    return _look_up_each(frames, _stretched)


def equalize(frames: np.ndarray) -> np.ndarray:
    """Flatten the histogram of each channel of each frame."""
    return _look_up_each(frames, _equalized)


def invert(frames: np.ndarray) -> np.ndarray:
    return 255 - frames


def posterize(frames: np.ndarray, bits: float) -> np.ndarray:
    """Keep the highest `bits` bits."""
    bits = int(bits)
    return frames if bits >= 8 else _look_up(frames, _VALUES & (0xFF << (8 - bits)))


def solarize(frames: np.ndarray, threshold: float) -> np.ndarray:
    """Invert values from `threshold` on."""
    return _look_up(frames, np.where(threshold > _VALUES, _VALUES, 255 - _VALUES))


def solarize_add(frames: np.ndarray, added: float) -> np.ndarray:
    """Add to values below 128."""
    return _look_up(frames, np.where(_VALUES < 128, np.minimum(_VALUES + int(added), 255), _VALUES))


def _blend_table(grey: int, factor: float) -> np.ndarray:
    return np.clip(grey + factor * (_VALUES - grey), 0, 255).astype(np.uint8)


def brightness(frames: np.ndarray, factor: float) -> np.ndarray:
    """0 is black, 1 changes nothing."""
    return _look_up(frames, _blend_table(0, factor))


def contrast(frames: np.ndarray, factor: float) -> np.ndarray:
    """0 is the frame's mean grey, 1 changes nothing."""
    greys = [int(cv2.mean(cv2.cvtColor(frame, cv2.COLOR_RGB2GRAY))[0] + 0.5) for frame in frames]
    return np.stack([cv2.LUT(f, _blend_table(grey, factor)) for f, grey in zip(frames, greys, strict=True)])


def _blend(frame: np.ndarray, base: np.ndarray, factor: float) -> np.ndarray:
    # OpenCV rounds where PIL cuts off: half a step less makes the two the same on average
    return cv2.addWeighted(frame, factor, base, 1 - factor, -0.5)


def color(frames: np.ndarray, factor: float) -> np.ndarray:
    """0 is grey, 1 changes nothing."""

    def grey(frame: np.ndarray) -> np.ndarray:
        return cv2.cvtColor(cv2.cvtColor(frame, cv2.COLOR_RGB2GRAY), cv2.COLOR_GRAY2RGB)

    return np.stack([_blend(frame, grey(frame), factor) for frame in frames])


_SMOOTH = np.array([[1, 1, 1], [1, 5, 1], [1, 1, 1]], np.float32) / 13


def sharpness(frames: np.ndarray, factor: float) -> np.ndarray:
    """0 is smoothed, 1 changes nothing; the outermost pixels stay as they are."""
    out = frames.copy()
    for frame, changed in zip(frames, out, strict=True):
        inner = (slice(1, -1), slice(1, -1))
        changed[inner] = _blend(frame, cv2.filter2D(frame, -1, _SMOOTH), factor)[inner]
    return out


# ---------------------------------------------------------------------------- warps


def warp(frames: np.ndarray, matrix: np.ndarray, *, fill: Fill = GREY, interpolation: str = "bicubic") -> np.ndarray:
    """Frames uint8 (T, H, W, 3) whose point (x, y), pixel corners at whole numbers, comes from matrix @ (x, y, 1)."""
    shift = matrix[:, :2] @ (0.5, 0.5) - 0.5  # OpenCV counts from the centres of pixels
    matrix = np.column_stack([matrix[:, :2], matrix[:, 2] + shift])
    flags = _INTERPOLATIONS[interpolation] | cv2.WARP_INVERSE_MAP
    height, width = frames.shape[1:3]
    return np.stack(
        [
            cv2.warpAffine(f, matrix, (width, height), flags=flags, borderMode=cv2.BORDER_CONSTANT, borderValue=fill)
            for f in frames
        ]
    )


def _weights(share: float, interpolation: str) -> np.ndarray:
    """Weights of four pixels for a point `share` of a pixel after the second of them; PIL's cubic has a = -1."""
    d = float(share)
    if interpolation == "bilinear":
        return np.array([0, 1 - d, d, 0])
    return np.array([-d + 2 * d**2 - d**3, 1 - 2 * d**2 + d**3, d + d**2 - d**3, -(d**2) + d**3])


def _shift_into(out: np.ndarray, image: np.ndarray, pixels: float, interpolation: str) -> None:
    """Fill uint8 `out` (H, W, 3) from `image` by shifting it: x comes from x + `pixels`, what comes from outside stays.

    A pixel has a source as long as its centre comes from inside; filters reach beyond, as PIL's do, on the outermost
    pixels repeated.
    """
    whole, width = math.floor(pixels), image.shape[1]
    first, last = max(0, math.ceil(-0.5 - pixels)), min(width, math.ceil(width - 0.5 - pixels))
    if first >= last:
        return
    padded = cv2.copyMakeBorder(image, 0, 0, 1, 1, cv2.BORDER_REPLICATE)
    weights = _weights(pixels - whole, interpolation)
    filtered = cv2.sepFilter2D(padded, -1, weights, np.ones(1), anchor=(1, 0), borderType=cv2.BORDER_REPLICATE)
    out[:, first:last] = filtered[:, first + whole + 1 : last + whole + 1]


def shear(frames: np.ndarray, slope: float, offset: float, *, fill: Fill = GREY, interpolation: str) -> np.ndarray:
    """Frames uint8 (T, H, W, 3) whose point (x, y) comes from (x + slope * y + offset, y).

    What `warp` gives for such a matrix: filters of whole rows instead of an interpolation of every pixel.
    """
    out = np.empty_like(frames)
    out[:] = fill
    if slope:
        for y in range(frames.shape[1]):  # a row of all frames is an image (T, W, 3)
            _shift_into(out[:, y], frames[:, y], slope * (y + 0.5) + offset, interpolation)
    else:
        for frame, shifted in zip(frames, out, strict=True):
            _shift_into(shifted, frame, offset, interpolation)
    return out


def _transposed(frames: np.ndarray) -> np.ndarray:
    return np.stack([cv2.transpose(frame) for frame in frames])


def _rotate_matrix(degrees: float, height: int, width: int) -> np.ndarray:
    cos, sin = math.cos(math.radians(degrees)), math.sin(math.radians(degrees))
    turn, centre = np.array([[cos, -sin], [sin, cos]]), np.array([width / 2, height / 2])
    return np.column_stack([turn, centre - turn @ centre])


_PLAIN = {"AutoContrast": auto_contrast, "Equalize": equalize, "Invert": invert}
_WITH_ARGUMENT = {
    **dict.fromkeys(("Posterize", "PosterizeIncreasing"), posterize),
    **dict.fromkeys(("Solarize", "SolarizeIncreasing"), solarize),
    "SolarizeAdd": solarize_add,
    **dict.fromkeys(("Color", "ColorIncreasing"), color),
    **dict.fromkeys(("Contrast", "ContrastIncreasing"), contrast),
    **dict.fromkeys(("Brightness", "BrightnessIncreasing"), brightness),
    **dict.fromkeys(("Sharpness", "SharpnessIncreasing"), sharpness),
}


def apply(
    name: str, frames: np.ndarray, argument: float, *, fill: Fill = GREY, interpolation: str = "bicubic"
) -> np.ndarray:
    """Apply an operation of timm's to uint8 (T, H, W, 3); `argument` is what timm computes from the level."""
    if name in _PLAIN:
        return _PLAIN[name](frames)
    if name in _WITH_ARGUMENT:
        return _WITH_ARGUMENT[name](frames, argument)
    if name == "Rotate":
        matrix = _rotate_matrix(argument, *frames.shape[1:3])
        return warp(frames, matrix, fill=fill, interpolation=interpolation)
    along_x = name in ("ShearX", "TranslateXRel")
    turned = frames if along_x else _transposed(frames)
    slope, offset = (argument, 0.0) if name.startswith("Shear") else (0.0, argument * turned.shape[2])
    moved = shear(turned, slope, offset, fill=fill, interpolation=interpolation)
    return moved if along_x else _transposed(moved)


def argument_of(name: str, level: float, sign: int) -> float:
    """The argument of an operation at a level of 0 to 10; `sign`, 1 or -1, turns those that have two directions."""
    share = level / 10
    arguments = {
        "Rotate": sign * share * 30,
        **dict.fromkeys(("ShearX", "ShearY"), sign * share * 0.3),
        **dict.fromkeys(("TranslateXRel", "TranslateYRel"), sign * share * 0.45),
        "Posterize": int(share * 4),
        "PosterizeIncreasing": 4 - int(share * 4),
        "Solarize": min(256, int(share * 256)),
        "SolarizeIncreasing": 256 - min(256, int(share * 256)),
        "SolarizeAdd": min(128, int(share * 110)),
        **dict.fromkeys(("Color", "Contrast", "Brightness", "Sharpness"), share * 1.8 + 0.1),
    }
    if name in _PLAIN:
        return 0.0
    return arguments[name] if name in arguments else max(0.1, 1 + sign * share * 0.9)


_WARPS = ("ShearX", "ShearY", "TranslateXRel", "TranslateYRel")
OPERATIONS = (
    *("AutoContrast", "Equalize", "Invert", "Rotate", "Posterize", "Solarize", "SolarizeAdd"),
    *("Color", "Contrast", "Brightness", "Sharpness", *_WARPS),
)
INCREASING_OPERATIONS = (
    *("AutoContrast", "Equalize", "Invert", "Rotate", "PosterizeIncreasing", "SolarizeIncreasing", "SolarizeAdd"),
    *("ColorIncreasing", "ContrastIncreasing", "BrightnessIncreasing", "SharpnessIncreasing", *_WARPS),
)


@dataclass(frozen=True)
class RandAugment:
    """Random operations on a clip.

    Attributes:
        num_operations: drawn for each clip, with replacement.
        level: 0 to 10, how strong they are.
        level_std: spread of the level, normal; infinite: drawn evenly from 0 to `level`.
        level_max: levels are clipped here.
        probability: of each drawn operation being applied.
        operations: names to draw from.
        fill: colour that warps move in.
        interpolation: of warps, "bilinear", "bicubic" or "random".
    """

    num_operations: int = 2
    level: float = 10
    level_std: float = 0
    level_max: float = 10
    probability: float = 0.5
    operations: tuple[str, ...] = OPERATIONS
    fill: Fill = GREY
    interpolation: str = "bicubic"

    def draw(self, rng: np.random.Generator) -> list[tuple[str, float, str]]:
        """(name, argument, interpolation) of the operations for one clip."""
        drawn = []
        for index in rng.integers(len(self.operations), size=self.num_operations):
            if rng.random() >= self.probability:
                continue
            level = rng.uniform(0, self.level) if math.isinf(self.level_std) else rng.normal(self.level, self.level_std)
            level = min(max(level, 0.0), self.level_max)
            name, sign = self.operations[index], 1 if rng.random() < 0.5 else -1
            names = tuple(_INTERPOLATIONS)
            method = names[rng.integers(len(names))] if self.interpolation == "random" else self.interpolation
            drawn.append((name, argument_of(name, level, sign), method))
        return drawn

    def __call__(self, frames: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        """uint8 (T, H, W, 3) -> the same shape; one draw for all frames."""
        frames = np.ascontiguousarray(frames)
        for name, argument, method in self.draw(rng):
            frames = apply(name, frames, argument, fill=self.fill, interpolation=method)
        return frames


def parse_policy(policy: str, *, fill: Fill = GREY, interpolation: str = "bicubic") -> RandAugment:
    """A policy in timm's words: `rand`, then -m level, -n operations, -p probability, -mstd spread, -mmax, -inc 1.

    Raises:
        AugmentError: another policy than `rand`, or a word that is none of these.
    """
    head, *words = policy.split("-")
    if head != "rand":
        raise AugmentError(f"{policy!r} is no policy of random augmentation, expected one like rand-m7-n4-mstd0.5-inc1")
    if interpolation not in INTERPOLATIONS:
        raise AugmentError(f"interpolation {interpolation!r}, expected one of {', '.join(INTERPOLATIONS)}")
    numbers: dict[str, float] = {}
    for word in words:
        match = re.fullmatch(r"(mstd|mmax|inc|m|n|p)(\d+(?:\.\d+)?)", word)
        if match is None:
            raise AugmentError(f"{word!r} in {policy!r}, expected m, n, p, mstd, mmax or inc with a number")
        numbers[match[1]] = float(match[2])
    spread = numbers.get("mstd", 0.0)
    return RandAugment(
        num_operations=int(numbers.get("n", 2)),
        level=numbers.get("m", 10.0),
        level_std=math.inf if spread > 100 else spread,
        level_max=numbers.get("mmax", 10.0),
        probability=numbers.get("p", 0.5),
        operations=INCREASING_OPERATIONS if numbers.get("inc", 0) else OPERATIONS,
        fill=fill,
        interpolation=interpolation,
    )


def color_jitter(frames: np.ndarray, amount: float, rng: np.random.Generator) -> np.ndarray:
    """Brightness, contrast and saturation by factors of 1 +- `amount`, in a random order, for all frames alike."""
    for index in rng.permutation(3):
        factor = rng.uniform(max(0.0, 1 - amount), 1 + amount)
        frames = (brightness, contrast, color)[index](frames, factor)
    return frames
