"""Reading the frames that a sample needs: functions that a helper process can run under a time limit.

They take what `VideoList.opener` gives, and what they return is small: frames are scaled down as they are decoded.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import numpy as np

from mvidx.data import sampling
from mvidx.data.transforms import resized_frame


@dataclass(frozen=True)
class ClipSampling:
    """How a clip's frames are picked from a video.

    Attributes:
        num_frames: frames of a clip.
        sampling_rate: distance of its frames, in frames at `target_fps`.
        target_fps: frames a second that `sampling_rate` refers to.
        segments: pick one frame from each of `num_frames` equal segments instead (Something-Something).
        use_offset: see `sampling.uniform_view_indices`.
        jitter_fps: random clips are sampled for `target_fps` plus up to this.
    """

    num_frames: int
    sampling_rate: float = 1
    target_fps: float = 30
    segments: bool = False
    use_offset: bool = True
    jitter_fps: float = 0.0

    def random(self, num_video_frames: int, fps: float, rng: np.random.Generator) -> np.ndarray:
        """Indices of a random clip, int64 (num_frames,)."""
        if self.segments:
            return sampling.random_segment_indices(num_video_frames, self.num_frames, rng=rng)
        target_fps = self.target_fps + (rng.uniform(0, self.jitter_fps) if self.jitter_fps else 0.0)
        return sampling.random_clip_indices(
            num_video_frames,
            fps,
            num_frames=self.num_frames,
            sampling_rate=self.sampling_rate,
            target_fps=target_fps,
            rng=rng,
        )

    def views(self, num_video_frames: int, fps: float, num_views: int) -> np.ndarray:
        """Indices of test views, int64 (num_views, num_frames)."""
        if self.segments:
            return np.stack([sampling.segment_indices(num_video_frames, self.num_frames)] * num_views)
        return sampling.uniform_view_indices(
            num_video_frames,
            fps,
            num_frames=self.num_frames,
            sampling_rate=self.sampling_rate,
            num_views=num_views,
            target_fps=self.target_fps,
            use_offset=self.use_offset,
        )


def read_random_clip(
    opener: Callable, clip: ClipSampling, rng: np.random.Generator, each_frame: Callable | None
) -> tuple[np.ndarray, str, np.random.Generator]:
    """A random clip of a video.

    Args:
        opener: opens the video, see `VideoList.opener`.
        clip: how its frames are picked.
        rng: draws the place.
        each_frame: uint8 (H, W, 3) -> uint8 (h, w, 3), called while decoding; None for nothing.

    Returns:
        frames uint8 (T, h, w, 3), the name of what decoded them, and `rng` after its draws.

    Raises:
        VideoError: it can't be read.
    """
    with opener() as video:
        indices = clip.random(video.num_frames, video.fps, rng)
        frames = video.get_frames(indices, transform=each_frame)
        return frames, video.decoder, rng


def read_views(
    opener: Callable,
    clip: ClipSampling,
    *,
    num_views: int,
    short_side: int,
    antialias: bool = False,
    shuffle: np.random.Generator | None = None,
) -> tuple[np.ndarray, np.ndarray, str]:
    """All temporal views of a test video, from one decode.

    Args:
        opener, clip: see `read_random_clip`.
        num_views: views.
        short_side: pixels that the short side is scaled to.
        antialias: smooth before scaling down.
        shuffle: shuffles the frames of each view.

    Returns:
        frames uint8 (N, h, w, 3), each once; rows int64 (num_views, T), which of them a view is made of; the name of
        what decoded them.

    Raises:
        VideoError: it can't be read.
    """
    with opener() as video:
        indices = clip.views(video.num_frames, video.fps, num_views)
        if shuffle is not None:
            indices = shuffle.permuted(indices, axis=1)
        needed, rows = np.unique(indices, return_inverse=True)
        each_frame = partial(resized_frame, short_side=short_side, antialias=antialias)
        frames = video.get_frames(needed, transform=each_frame)
        return frames, rows.reshape(indices.shape), video.decoder
