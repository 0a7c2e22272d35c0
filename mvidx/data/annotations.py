"""Lists of videos with labels: reading and checking them, and holding millions of rows in little memory."""

import json
import os
from array import array
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path

import numpy as np
from iopath.common.file_io import g_pathmgr

from mvidx.errors import UserError


class DataError(UserError):
    """Data that can't be used: the message names the file, the row and what was expected."""


class Paths:
    """Strings in one buffer, some hundred bytes less for each than in a list.

    Args:
        paths: what to begin with.
    """

    def __init__(self, paths: Iterable[str] = ()):
        self._buffer = bytearray()
        self._ends = array("q")
        for path in paths:
            self.append(path)

    def append(self, path: str) -> None:
        self._buffer += os.fsencode(path)
        self._ends.append(len(self._buffer))

    def __len__(self) -> int:
        return len(self._ends)

    def __getitem__(self, index: int) -> str:
        if not 0 <= index < len(self):
            raise IndexError(index)
        start = self._ends[index - 1] if index else 0
        return os.fsdecode(bytes(self._buffer[start : self._ends[index]]))


class VideoList:
    """Paths and labels of a split, in flat arrays that worker processes share without copies.

    Args:
        paths: one a video.
        labels: int, one a video.
        source: the file they came from, for messages.
        rows: line number of each in `source`, from 1; None where it has none.
    """

    def __init__(
        self, paths: Iterable[str], labels: Iterable[int], *, source: str = "", rows: Iterable[int] | None = None
    ):
        self._paths = paths if isinstance(paths, Paths) else Paths(paths)
        self.labels = np.fromiter(labels, np.int32)
        self.source = source
        self.rows = None if rows is None else np.fromiter(rows, np.int32)

    def __len__(self) -> int:
        return len(self._paths)

    def path(self, index: int) -> str:
        """Path of video `index`."""
        return self._paths[index]

    def problem(self, index: int) -> str | None:
        """What is plainly wrong with the file of video `index`, without decoding; None for nothing."""
        return file_problem(self.path(index))

    def opener(self, index: int, backend: str = "decord") -> Callable:
        """What opens video `index`: picklable, without arguments; gives what `decode.open_video` does."""
        from mvidx.data.decode import open_video

        return partial(open_video, self.path(index), backend)

    def open(self, index: int, backend: str = "decord"):
        """Open video `index`: a context manager, see `decode.open_video`."""
        return self.opener(index, backend)()

    def where(self, index: int) -> str:
        """'FILE, row N' of video `index`, for messages."""
        return f"{self.source}, row {index + 1 if self.rows is None else self.rows[index]}"

    def class_counts(self, num_classes: int) -> np.ndarray:
        """(classes,): how many videos have each label."""
        return np.bincount(self.labels, minlength=num_classes)


class MultiLabelList(VideoList):
    """Videos with any number of labels each. `labels` says which row of `targets` a video has.

    Args:
        paths: one a video.
        label_sets: the labels of each.
        num_classes: width of the targets.
        source, rows: see `VideoList`.
    """

    def __init__(
        self,
        paths: Iterable[str],
        label_sets: Sequence[Sequence[int]],
        *,
        num_classes: int,
        source: str = "",
        rows: Iterable[int] | None = None,
    ):
        super().__init__(paths, range(len(label_sets)), source=source, rows=rows)
        self.num_classes = num_classes
        self._flat = np.fromiter((label for labels in label_sets for label in labels), np.int32)
        self._bounds = np.cumsum([0, *map(len, label_sets)], dtype=np.int64)

    def targets(self, rows: Iterable[int]) -> np.ndarray:
        """uint8 (N, classes), 1 for each label of the rows (as `labels` has them) of N videos."""
        rows = list(rows)
        targets = np.zeros((len(rows), self.num_classes), np.uint8)
        for target, row in zip(targets, rows, strict=True):
            target[self._flat[self._bounds[row] : self._bounds[row + 1]]] = 1
        return targets

    def class_counts(self, num_classes: int) -> np.ndarray:
        return np.bincount(self._flat, minlength=num_classes)


_SEPARATORS = (" ", ",", "\t")
_NO_LABELS = ("-", '""')


