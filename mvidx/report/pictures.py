"""Small pictures of videos, as data URIs."""

import base64
import os
from pathlib import Path

import cv2
import numpy as np

from mvidx.data.annotations import VideoList
from mvidx.data.errors import VideoError
from mvidx.data.folders import IMAGE_ENDINGS
from mvidx.data.images import FrameLists, ImageList

NUM_FRAMES = 4
HEIGHT = 96  # pixels
QUALITY = 78  # of JPEG


def opened(path: Path):
    """Open whatever a list of videos may hold: a video, an image, or a folder of frames. See `VideoList.open`."""
    if path.is_dir():
        frames = sorted(entry.path for entry in os.scandir(path) if entry.name.lower().endswith(IMAGE_ENDINGS))
        if not frames:
            raise VideoError(str(path), "a folder without images")
        return FrameLists([frames], [0]).open(0)
    kind = ImageList if path.name.lower().endswith(IMAGE_ENDINGS) else VideoList
    return kind([str(path)], [0]).open(0, "pyav")


def find_file(path: str, roots: list[Path]) -> Path:
    """A recorded path where it lies now. Raises VideoError when no root has it."""
    for candidate in (Path(path), *(root / path for root in roots)):
        if candidate.exists():
            return candidate
    raise VideoError(path, "is no longer there")


def film_strip(path: Path, *, num_frames: int = NUM_FRAMES, height: int = HEIGHT) -> np.ndarray:
    """uint8 (height, width, 3), red first: frames from the start to the end side by side; of an image, the image."""
    with opened(path) as video:
        count = min(num_frames, video.num_frames)
        indices = ((np.arange(count) + 0.5) * video.num_frames / count).astype(np.int64)
        frames = video.get_frames(indices)
    width = max(1, min(4 * height, round(frames.shape[2] * height / frames.shape[1])))
    return np.concatenate(
        [cv2.resize(frame, (width, height), interpolation=cv2.INTER_AREA) for frame in frames], axis=1
    )


def data_uri(picture: np.ndarray) -> str:
    """JPEG of uint8 (H, W, 3), red first, as a data URI."""
    encoded = cv2.imencode(".jpg", cv2.cvtColor(picture, cv2.COLOR_RGB2BGR), [cv2.IMWRITE_JPEG_QUALITY, QUALITY])[1]
    return f"data:image/jpeg;base64,{base64.b64encode(encoded.tobytes()).decode()}"


def picture(path: str, roots: list[Path]) -> tuple[str | None, str]:
    """(data URI of a video's film strip, "") or (None, the reason why there is none)."""
    try:
        return data_uri(film_strip(find_file(path, roots))), ""
    except VideoError as error:
        return None, error.reason
    except Exception as error:  # a picture less is no reason to lose the report
        return None, f"{type(error).__name__}: {error}"
