"""Which frames a clip is made of: pure functions from a video's length and rate to frame indices.

The numbers are PySlowFast's (`slowfast/datasets/decoder.py` and `ssv2.py` at 287ec00): a clip spans
`num_frames * sampling_rate / target_fps` seconds, its indices are spread evenly over that span in single
precision, cut down to integers and clamped to the video.
"""

import math

import numpy as np


def clip_span(num_frames: int, sampling_rate: float, fps: float, target_fps: float) -> float:
    """Length of a clip's span in frames of the video, at least 1."""
    return max(1.0, num_frames * sampling_rate / target_fps * fps)


def _spread(start: float, span: float, num_frames: int, num_video_frames: int) -> np.ndarray:
    """int64 (num_frames,): evenly from `start` to the last frame of the span, clamped to the video.

    The arithmetic is torch.linspace's on float32, which fills the second half from the end backwards: that
    decides on which side of an integer a product falls.
    """
    end = np.float32(start + span - 1)
    start = np.float32(start)
    if num_frames == 1:
        points = np.array([start], np.float32)
    else:
        step = np.float32((end - start) / np.float32(num_frames - 1))
        index = np.arange(num_frames, dtype=np.float32)
        backwards = np.float32(num_frames - 1) - index
        points = np.where(np.arange(num_frames) < num_frames // 2, start + step * index, end - step * backwards)
    return np.clip(points, 0, num_video_frames - 1).astype(np.int64)


def _check(num_video_frames: int, num_frames: int) -> None:
    if num_video_frames < 1 or num_frames < 1:
        raise ValueError(
            f"num_video_frames={num_video_frames} and num_frames={num_frames}, expected at least 1 of each"
        )


def uniform_view_indices(
    num_video_frames: int,
    fps: float,
    *,
    num_frames: int,
    sampling_rate: float,
    num_views: int,
    target_fps: float = 30,
    use_offset: bool = True,
) -> np.ndarray:
    """Frame indices of evenly placed test views.

    Args:
        num_video_frames: frames of the video.
        fps: its frames a second.
        num_frames: frames of a view.
        sampling_rate: distance of a view's frames, in frames at `target_fps`.
        num_views: views, placed from the start to the end of the video.
        target_fps: frames a second that `sampling_rate` refers to.
        use_offset: place the first view at the start and the last at the end, a single one in the middle
            (PySlowFast's DATA.USE_OFFSET_SAMPLING); otherwise view i starts at i / num_views of the room.

    Returns:
        int64 (num_views, num_frames), clamped to the video.
    """
    _check(num_video_frames, num_frames)
    span = clip_span(num_frames, sampling_rate, fps, target_fps)
    room = max(num_video_frames - span, 0)
    if not use_offset:
        starts = [room * view / num_views for view in range(num_views)]
    elif num_views == 1:
        starts = [math.floor(room / 2)]
    else:
        starts = [view * math.floor(room / (num_views - 1)) for view in range(num_views)]
    return np.stack([_spread(start, span, num_frames, num_video_frames) for start in starts])


def random_clip_indices(
    num_video_frames: int,
    fps: float,
    *,
    num_frames: int,
    sampling_rate: float,
    target_fps: float = 30,
    rng: np.random.Generator,
) -> np.ndarray:
    """Frame indices of one clip at a random place: int64 (num_frames,). Arguments as `uniform_view_indices`."""
    _check(num_video_frames, num_frames)
    span = clip_span(num_frames, sampling_rate, fps, target_fps)
    start = rng.uniform(0, max(num_video_frames - span, 0))
    return _spread(start, span, num_frames, num_video_frames)


def _segment_edges(num_video_frames: int, num_frames: int) -> tuple[list[int], list[int]]:
    """First and last frame of each of `num_frames` equal segments."""
    _check(num_video_frames, num_frames)
    length = (num_video_frames - 1) / num_frames
    edges = [round(length * i) for i in range(num_frames + 1)]
    return edges[:-1], edges[1:]


def segment_indices(num_video_frames: int, num_frames: int) -> np.ndarray:
    """The middle frame of each of `num_frames` equal segments: int64 (num_frames,)."""
    first, last = _segment_edges(num_video_frames, num_frames)
    return np.array([(a + b) // 2 for a, b in zip(first, last, strict=True)], np.int64)


def random_segment_indices(num_video_frames: int, num_frames: int, *, rng: np.random.Generator) -> np.ndarray:
    """A random frame of each of `num_frames` equal segments: int64 (num_frames,)."""
    first, last = _segment_edges(num_video_frames, num_frames)
    return rng.integers(first, last, endpoint=True, dtype=np.int64)
