"""Looking through a dataset before a training does: what can't be read, is short, odd, missing or there twice."""

import hashlib
import os
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field

import cv2
import numpy as np
from iopath.common.file_io import g_pathmgr

from mvidx.data.annotations import VideoList
from mvidx.data.errors import VideoError
from mvidx.data.guard import decode_with_timeout

USUAL_FPS = (10, 61)
_HASHED_BYTES = 1 << 16
_SHOWN = 10


@dataclass
class Facts:
    """What is known of one video.

    Attributes:
        index: which of the list.
        problem: why it can't be read, or "".
        missing: the file does not exist.
        num_frames, fps, height, width: of a video that can be read.
        decoder: what decoded it.
        content: alike for files that hold the same bytes (their size, beginning and end), "" for folders of frames.
    """

    index: int
    problem: str = ""
    missing: bool = False
    num_frames: int = 0
    fps: float = 0.0
    height: int = 0
    width: int = 0
    decoder: str = ""
    content: str = ""


def _tiny(frame: np.ndarray) -> np.ndarray:
    """A frame that takes no memory, where only decoding counts."""
    return cv2.resize(frame, (1, 1), interpolation=cv2.INTER_NEAREST)


def look_at(opener: Callable, full: bool) -> dict:
    """Open a video and decode its first, middle and last frame, or all of them; returns what `Facts` has of it.

    Raises:
        VideoError: it can't be read.
    """
    with opener() as video:
        last = video.num_frames - 1
        indices = range(video.num_frames) if full else sorted({0, last // 2, last})
        height, width = video.get_frames([0]).shape[1:3]
        video.get_frames(list(indices), transform=_tiny)
        return {
            "num_frames": int(video.num_frames),
            "fps": round(float(video.fps), 3),
            "height": int(height),
            "width": int(width),
            "decoder": video.decoder,
        }


def _content(path: str) -> str:
    """A mark that two files share when their size, beginning and end are the same; "" for what is no file."""
    local = g_pathmgr.get_local_path(path)
    if not os.path.isfile(local):
        return ""
    digest = hashlib.blake2b(str(size := os.path.getsize(local)).encode(), digest_size=16)
    with open(local, "rb") as file:
        digest.update(file.read(_HASHED_BYTES))
        file.seek(max(0, size - _HASHED_BYTES))
        digest.update(file.read(_HASHED_BYTES))
    return digest.hexdigest()


def check_video(videos: VideoList, index: int, *, backend: str, timeout_seconds: float, full: bool) -> Facts:
    """`Facts` of one video."""
    path = videos.path(index)
    try:
        plain = videos.problem(index)
        if plain:
            return Facts(index, plain, missing="does not exist" in plain)
        known = decode_with_timeout(
            look_at, videos.opener(index, backend), full, timeout_seconds=timeout_seconds, path=path
        )
        return Facts(index, content=_content(path), **known)
    except VideoError as error:
        return Facts(index, error.reason)
    except OSError as error:
        return Facts(index, error.strerror or str(error))


def check_videos(
    videos: VideoList, *, backend: str, timeout_seconds: float, full: bool = False, num_threads: int = 4
) -> Iterator[Facts]:
    """`Facts` of all videos of a list, in order; each thread has videos decoded in a process of its own."""

    def check(index: int) -> Facts:
        return check_video(videos, index, backend=backend, timeout_seconds=timeout_seconds, full=full)

    with ThreadPoolExecutor(num_threads) as pool:
        # A few at a time: a list of millions must not stand in a queue.
        for start in range(0, len(videos), 1024):
            yield from pool.map(check, range(start, min(start + 1024, len(videos))))


@dataclass
class Report:
    """What was found in a split. Each finding is a list of (row, path, what).

    Attributes:
        split: name.
        source: the annotation file or folder.
        num_videos, num_frames: totals.
        unreadable, missing, short, odd_frame_rate, duplicates: findings; the first two can't be trained on.
        class_counts: videos of each label, all of those of the classes.
        decoders: how many videos each decoder read.
        durations: seconds, (shortest, median, longest).
        frame_sizes: "WxH" -> videos, the ten most frequent.
        bad: indices of what is unreadable or missing.
    """

    split: str
    source: str
    num_videos: int = 0
    num_frames: int = 0
    unreadable: list[tuple[str, str, str]] = field(default_factory=list)
    missing: list[tuple[str, str, str]] = field(default_factory=list)
    short: list[tuple[str, str, str]] = field(default_factory=list)
    odd_frame_rate: list[tuple[str, str, str]] = field(default_factory=list)
    duplicates: list[tuple[str, str, str]] = field(default_factory=list)
    class_counts: list[int] = field(default_factory=list)
    decoders: dict[str, int] = field(default_factory=dict)
    durations: tuple[float, ...] = ()
    frame_sizes: dict[str, int] = field(default_factory=dict)
    bad: list[int] = field(default_factory=list)

    FINDINGS = ("unreadable", "missing", "short", "odd_frame_rate", "duplicates")


def make_report(
    split: str,
    videos: VideoList,
    facts: Sequence[Facts],
    *,
    class_counts: Sequence[int],
    clip_seconds: float,
    seen: dict[str, str],
) -> Report:
    """Sort the facts of a split into findings.

    Args:
        split: its name.
        videos, facts: one for each.
        class_counts: videos of each label.
        clip_seconds: what a clip spans; shorter videos are named. 0 where clips span whatever there is.
        seen: {content: where it was seen first}, of splits before; filled.
    """
    report = Report(split, videos.source, len(videos), class_counts=list(class_counts))
    paths: dict[str, int] = {}
    for known in facts:
        path, where = videos.path(known.index), videos.where(known.index)
        first = paths.setdefault(path, known.index)
        if first != known.index:
            report.duplicates.append((where, path, f"the same path as {videos.where(first)}"))
        if known.problem:
            (report.missing if known.missing else report.unreadable).append((where, path, known.problem))
            report.bad.append(known.index)
            continue
        seconds = known.num_frames / known.fps if known.fps else 0.0
        if clip_seconds and seconds < clip_seconds and known.num_frames > 1:
            what = f"{known.num_frames} frames, {seconds:.2f} s, where a clip spans {clip_seconds:.2f} s"
            report.short.append((where, path, what))
        if known.num_frames > 1 and not USUAL_FPS[0] <= known.fps <= USUAL_FPS[1]:
            report.odd_frame_rate.append((where, path, f"{known.fps:g} frames a second"))
        if known.content and first == known.index and seen.setdefault(known.content, where) != where:
            report.duplicates.append((where, path, f"the same content as {seen[known.content]}"))
    good = [known for known in facts if not known.problem]
    report.num_frames = sum(known.num_frames for known in good)
    report.decoders = dict(Counter(known.decoder for known in good))
    report.frame_sizes = dict(Counter(f"{known.width}x{known.height}" for known in good).most_common(10))
    lengths = [known.num_frames / known.fps for known in good if known.fps]
    report.durations = tuple(round(float(q), 2) for q in np.quantile(lengths, [0, 0.5, 1])) if lengths else ()
    return report


def print_report(report: Report, class_names: Sequence[str]) -> None:
    """Print what a person wants to see of a report."""
    print(f"{report.split}: {report.num_videos} videos of {report.source}, {report.num_frames} frames")
    if report.durations:
        print(f"  seconds: {report.durations[0]} to {report.durations[2]}, median {report.durations[1]}")
    for name, values in (("decoded by", report.decoders), ("frame sizes", report.frame_sizes)):
        if values:
            print(f"  {name}: " + ", ".join(f"{key} {count}" for key, count in values.items()))
    counts = np.array(report.class_counts)
    print(f"  videos a class: {counts.min()} to {counts.max()}, median {np.median(counts):g}")
    empty = [class_names[label] for label in np.flatnonzero(counts == 0)]
    if empty:
        more = f" and {len(empty) - _SHOWN} more" if len(empty) > _SHOWN else ""
        print(f"  classes without a video: {', '.join(empty[:_SHOWN])}{more}")
    for name in Report.FINDINGS:
        found = getattr(report, name)
        print(f"  {name.replace('_', ' ')}: {len(found)}")
        for where, path, what in found[:_SHOWN]:
            print(f"    {where}: {path}: {what}")
        if len(found) > _SHOWN:
            print(f"    and {len(found) - _SHOWN} more, all in the report")


def rows_without(videos: VideoList, bad: Sequence[int]) -> list[str]:
    """Lines of the annotation of a list without the videos `bad` (indices).

    A list of rows keeps its other rows as they are; of folders and JSON files it becomes rows of `path label`.
    """
    dropped = set(bad)
    rows = videos.rows
    if rows is None:
        kept = [i for i in range(len(videos)) if i not in dropped]
        return [f"{videos.path(i)} {int(videos.labels[i])}\n" for i in kept]
    numbers = {int(rows[i]) for i in dropped}
    with g_pathmgr.open(videos.source, "r") as source:
        return [line for number, line in enumerate(source, start=1) if number not in numbers]