def split_row(row: str, separator: str) -> tuple[str, str]:
    """(path, label) of a row, split at its last separator, so that a path may hold spaces."""
    for candidate in (separator, *_SEPARATORS):
        path, found, label = row.rpartition(candidate)
        if found and label.strip().lstrip("-").isdigit():
            return path.strip(), label.strip()
    raise ValueError


def _split_labels(row: str, separator: str) -> tuple[str, list[int]]:
    """(path, labels) of a row `path 3,17,42`: split at the last separator, a tab or a space."""
    separators = (separator, "\t", " ") if separator.strip(" ,") else ("\t", " ")
    for candidate in separators:
        path, found, labels = row.rpartition(candidate)
        labels = labels.strip()
        if found and path.strip() and labels in _NO_LABELS:
            return path.strip(), []
        numbers = labels.strip('"').split(",")
        if found and path.strip() and all(number.strip().isdigit() for number in numbers):
            return path.strip(), sorted({int(number) for number in numbers})
    raise ValueError


def read_multi_label_list(
    file: str | os.PathLike, *, num_classes: int, prefix: str = "", separator: str = " ", root: str | os.PathLike = ""
) -> MultiLabelList:
    """Read rows of a path and its labels, joined by commas: `path 3,17,42`, or `path -` for a video with none.

    Args:
        file: text file, one video a row; empty rows are passed over.
        num_classes: labels must be below.
        prefix: folder put before every path.
        separator: between path and labels, no comma; a tab or a space is recognised anyway.
        root: folder that relative paths are looked for in when they are not found as they stand.

    Raises:
        DataError: as `read_video_list`.
    """
    label_sets: list[list[int]] = []

    def split(row: str) -> tuple[str, list[int]]:
        path, labels = _split_labels(row, separator)
        label_sets.append(labels)
        return path, labels

    file = os.fspath(file)
    expected = "'path label,label,...' (or 'path -' for no label)"
    paths, rows = _read_rows(file, split, num_classes=num_classes, prefix=prefix, root=root, expected=expected)
    return MultiLabelList(paths, label_sets, num_classes=num_classes, source=file, rows=rows)


def _read_rows(
    file: str,
    split: Callable[[str], tuple[str, list[int]]],
    *,
    num_classes: int,
    prefix: str,
    root: str | os.PathLike,
    expected: str,
) -> tuple[Paths, Sequence[int]]:
    """(paths, row numbers) of a list; `split` gives path and labels of a row, and ValueError for another row."""
    if not g_pathmgr.isfile(file):
        raise DataError(f"annotation file {file} does not exist")
    paths, rows = Paths(), array("i")
    with g_pathmgr.open(file, "r") as lines:
        for number, line in enumerate(lines, start=1):
            if not line.strip():
                continue
            try:
                path, labels = split(line.rstrip("\r\n"))
            except ValueError:
                raise DataError(f"{file}, row {number}: {line.strip()!r} has no label, expected {expected}") from None
            for label in labels:
                if not 0 <= label < num_classes:
                    raise DataError(
                        f"{file}, row {number}: label {label} is outside the {num_classes} classes "
                        f"(0 to {num_classes - 1})"
                    )
            path = os.path.join(prefix, path)
            if not paths:  # the first says what all are relative to
                found = os.path.isabs(path) or "://" in path or os.path.exists(path)
                base = "" if found else root
            paths.append(os.path.join(base, path))
            rows.append(number)
    if not paths:
        raise DataError(f"annotation file {file} is empty, expected rows of {expected}")
    return paths, rows


def read_video_list(
    file: str | os.PathLike, *, num_classes: int, prefix: str = "", separator: str = " ", root: str | os.PathLike = ""
) -> VideoList:
    """Read `path label` rows, as PySlowFast's CSV files have them.

    Args:
        file: text file, one video a row; empty rows are passed over.
        num_classes: labels must be below.
        prefix: folder put before every path (PySlowFast's DATA.PATH_PREFIX).
        separator: between path and label; a space, comma or tab is recognised anyway.
        root: folder that relative paths are looked for in when they are not found as they stand.

    Raises:
        DataError: missing or empty file, a row without a label, a label outside the classes; each names
            file and row.
    """
    all_labels = array("i")

    def split(row: str) -> tuple[str, list[int]]:
        path, label = split_row(row, separator)
        all_labels.append(int(label))
        return path, [int(label)]

    file = os.fspath(file)
    paths, rows = _read_rows(file, split, num_classes=num_classes, prefix=prefix, root=root, expected="'path label'")
    return VideoList(paths, all_labels, source=file, rows=rows)


