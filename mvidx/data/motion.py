"""The motion data set: labelled videos that the project makes itself, so that a run needs no download.

Eight classes of one scene that moves left, right, up or down, turns clockwise or counterclockwise, grows or
shrinks, as H.264 .mp4 files of varying length, frame rate and size in the layout of Kinetics:

    ROOT/train.csv, val.csv, test.csv     `path label` rows, paths relative to ROOT
    ROOT/classes.txt                      one name a line, in the order of the labels
    ROOT/train/00000.mp4, ...
    ROOT/motion.json                      the arguments that made it, and the size of every file

A mirrored video belongs to another class (left and right, clockwise and counterclockwise change places, as up
and down do under a vertical flip), so training on this data set must not flip.

What a video shows, and why one frame of it tells nothing about the class, stands in motion_scene.py.

Videos depend on the seed, the split and their index in the split alone, never on the number of threads.
"""

import json
import os
import sys
from concurrent.futures import ThreadPoolExecutor, as_completed
from pathlib import Path

import cv2
import numpy as np
from filelock import FileLock, Timeout
from tqdm import tqdm

from mvidx.data.motion_scene import CLASSES, MotionScene

SPLITS = ("train", "val", "test")

# Changes when a video of the same arguments looks different than before.
_FORMAT = 1


def ensure_motion_dataset(
    root: str | os.PathLike,
    *,
    num_train: int = 960,
    num_val: int = 128,
    num_test: int = 192,
    seed: int = 0,
    classes: tuple[str, ...] = CLASSES,
    num_threads: int | None = None,
    progress: bool = True,
) -> Path:
    """Writes the motion data set into `root` unless it is there already.

    May be called by several processes at once: one writes, the others wait for it. What a killed process left
    is finished, and files that are missing or have another size than when they were written are written again.

    Args:
        root: the folder, made when it is missing.
        num_train, num_val, num_test: videos in each split. The classes are as even as the number allows.
        seed: a non-negative int; another seed gives other videos and textures.
        classes: names out of `CLASSES`; a label is an index into this.
        num_threads: threads that write, by default one for each available core, at most 8. Changes no video.
        progress: shows a bar on a terminal, or a few lines elsewhere, on standard error while it writes.

    Returns:
        The root.

    Raises:
        ValueError: an argument is out of range, or `root` holds a data set made with other arguments (the
            message names them), or files of the same names that did not come from here.
    """
    root = Path(root)
    counts = {"train": num_train, "val": num_val, "test": num_test}
    for split, count in counts.items():
        if count < 0:
            raise ValueError(f"num_{split} must not be negative, got {count}")
    if seed < 0:
        raise ValueError(f"seed must not be negative, got {seed}")
    unknown = [name for name in classes if name not in CLASSES]
    if unknown or not classes or len(set(classes)) != len(classes):
        raise ValueError(f"classes must be different names out of {', '.join(CLASSES)}, got {tuple(classes)}")
    arguments = {f"num_{split}": count for split, count in counts.items()}
    arguments |= {"seed": seed, "classes": list(classes), "format": _FORMAT}

    # Complete ones are recognised without the lock, so they may lie where nobody can write.
    if _missing_files(root, arguments) == []:
        return root
    root.mkdir(parents=True, exist_ok=True)
    lock = FileLock(root / ".lock")
    try:
        lock.acquire(timeout=0)
    except Timeout:
        if progress:
            print(f"{root}: waiting for another process that writes it", file=sys.stderr, flush=True)
        lock.acquire()
    try:
        missing = _missing_files(root, arguments)
        if missing != []:
            _check_nothing_foreign(root)
            num_threads = num_threads or min(8, _available_cores())
            _write_files(root, arguments, missing, num_threads, progress)
    finally:
        lock.release()
    return root


