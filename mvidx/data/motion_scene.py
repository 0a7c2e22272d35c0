"""The scenes of the motion data set: textured leaves that move, turn, grow or shrink before a still background.

Why one frame tells nothing about the class. A scene is a still background and, before it, two layers of
textured leaves (a dead leaves image: random opaque shapes that hide one another). A layer is periodic in the
plane, and its pose is an offset, an angle and a zoom. The zoom is periodic too, as in a Shepard tone: the two
layers are an octave apart, a layer that has grown by two octaves has faded out and starts again small, and at
least one of the two is opaque at every moment. So offset, angle and zoom live on circles. Every class moves
one of them at a constant speed and all of them start uniformly distributed, which makes them uniform and
independent at every later time as well, whatever the class: frame i of a video has the same distribution for
all eight classes, for every i. Everything else (textures, colours, centre, pace, length, rate, size) is drawn
before the class is looked at, and the motion has neither beginning nor end, so a clip from anywhere shows it.

The encoder is not blind to motion, so decoded frames keep a trace of the kind of motion: over 1280 videos, ridge
regression and random forests on colours and edges of one frame reached 12% to 15% where chance is 12.5%.
"""

import colorsys
import functools
import math
import os
from fractions import Fraction
from pathlib import Path

import av
import cv2
import numpy as np

CLASSES = ("left", "right", "up", "down", "clockwise", "counterclockwise", "growing", "shrinking")

# What each class changes per second, in units of the pace: the shift in x and y (short sides, y points down),
# the angle (radians, clockwise as seen) and the natural logarithm of the zoom. Half a short side from the centre
# all eight move the picture equally fast.
_VELOCITIES = {
    "left": (-1.0, 0.0, 0.0, 0.0),
    "right": (1.0, 0.0, 0.0, 0.0),
    "up": (0.0, -1.0, 0.0, 0.0),
    "down": (0.0, 1.0, 0.0, 0.0),
    "clockwise": (0.0, 0.0, 2.0, 0.0),
    "counterclockwise": (0.0, 0.0, -2.0, 0.0),
    "growing": (0.0, 0.0, 0.0, 2.0),
    "shrinking": (0.0, 0.0, 0.0, -2.0),
}
_PACES = (0.3, 0.6)  # short sides a second
_SECONDS = (2.0, 3.5)
_SHORT_SIDES = (96, 120)
_ASPECTS = (1.1, 1.4)
_FPS = (Fraction(24000, 1001), Fraction(24), Fraction(25), Fraction(30000, 1001), Fraction(30))
_ENCODER = {"preset": "ultrafast", "crf": "24", "threads": "1"}  # with one thread the bytes are reproducible

_FRAMES_AT_ONCE = 4  # are drawn together: few calls, and memory that stays in the cache

_WARP = cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP
_NUM_LAYERS = 2  # an octave of zoom apart
_LAYER_SIZE = 384  # texels, the period of a layer
_TEXELS_A_SHORT_SIDE = 112  # of a layer in the middle of its two octaves
_NUM_LEAF_TILES = 12  # different layers that the videos of one data set draw from
_NUM_CLOUD_TILES = 4


def _generator(*key: int) -> np.random.Generator:
    return np.random.default_rng(key)


@functools.lru_cache(maxsize=4 * _NUM_CLOUD_TILES)
def _cloud_tile(seed: int, index: int) -> np.ndarray:
    """Smooth 1/f noise around 0.5, periodic: float32 (256, 256, 3)."""
    size = 256
    rng = _generator(seed, 101, index)
    frequency = np.hypot(np.fft.fftfreq(size)[:, None], np.fft.rfftfreq(size)[None]) * size
    spectrum = np.fft.rfft2(rng.standard_normal((3, size, size))) / np.maximum(frequency, 1.0) ** 1.5
    spectrum[:, 0, 0] = 0.0
    noise = np.fft.irfft2(spectrum, s=(size, size))
    noise /= noise.std(axis=(1, 2), keepdims=True)
    shared, tint = noise[:1], noise  # mostly brightness, a little colour
    tile = (0.5 + 0.12 * shared + 0.05 * tint).clip(0.0, 1.0)
    return np.ascontiguousarray(tile.transpose(1, 2, 0), dtype=np.float32)  # (3, S, S) -> (S, S, 3)


