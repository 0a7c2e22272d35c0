"""What is predicted: videos and images from files, folders and lists, and what opens one."""

import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

from mvidx.data.annotations import split_row
from mvidx.data.decode import open_video
from mvidx.data.errors import VideoError
from mvidx.data.folders import IMAGE_ENDINGS, VIDEO_ENDINGS
from mvidx.data.images import Frames, StillImage, missing_or_empty, read_image
from mvidx.errors import UserError

LIST_ENDINGS = (".txt", ".csv", ".tsv")


@dataclass(frozen=True)
class Input:
    """A video or image.

    Attributes:
        path: of the file, or of the folder that holds its frames.
        name: what tells it from the others: its path below the folder it was found in, or its file's name.
        frames: paths of its frames, for a folder of them.
    """

    path: str
    name: str
    frames: tuple[str, ...] = ()

    @contextmanager
    def open(self, *, images: bool, backend: str = "decord") -> Iterator:
        """What has `num_frames`, `fps` and `get_frames`. Raises VideoError for what can't be read."""
        ending = os.path.splitext(self.path)[1].lower()
        if problem := None if self.frames else missing_or_empty(self.path):
            raise VideoError(self.path, problem)
        if images and (self.frames or ending in VIDEO_ENDINGS):
            raise VideoError(self.path, "is a video, but the model takes images")
        if not images and not self.frames and ending in IMAGE_ENDINGS:
            raise VideoError(self.path, "is an image, but the model takes clips")
        if images:
            yield StillImage(read_image(self.path))
        elif self.frames:
            yield Frames(self.frames)
        else:
            with open_video(self.path, backend) as video:
                yield video


def _in_folder(folder: str, *, images: bool) -> Iterator[Input]:
    """Every video below a folder, or every image; for clips a folder of images alone is one video."""
    for here, folders, files in os.walk(folder):
        folders.sort()
        files.sort()
        pictures = [os.path.join(here, file) for file in files if file.lower().endswith(IMAGE_ENDINGS)]
        videos = [os.path.join(here, file) for file in files if file.lower().endswith(VIDEO_ENDINGS)]
        if not images and pictures and not videos:
            name = os.path.relpath(here, folder)
            yield Input(here, os.path.basename(os.path.abspath(here)) if name == "." else name, tuple(pictures))
            continue
        for path in pictures if images else videos:
            yield Input(path, os.path.relpath(path, folder))


def _in_list(file: str) -> Iterator[Input]:
    """The rows of a list: a path, or a path and a label. Relative paths may be relative to the list."""
    try:
        with open(file) as lines:
            rows = [line.strip() for line in lines if line.strip()]
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"list {file} can't be read: {error}") from None
    for row in rows:
        path = row
        if not os.path.exists(row):
            try:
                path, _ = split_row(row, " ")
            except ValueError:
                path = row
        beside = os.path.join(os.path.dirname(file), path)
        found = beside if not os.path.exists(path) and os.path.exists(beside) else path
        if os.path.isdir(found):
            yield from _in_folder(found, images=False)
        else:
            yield Input(found, path.lstrip("/"))


def find_inputs(paths: Sequence[str | os.PathLike], *, images: bool) -> list[Input]:
    """The videos (or images) of files, folders (searched to any depth) and lists, in that order.

    Raises UserError for a folder or list without any. A path that does not exist is an input that can't be read.
    """
    found: list[Input] = []
    for path in map(os.fspath, paths):
        if os.path.isdir(path):
            inside = list(_in_folder(path, images=images))
            if not inside:
                raise UserError(f"folder {path} holds no {'images' if images else 'videos'}")
        elif path.lower().endswith(LIST_ENDINGS) and os.path.exists(path):
            inside = list(_in_list(path))
            if not inside:
                raise UserError(f"list {path} is empty")
        else:
            inside = [Input(path, os.path.basename(path))]
        found += inside
    return found
