"""Random erasing (arXiv 1708.04896) of normalised clips: boxes are filled with noise or a colour.

As PySlowFast does it (`slowfast/datasets/random_erasing.py` at 287ec00), but on the device and after
normalisation, so that noise is not cut off at black and white.
"""

import math
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

MODES = ("pixel", "rand", "const")


@dataclass(frozen=True)
class RandomErasing:
    """Erases boxes of a clip.

    Attributes:
        probability: of erasing anything in a clip, or in a frame.
        mode: "pixel" for normal noise, "rand" for one normal colour a frame, "const" for zeros.
        max_boxes: their number is drawn from 1 to this; with more than one the first 1 / max_boxes of the
            frames is spared.
        area: of all boxes over that of a frame, (smallest, largest).
        aspect: height over width of a box, (smallest, largest).
        per_frame: draw boxes for every frame, rather than boxes that stay through the clip.
    """

    probability: float = 0.25
    mode: str = "pixel"
    max_boxes: int = 1
    area: tuple[float, float] = (0.02, 1 / 3)
    aspect: tuple[float, float] = (0.3, 1 / 0.3)
    per_frame: bool = False

    def __post_init__(self):
        if self.mode not in MODES:
            raise ValueError(f"mode of random erasing {self.mode!r}, expected one of {', '.join(MODES)}")

    def draw(self, height: int, width: int, rng: np.random.Generator) -> list[tuple[int, int, int, int]]:
        """(top, left, height, width) of the boxes for one clip; often none."""
        if rng.random() >= self.probability:
            return []
        count = int(rng.integers(1, self.max_boxes + 1))
        boxes = []
        for _ in range(count):
            for _ in range(100):
                area = rng.uniform(*self.area) * height * width / count
                ratio = math.exp(rng.uniform(math.log(self.aspect[0]), math.log(self.aspect[1])))
                h, w = round(math.sqrt(area * ratio)), round(math.sqrt(area / ratio))
                if h < height and w < width:
                    boxes.append((int(rng.integers(height - h + 1)), int(rng.integers(width - w + 1)), h, w))
                    break
        return boxes

    def __call__(self, clip: Tensor, rng: np.random.Generator) -> Tensor:
        """Erase boxes of a normalised clip (C, T, H, W) or image (C, H, W), in place."""
        if self.per_frame and clip.ndim == 4:
            spared = clip.shape[1] // self.max_boxes if self.max_boxes > 1 else 0
            for frame in clip.unbind(1)[spared:]:
                self(frame, rng)
            return clip
        boxes = self.draw(*clip.shape[-2:], rng)
        if boxes:
            generator = torch.Generator(clip.device).manual_seed(int(rng.integers(2**62)))
        spared = clip.shape[1] // self.max_boxes if clip.ndim == 4 and self.max_boxes > 1 else 0
        for top, left, h, w in boxes:
            area = clip[..., top : top + h, left : left + w]
            area = area[:, spared:] if clip.ndim == 4 else area
            if self.mode == "const":
                area.zero_()
                continue
            shape = area.shape if self.mode == "pixel" else (*area.shape[:-2], 1, 1)
            area.copy_(torch.randn(shape, generator=generator, device=clip.device, dtype=clip.dtype).expand_as(area))
        return clip