def _leaf(rng: np.random.Generator, noise: np.ndarray) -> np.ndarray:
    """One leaf: float32 (N, N, 4) in [0, 255], red, green and blue times alpha, alpha."""
    radius = 9.0 / (1.0 - rng.random() * (1.0 - 9.0 / 26.0))  # 9 to 26 texels, small ones more often
    half = math.ceil(radius) + 1
    size = 2 * half + 1
    x = np.arange(-half, half + 1, dtype=np.float32)
    y = x[:, None]

    # The outline in polar coordinates: an ellipse with lobes, or with few corners a polygon.
    corners = int(rng.choice((3, 4, 5, 6, 40, 40, 40)))
    lobes = rng.uniform(0.0, 0.35) if corners == 40 else 0.0
    turn = np.arange(corners) * (2 * math.pi / corners) + rng.uniform(0, 2 * math.pi)
    reach = radius * (1.0 - lobes * (0.5 + 0.5 * np.cos(int(rng.integers(2, 7)) * turn)))
    narrow, axis = rng.uniform(0.5, 1.0), rng.uniform(0, 2 * math.pi)
    outline = reach * np.exp(1j * turn)
    outline = (outline.real + 1j * narrow * outline.imag) * np.exp(1j * axis)
    points = np.column_stack([outline.real, outline.imag]) + half
    cover = np.zeros((size, size), np.uint8)
    cv2.fillPoly(cover, [np.round(points * 16).astype(np.int32)], 255, lineType=cv2.LINE_AA, shift=4)

    angle, frequency = rng.uniform(0, 2 * math.pi), 2 * math.pi / (rng.uniform(0.4, 1.0) * radius)
    cos, sin = frequency * math.cos(angle), frequency * math.sin(angle)
    along, across = x * cos + y * sin, y * cos - x * sin
    kind = rng.integers(4)
    if kind == 0:
        pattern = 0.5 + 0.5 * np.sin(along)  # stripes
    elif kind == 1:
        pattern = 0.5 + 0.5 * np.sin(along) * np.sin(across)  # spots
    elif kind == 2:
        pattern = 0.5 + along / (2 * frequency * radius)  # a gradient
    else:
        top, left = rng.integers(0, len(noise) - size, 2)
        pattern = 3 * noise[top : top + size, left : left + size] - 1  # a cloud

    # Two colours mixed by the pattern, darker towards the rim.
    light, dark = (
        np.array(colorsys.hsv_to_rgb(rng.random(), rng.uniform(0.3, 0.9), value))
        for value in (rng.uniform(0.7, 1.0), rng.uniform(0.15, 0.6))
    )
    alpha = cover.astype(np.float32)
    shade = alpha * (1.0 - 0.4 * (x * x + y * y) / (2 * radius * radius))
    planes = cv2.merge((shade, shade * np.clip(pattern, 0, 1), alpha))
    palette = np.zeros((4, 3))
    palette[:3, 0], palette[:3, 1], palette[3, 2] = dark, light - dark, 1.0
    return cv2.transform(planes, palette)  # (N, N, 3) -> (N, N, 4)


@functools.lru_cache(maxsize=4 * _NUM_LEAF_TILES)
def _leaf_tile(seed: int, index: int) -> np.ndarray:
    """Leaves on a good half of a periodic plane: uint8 (S, S, 4), red, green and blue times alpha, alpha."""
    rng = _generator(seed, 102, index)
    noise = _cloud_tile(seed, index % _NUM_CLOUD_TILES)[..., 0]
    tile = np.zeros((_LAYER_SIZE, _LAYER_SIZE, 4), np.float32)
    for _ in range(190):
        leaf = _leaf(rng, noise)
        top, left = rng.integers(0, _LAYER_SIZE, 2)
        span = np.arange(len(leaf))
        where = (top + span[:, None]) % _LAYER_SIZE, (left + span) % _LAYER_SIZE  # around the edges
        tile[where] = tile[where] * (1.0 - leaf[..., 3:] / 255) + leaf
    return tile.round().astype(np.uint8)