# How files of the known containers begin, as (offset, bytes).
_CONTAINER_SIGNATURES = (
    *((4, box) for box in (b"ftyp", b"moov", b"mdat", b"wide", b"free", b"skip", b"pnot")),  # MP4, MOV
    (0, b"\x1a\x45\xdf\xa3"),  # Matroska, WebM
    (0, b"RIFF"),  # AVI
    (0, b"FLV"),
    (0, b"OggS"),
    (0, b"\x30\x26\xb2\x75"),  # WMV, ASF
    (0, b"\x47"),  # MPEG transport stream
    (4, b"\x47"),  # the same with time codes (.m2ts)
    (0, b"\x00\x00\x01"),  # MPEG program and elementary streams
    (0, b"\x00\x00\x00\x01"),  # raw H.264, HEVC
    (0, b"GIF8"),
)


def file_problem(path: str) -> str | None:
    """What is plainly wrong with a video file, without decoding: missing, empty, or no video at all."""
    try:
        local = g_pathmgr.get_local_path(path)
        size = os.path.getsize(local)
        with open(local, "rb") as file:
            head = file.read(16)
    except OSError as error:
        return "does not exist" if isinstance(error, FileNotFoundError) else f"can't be read ({error.strerror})"
    if size == 0:
        return "is empty"
    if any(head.startswith(signature, offset) for offset, signature in _CONTAINER_SIGNATURES):
        return None
    import av

    from mvidx.data.decode import VideoError, open_video

    try:
        with av.logging.Capture(), open_video(path, "pyav"):  # the reason is enough, without FFmpeg's own line
            return None
    except VideoError as error:
        return f"is not a video ({error.reason})"


def find_bad_files(videos: VideoList, *, limit: int) -> list[tuple[int, str]]:
    """(index, problem) of files that plainly can't be read, among the first `limit`, looked at in parallel."""
    count = min(limit, len(videos))
    with ThreadPoolExecutor(16) as pool:
        problems = pool.map(videos.problem, range(count))
        return [(index, problem) for index, problem in enumerate(problems) if problem]


def check_files(videos: VideoList, *, limit: int) -> None:
    """Raise DataError, naming row and path of every bad file, when one of the first `limit` can't be a video."""
    bad = find_bad_files(videos, limit=limit)
    if bad:
        index, problem = bad[0]
        more = f" (and {len(bad) - 1} more like it)" if len(bad) > 1 else ""
        raise DataError(f"{videos.where(index)}: {videos.path(index)} {problem}{more}")


def read_class_names(file: str | os.PathLike, num_classes: int) -> list[str]:
    """Names of the classes: one a line, or JSON, a list of them or {name: label}.

    Raises:
        DataError: the file is missing or is no such JSON, or their number is not `num_classes`.
    """
    if not g_pathmgr.isfile(os.fspath(file)):
        raise DataError(f"{file} does not exist, expected the names of the classes")
    text = Path(g_pathmgr.get_local_path(os.fspath(file))).read_text()
    if os.fspath(file).endswith(".json"):
        try:
            content = json.loads(text)
            names = sorted(content, key=lambda name: int(content[name])) if isinstance(content, dict) else content
            names = [str(name) for name in names]
        except (ValueError, TypeError) as error:
            raise DataError(f"{file} is not a list of names or {{name: label}}: {error}") from None
    else:
        names = [line.strip() for line in text.splitlines() if line.strip()]
    if len(names) != num_classes:
        raise DataError(f"{file} names {len(names)} classes, expected {num_classes} (MODEL.NUM_CLASSES)")
    return names


def numbered_names(num_classes: int) -> Sequence[str]:
    """Stand-ins where no names are known: '0', '1', ..."""
    return [str(label) for label in range(num_classes)]