def _available_cores() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _missing_files(root: Path, arguments: dict) -> list[str] | None:
    """What the data set in `root` lacks: names of files, or None where its writing did not come to an end.

    Raises ValueError if `root` holds a data set of other arguments.
    """
    try:
        manifest = json.loads((root / "motion.json").read_text())
    except FileNotFoundError:
        return None
    except ValueError as error:
        raise ValueError(f"{root}/motion.json is damaged ({error}); delete {root} to write it anew") from None
    found = manifest["arguments"]
    if found != arguments:
        names = sorted(name for name in found | arguments if found.get(name) != arguments.get(name))
        differences = "; ".join(f"{name} is {found.get(name)}, not {arguments.get(name)}" for name in names)
        raise ValueError(
            f"{root} holds a motion data set made with other arguments: {differences}. "
            "Ask for those, give another folder, or delete this one"
        )
    if manifest["bytes"] is None:
        return None
    return [name for name, size in manifest["bytes"].items() if _size(root / name) != size]


def _check_nothing_foreign(root: Path) -> None:
    """Raises ValueError where files would be written over that no data set of this kind owns. Needs the lock."""
    names = [f"{split}.csv" for split in SPLITS] + list(SPLITS)
    foreign = [name for name in names if (root / name).exists()]
    if foreign and not (root / "motion.json").exists():
        raise ValueError(
            f"{root} holds {', '.join(foreign)} but no motion.json: not a motion data set, give another folder"
        )


def _size(path: Path) -> int:
    """Bytes; -1 if there is no such file."""
    try:
        return path.stat().st_size
    except FileNotFoundError:
        return -1


def _write_files(root: Path, arguments: dict, damaged: list[str] | None, num_threads: int, progress: bool) -> None:
    """Writes the videos that are not there or in `damaged`, then the tables, and the sizes in the manifest last."""
    for name in damaged or ():
        (root / name).unlink(missing_ok=True)
    classes = arguments["classes"]
    _write_text(root / "motion.json", json.dumps({"arguments": arguments, "bytes": None}))
    tables = {"classes.txt": "".join(f"{name}\n" for name in classes)}
    videos = []  # (name of the file, index of the split, index in the split, motion)
    for number, split in enumerate(SPLITS):
        (root / split).mkdir(exist_ok=True)
        labels = np.arange(arguments[f"num_{split}"]) % len(classes)
        labels = np.random.default_rng((arguments["seed"], 103, number)).permutation(labels)
        rows = [(f"{split}/{index:05d}.mp4", int(label)) for index, label in enumerate(labels)]
        tables[f"{split}.csv"] = "".join(f"{name} {label}\n" for name, label in rows)
        videos += [(name, number, index, classes[label]) for index, (name, label) in enumerate(rows)]

    todo = [video for video in videos if not (root / video[0]).exists()]

    def write_video(video: tuple[str, int, int, str]) -> None:
        name, split, index, motion = video
        MotionScene(arguments["seed"], split, index, motion).write(root / name)

    num_cv2_threads = cv2.getNumThreads()
    cv2.setNumThreads(1)  # the frames are small, and every thread here works on a video of its own
    # Threads, not processes: nearly all time is spent in OpenCV and x264, which release the interpreter's lock, and
    # threads start anywhere (daemonic processes, scripts without a main guard, processes that hold a GPU).
    pool = ThreadPoolExecutor(num_threads)
    try:
        futures = [pool.submit(write_video, video) for video in todo]
        for future in _shown(as_completed(futures), len(futures), f"writing {root}", progress):
            future.result()
    finally:
        pool.shutdown(cancel_futures=True)
        cv2.setNumThreads(num_cv2_threads)

    for name, text in tables.items():
        _write_text(root / name, text)
    names = list(tables) + [video[0] for video in videos]
    manifest = {"arguments": arguments, "bytes": {name: _size(root / name) for name in names}}
    _write_text(root / "motion.json", json.dumps(manifest))


def _write_text(path: Path, text: str) -> None:
    """Writes to a temporary name, syncs and renames."""
    temporary = path.with_name(path.name + ".tmp")
    with open(temporary, "w") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())
    os.replace(temporary, path)


def _shown(items, total: int, what: str, progress: bool):
    """Passes the items on, with a bar on a terminal or a line for every quarter elsewhere, on standard error."""
    if not progress or sys.stderr.isatty():
        yield from tqdm(items, total=total, desc=what, unit="video", disable=not progress)
        return
    print(f"{what}: {total} videos", file=sys.stderr, flush=True)
    for done, item in enumerate(items, 1):
        yield item
        if done * 4 // total > (done - 1) * 4 // total:
            print(f"{what}: {done} of {total}", file=sys.stderr, flush=True)
