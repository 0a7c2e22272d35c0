"""Datasets that are a folder per class: ROOT/train/CLASS/FILE, ROOT/val/CLASS/FILE, of videos or of images."""

import os
import re
from pathlib import Path

from mvidx.data.annotations import DataError, VideoList
from mvidx.data.images import ImageList

IMAGE_ENDINGS = (".jpeg", ".jpg", ".png", ".webp", ".bmp", ".tif", ".tiff", ".ppm")
VIDEO_ENDINGS = (".mp4", ".webm", ".avi", ".mkv", ".mov", ".m4v", ".mpg", ".mpeg", ".ts", ".flv", ".wmv", ".3gp")
WORDNET = re.compile(r"^n\d+$")


def split_folder(root: Path, split: str) -> Path:
    """The folder of a split; where there is none of "test", that of "val".

    Raises:
        DataError: it does not exist.
    """
    names = ("test", "val") if split == "test" else (split,)
    for name in names:
        if (root / name).is_dir():
            return root / name
    raise DataError(f"folder {root / names[-1]} does not exist, expected a folder per class in it")


def class_folders(root: Path) -> list[str]:
    """Names of the classes, sorted: the folders in ROOT/train (or ROOT/val); wordnet ids alone where there are any."""
    folder = root / "train" if (root / "train").is_dir() else split_folder(root, "val")
    names = sorted(entry.name for entry in os.scandir(folder) if entry.is_dir())
    ids = [name for name in names if WORDNET.match(name)]
    if not names:
        raise DataError(f"{folder} has no folders, expected one per class")
    return ids or names


def read_class_folders(root: str | os.PathLike, split: str, *, num_classes: int) -> VideoList:
    """A split of a dataset that is a folder per class; labels follow the sorted names.

    Returns:
        An `ImageList` when the files are images, a `VideoList` when they are videos.

    Raises:
        DataError: a folder is missing or empty, there are more classes than `num_classes`, or images and
            videos stand side by side; named.
    """
    root = Path(root)
    folder, names = split_folder(root, split), class_folders(root)
    if len(names) > num_classes:
        raise DataError(f"{root} has {len(names)} classes, MODEL.NUM_CLASSES is {num_classes}")
    paths: list[str] = []
    labels: list[int] = []
    for label, name in enumerate(names):
        if not (folder / name).is_dir():
            continue
        files = sorted(entry.path for entry in os.scandir(folder / name) if entry.is_file())
        files = [path for path in files if path.lower().endswith((*IMAGE_ENDINGS, *VIDEO_ENDINGS))]
        paths += files
        labels += [label] * len(files)
    if not paths:
        raise DataError(f"{folder} has no videos and no images in the folders of its classes")
    images = [path.lower().endswith(IMAGE_ENDINGS) for path in paths]
    if any(images) != all(images):
        raise DataError(
            f"{folder} holds images ({paths[images.index(True)]}) and videos ({paths[images.index(False)]})"
        )
    kind = ImageList if images[0] else VideoList
    return kind(paths, labels, source=str(folder))
