"""Something-Something v2: the official JSON files, with frame folders or videos."""

import json
import os
from pathlib import Path

from iopath.common.file_io import g_pathmgr

from mvidx.data.annotations import DataError, VideoList, read_video_list
from mvidx.data.images import FrameLists, is_frame_list, read_frame_lists

NAME = "something-something-v2"
VIDEO_FOLDERS = ("20bn-something-something-v2", "videos", ".")
VIDEO_ENDINGS = (".webm", ".mp4", ".avi", ".mkv")


def _read_json(path: Path):
    if not g_pathmgr.isfile(str(path)):
        raise DataError(f"{path} does not exist, expected the dataset's official file")
    with g_pathmgr.open(str(path), "r") as file:
        try:
            return json.load(file)
        except json.JSONDecodeError as error:
            raise DataError(f"{path} is not JSON: {error}") from None


def read_labels(root: Path) -> dict[str, int]:
    """{template: label} of something-something-v2-labels.json."""
    return {template: int(label) for template, label in _read_json(root / f"{NAME}-labels.json").items()}


def label_names(root: Path) -> list[str]:
    """Templates in the order of their labels."""
    labels = read_labels(root)
    return sorted(labels, key=labels.__getitem__)


def _labelled(root: Path, split: str, num_classes: int) -> dict[str, int]:
    """{video id: label} of the training or the validation split; the test split has no labels."""
    file = root / f"{NAME}-{'train' if split == 'train' else 'validation'}.json"
    labels = read_labels(root)
    found = {}
    for number, entry in enumerate(_read_json(file), start=1):
        template = entry.get("template", "").replace("[", "").replace("]", "")
        if template not in labels:
            raise DataError(f"{file}, entry {number}: template {template!r} is not among the labels")
        if labels[template] >= num_classes:
            raise DataError(
                f"{file}, entry {number}: label {labels[template]} is outside the {num_classes} classes "
                f"(MODEL.NUM_CLASSES)"
            )
        found[str(entry["id"])] = labels[template]
    return found


def read_ssv2(root: str | os.PathLike, split: str, *, num_classes: int, prefix: str = "", separator: str = " "):
    """A split ("train", "val", "test") of Something-Something v2; "test" is the validation split, as in PySlowFast.

    What lies in `root` decides:

    * train.csv and val.csv as PySlowFast's frame lists, with the official JSON files for the labels;
    * the same as plain `path label` lists of videos;
    * the JSON files alone: videos ID.webm (or .mp4) in `prefix`, or in `root` or a folder of it.

    Raises:
        DataError: a file is missing or does not fit; named.
    """
    root = Path(root)
    split = "train" if split == "train" else "val"
    csv = root / f"{split}.csv"
    if g_pathmgr.isfile(str(csv)):
        if not is_frame_list(str(csv)):
            return read_video_list(csv, num_classes=num_classes, prefix=prefix, separator=separator, root=root)
        frames = read_frame_lists(str(csv), prefix=prefix, root=str(root))
        labels = _labelled(root, split, num_classes)
        names = [name for name in labels if name in frames]
        if not names:
            raise DataError(f"{csv} and {NAME}-*.json have no video in common")
        return FrameLists([frames[name] for name in names], [labels[name] for name in names], source=str(csv))
    labels = _labelled(root, split, num_classes)
    folder, ending = _find_videos(root, prefix, next(iter(labels), ""))
    paths = [os.path.join(folder, f"{name}{ending}") for name in labels]
    return VideoList(paths, list(labels.values()), source=str(root / f"{NAME}-{split}.json"))


def _find_videos(root: Path, prefix: str, name: str) -> tuple[str, str]:
    """(folder, ending) of the videos, found by the first of them."""
    folders = [prefix] if prefix else [str(root / folder) for folder in VIDEO_FOLDERS]
    for folder in folders:
        for ending in VIDEO_ENDINGS:
            if os.path.exists(os.path.join(folder, f"{name}{ending}")):
                return folder, ending
    raise DataError(
        f"no video {name}{'|'.join(VIDEO_ENDINGS)} in {', '.join(folders)}: set DATA.PATH_PREFIX to the folder of the "
        f"videos, or put train.csv and val.csv into {root}"
    )
