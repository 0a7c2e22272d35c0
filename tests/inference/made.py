"""A small checkpoint that says what it is of, and videos whose frames tell their number."""

from dataclasses import replace
from pathlib import Path

import av
import numpy as np

from mvidx.convert import write_checkpoint
from mvidx.models.card import card_of
from tests.models.small import small_model
from tests.oracles import randomise

NAMES = tuple(f"class {letter}" for letter in "abcdefg")


def small_checkpoint(folder: Path, name: str = "poolformer_s12_video", ending: str = ".pth") -> Path:
    """A checkpoint of a small model with its card, whose preprocessing is as small."""
    model = randomise(small_model(name))
    card = card_of(model)
    small = replace(card.preprocessing, resize=72, num_views=2) if not card.preprocessing.takes_images else None
    path = folder / f"{name}{ending}"
    card = replace(card, class_names=NAMES, preprocessing=small or card.preprocessing)
    write_checkpoint(path, model.state_dict(), card)
    return path


def write_video(path: Path, num_frames: int = 90, *, height: int = 80, width: int = 96) -> Path:
    """H.264 at 30 frames a second; a bright square wanders over noise, seeded by the number of frames."""
    rng = np.random.default_rng(num_frames)
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=30)
        stream.width, stream.height, stream.pix_fmt = width, height, "yuv420p"
        stream.options = {"g": "25"}
        ground = rng.integers(0, 120, (height, width, 3), dtype=np.uint8)
        for number in range(num_frames):
            frame = ground.copy()
            left = 2 * number % (width - 16)
            frame[20:36, left : left + 16] = (255, 200, number * 2 % 256)
            container.mux(stream.encode(av.VideoFrame.from_ndarray(frame, format="rgb24")))
        container.mux(stream.encode())
    return path