class MotionScene:
    """One video of the data set before it is encoded.

    Args:
        seed: the seed of the data set, which chooses the textures.
        split: 0 for train, 1 for val, 2 for test.
        index: index of the video in its split.
        motion: one of `CLASSES`. Nothing but the motion depends on it: frame 0 is the same for all.

    Attributes:
        fps: frames a second, a Fraction between 23.98 and 30.
        num_frames: 2 to 3.5 seconds.
        height, width: pixels, even; the short side is 96 to 120, the long side at most 1.4 times that.
    """

    def __init__(self, seed: int, split: int, index: int, motion: str):
        rng = _generator(seed, split, index)
        self.fps = _FPS[int(rng.integers(len(_FPS)))]
        self.num_frames = round(rng.uniform(*_SECONDS) * self.fps)
        short_side = 2 * int(rng.integers(_SHORT_SIDES[0] // 2, _SHORT_SIDES[1] // 2 + 1))
        long_side = 2 * round(short_side * rng.uniform(*_ASPECTS) / 2)
        self.height, self.width = (short_side, long_side) if rng.random() < 0.7 else (long_side, short_side)

        middle = np.array([self.width - 1, self.height - 1]) / 2
        self._centre = middle + short_side * rng.uniform(-0.08, 0.08, 2)
        self._angle = rng.uniform(0, 2 * math.pi)
        self._octave = rng.uniform(0, _NUM_LAYERS)
        self._offsets = rng.uniform(0, _LAYER_SIZE, (_NUM_LAYERS, 2))
        pace = rng.uniform(*_PACES)

        # Texels around a layer's period, so that a frame seldom reaches over the edge, where warping is slow.
        self._margin = math.ceil(math.hypot(*_ASPECTS[1:], 1) * _TEXELS_A_SHORT_SIDE)
        tiles = rng.choice(_NUM_LEAF_TILES, _NUM_LAYERS, replace=False)
        self._layers = [self._recolour(rng, _leaf_tile(seed, int(tile))) for tile in tiles]
        self._background = self._make_background(rng, seed)

        self._opacities, self._matrices, self._far_to_near = self._poses(motion, pace)

    def _poses(self, motion: str, pace: float) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Where the L layers are in each of the T frames.

        Opacities (T, L), matrices from pixels to texels (T, L, 2, 3), and the order of painting (T, L).
        """
        seconds = np.arange(self.num_frames) / float(self.fps)
        shift_x, shift_y, turn, grow = pace * np.array(_VELOCITIES[motion])
        octaves = self._octave + seconds[:, None] * (grow / math.log(2)) + np.arange(_NUM_LAYERS)
        octaves %= _NUM_LAYERS  # (T, L)
        short_side = min(self.height, self.width)
        centre = self._centre + seconds[:, None] * short_side * np.array([shift_x, shift_y])  # (T, 2)

        angle = self._angle + seconds * turn
        cos, sin = np.cos(angle), np.sin(angle)
        turn_back = np.stack([cos, sin, -sin, cos], axis=1).reshape(-1, 2, 2)  # (T, 2, 2)
        pixels_a_texel = short_side / _TEXELS_A_SHORT_SIDE * 2.0 ** (octaves - _NUM_LAYERS / 2)
        inverse = turn_back[:, None] / pixels_a_texel[..., None, None]  # (T, L, 2, 2)

        # The texel in the middle of the frame, moved by whole periods into the inner part of the layer.
        middle = np.array([self.width - 1, self.height - 1]) / 2
        texel = self._offsets + np.einsum("tlij,tj->tli", inverse, middle - centre)
        corner = texel % _LAYER_SIZE + self._margin - inverse @ middle  # (T, L, 2)
        matrices = np.concatenate([inverse, corner[..., None]], axis=3)

        # Fades in over the first half octave and out over the last.
        opacities = np.minimum(1.0, 2 * np.minimum(octaves, _NUM_LAYERS - octaves))
        return opacities, matrices, np.argsort(octaves, axis=1)

    def _recolour(self, rng: np.random.Generator, tile: np.ndarray) -> np.ndarray:
        """The tile with its hues turned and its margin added: uint8 (S + 2 margin, S + 2 margin, 4)."""
        hue, saturation, gain = rng.uniform(0, 2 * math.pi), rng.uniform(0.5, 1.1), rng.uniform(0.8, 1.1)
        grey = np.full((3, 3), 1 / 3)
        sine = np.array([[0, -1, 1], [1, 0, -1], [-1, 1, 0]]) / math.sqrt(3)
        turn = grey + saturation * (math.cos(hue) * (np.eye(3) - grey) + math.sin(hue) * sine)
        colour = np.eye(4)
        colour[:3, :3] = gain * turn
        tile = cv2.transform(tile, colour)
        return cv2.copyMakeBorder(tile, *[self._margin] * 4, cv2.BORDER_WRAP)

    def _make_background(self, rng: np.random.Generator, seed: int) -> np.ndarray:
        """uint8 (H, W, 3)."""
        tile = _cloud_tile(seed, int(rng.integers(_NUM_CLOUD_TILES)))
        angle, zoom = rng.uniform(0, 2 * math.pi), rng.uniform(0.5, 1.2)
        cos, sin = zoom * math.cos(angle), zoom * math.sin(angle)
        left, top = rng.uniform(0, len(tile), 2)
        matrix = np.array([[cos, sin, left], [-sin, cos, top]])
        image = cv2.warpAffine(tile, matrix, (self.width, self.height), flags=_WARP, borderMode=cv2.BORDER_WRAP)
        return (image * rng.uniform(120, 255, 3)).round().astype(np.uint8)

    def frames(self, start: int, stop: int) -> np.ndarray:
        """Frames `start` to `stop`, without the latter: uint8 (N, H, W, 3), RGB."""
        return self._painted(start, stop, self._background)

    def cover(self, start: int, stop: int) -> np.ndarray:
        """How much of the still background the moving leaves hide in these frames: float32 (N, H, W), 0 to 1."""
        white, black = np.full_like(self._background, 255), np.zeros_like(self._background)
        shown = self._painted(start, stop, white).astype(np.float32) - self._painted(start, stop, black)
        return 1 - shown.mean(-1) / 255

    def _painted(self, start: int, stop: int, background: np.ndarray) -> np.ndarray:
        """Frames over a background, uint8 (H, W, 3): uint8 (N, H, W, 3)."""
        images = np.tile(background, (stop - start, 1, 1))  # (N H, W, 3): one call blends all frames
        for rank in range(_NUM_LAYERS):
            leaves = np.empty((stop - start, self.height, self.width, 4), np.uint8)
            for image, index in zip(leaves, range(start, stop), strict=True):
                layer = self._far_to_near[index, rank]
                cv2.warpAffine(
                    self._layers[layer],
                    self._matrices[index, layer],
                    (self.width, self.height),
                    dst=image,
                    flags=_WARP,
                    borderMode=cv2.BORDER_WRAP,
                )
                if self._opacities[index, layer] < 1:
                    cv2.convertScaleAbs(image, dst=image, alpha=self._opacities[index, layer])
            leaves = leaves.reshape(-1, self.width, 4)  # (N, H, W, 4) -> (N H, W, 4)
            clear = cv2.cvtColor(cv2.bitwise_not(cv2.extractChannel(leaves, 3)), cv2.COLOR_GRAY2RGB)
            images = cv2.multiply(images, clear, scale=1 / 255)
            images = cv2.add(images, cv2.cvtColor(leaves, cv2.COLOR_RGBA2RGB))
        return images.reshape(stop - start, self.height, self.width, 3)

    def write(self, path: Path) -> None:
        """Encodes the video into `path`, which appears complete or not at all."""
        temporary = path.with_name(path.name + ".tmp")
        with av.open(str(temporary), "w", format="mp4") as container:
            stream = container.add_stream("libx264", rate=self.fps, options=_ENCODER)
            stream.width, stream.height, stream.pix_fmt = self.width, self.height, "yuv420p"
            for start in range(0, self.num_frames, _FRAMES_AT_ONCE):
                for planes in _yuv_planes(self.frames(start, min(start + _FRAMES_AT_ONCE, self.num_frames))):
                    container.mux(stream.encode(av.VideoFrame.from_ndarray(planes, format="yuv420p")))
            container.mux(stream.encode(None))
        os.replace(temporary, path)


def _yuv_planes(frames: np.ndarray) -> np.ndarray:
    """RGB (N, H, W, 3) to planar YUV 4:2:0 (N, 3 H / 2, W), as if the frames were one high image."""
    num_frames, height, width, _ = frames.shape
    planes = cv2.cvtColor(frames.reshape(-1, width, 3), cv2.COLOR_RGB2YUV_I420).reshape(6, -1)
    brightness, blue, red = planes[:4], planes[4], planes[5]
    each = [plane.reshape(num_frames, -1) for plane in (brightness, blue, red)]
    return np.concatenate(each, axis=1).reshape(num_frames, height * 3 // 2, width)
