"""Files of a run, in a local folder or wherever iopath reaches (`s3://bucket/runs/1`, with its handler registered)."""

import contextlib
import os
import tempfile
from collections.abc import Callable, Iterable
from pathlib import Path

from iopath.common.file_io import g_pathmgr

TEMPORARY = ".tmp"
"""Ending of files that are being written."""


def is_local(path: str | os.PathLike) -> bool:
    """Whether a path is one of this machine's file system rather than one that iopath has a handler for."""
    return "://" not in os.fspath(path)


def join(folder: str | os.PathLike, *names: str) -> str:
    """A path inside a folder; `Path` would make `s3:/x` of `s3://x`."""
    return os.path.join(os.fspath(folder), *names)


def make_folder(folder: str | os.PathLike) -> None:
    """Make a folder and those above it; nothing happens when it is there."""
    g_pathmgr.mkdirs(os.fspath(folder))


def names_in(folder: str | os.PathLike) -> list[str]:
    """Names of what lies in a folder; none when there is no such folder."""
    folder = os.fspath(folder)
    return [os.path.basename(name.rstrip("/")) for name in g_pathmgr.ls(folder)] if g_pathmgr.isdir(folder) else []


def remove(path: str | os.PathLike) -> None:
    """Remove a file; nothing happens when it is gone."""
    with contextlib.suppress(FileNotFoundError):
        g_pathmgr.rm(os.fspath(path))


def append_lines(path: str | os.PathLike, lines: Iterable[str]) -> None:
    """Append lines to a text file, in one write."""
    with g_pathmgr.open(os.fspath(path), "a") as file:
        file.write("".join(f"{line}\n" for line in lines))


def size_of(path: str | os.PathLike) -> int:
    """Bytes of a file, 0 when it does not exist."""
    path = os.fspath(path)
    if not g_pathmgr.isfile(path):
        return 0
    if is_local(path):
        return os.stat(path).st_size
    with g_pathmgr.open(path, "rb") as file:
        return file.seek(0, os.SEEK_END)


def cut(path: str | os.PathLike, size: int) -> None:
    """Drop what a file has beyond its first `size` bytes."""
    path = os.fspath(path)
    if size_of(path) <= size:
        return
    if is_local(path):
        os.truncate(path, size)
        return
    with g_pathmgr.open(path, "rb") as file:
        kept = file.read(size)
    with g_pathmgr.open(path, "wb") as file:
        file.write(kept)


def write_text(path: str | os.PathLike, text: str) -> None:
    """Write a text file in UTF-8, whole or not at all."""
    write_atomically(path, lambda name: Path(name).write_text(text, encoding="utf-8"))


def write_atomically(path: str | os.PathLike, write: Callable[[str], object]) -> None:
    """Let `write(temporary_name)` make a file beside `path`, sync it to the disk, then rename it.

    Whatever goes wrong, `path` keeps what it had and no temporary file stays. What is not on this machine is written
    here first and then copied, and is as whole as its handler makes a copy.
    """
    if not is_local(path):
        with tempfile.TemporaryDirectory(prefix="mvidx-") as folder:
            temporary = join(folder, "file")
            write(temporary)
            with open(temporary, "rb") as source, g_pathmgr.open(os.fspath(path), "wb") as target:
                while chunk := source.read(1 << 24):
                    target.write(chunk)
        return
    path = Path(path)
    temporary = path.with_name(f".{path.name}.{os.getpid()}{TEMPORARY}")
    try:
        write(str(temporary))
        with open(temporary, "rb") as file:
            os.fsync(file.fileno())
        os.replace(temporary, path)
        directory = os.open(path.parent, os.O_RDONLY)
        try:
            os.fsync(directory)
        finally:
            os.close(directory)
    finally:
        with contextlib.suppress(FileNotFoundError):
            temporary.unlink()
