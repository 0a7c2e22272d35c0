"""Checkpoints of a run: written whole or not at all, the newest few and the best kept, the newest readable resumed."""

import contextlib
import os
import re
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from mvidx.checkpoint.files import CheckpointError, read_file
from mvidx.checkpoint.paths import TEMPORARY, is_local, join, make_folder, names_in, remove, write_atomically
from mvidx.errors import RunTrouble

_NAME = re.compile(r"^step_(\d+)\.pyth$")
_LEFT_OVER = re.compile(rf"^\.(step_\d+|best)\.pyth\.\d+{re.escape(TEMPORARY)}$")
BEST = "best.pyth"


class SaveError(RunTrouble):
    """A checkpoint could not be written; the message names it, the reason and the newest that there is."""


def copied(value: Any) -> Any:
    """A copy on the CPU that no step changes any more."""
    if isinstance(value, Tensor):
        return value.detach().to("cpu", copy=True)
    if isinstance(value, dict):
        return {key: copied(entry) for key, entry in value.items()}
    if isinstance(value, (list, tuple)):
        return type(value)(copied(entry) for entry in value)
    return value


class CheckpointStore:
    """The folder of a run's checkpoints: `step_00001234.pyth` by the number of steps done, and `best.pyth`.

    Args:
        folder: made when the first checkpoint is saved; anything that iopath reaches.
        keep: how many of the newest stay, beside the best.
        background: write in a thread, from a copy of the state, while training goes on.
    """

    def __init__(self, folder: str | Path, *, keep: int = 2, background: bool = False):
        if keep < 1:
            raise ValueError(f"keep={keep}, expected at least 1")
        self.folder = os.fspath(folder)
        self.keep = keep
        self.background = background
        self._writer = ThreadPoolExecutor(1, thread_name_prefix="checkpoint")
        self._pending: Future | None = None

    def paths(self) -> list[Path] | list[str]:
        """Files of the store but the best, newest first."""
        found = [(int(match[1]), name) for name in names_in(self.folder) if (match := _NAME.match(name))]
        paths = [join(self.folder, name) for _, name in sorted(found, reverse=True)]
        return [Path(path) for path in paths] if is_local(self.folder) else paths

    def path(self, global_step: int) -> Path | str:
        """Where the checkpoint of a step lies."""
        path = join(self.folder, f"step_{global_step:08d}.pyth")
        return Path(path) if is_local(path) else path

    def save(self, state: dict[str, Any], global_step: int, *, best: bool = False) -> Path | str:
        """Write a checkpoint, then remove what is older than the newest `keep`; in the background if so asked.

        A second save waits for the first.

        Args:
            state: tensors, numbers, strings and containers of them.
            global_step: steps done.
            best: it is the best so far, and becomes `best.pyth` too.

        Raises:
            SaveError: it could not be written, or the one before could not.
        """
        self.finish()
        if self.background:
            self._pending = self._writer.submit(self._write, copied(state), global_step, best)
        else:
            self._write(state, global_step, best)
        return self.path(global_step)

    def _write(self, state: dict[str, Any], global_step: int, best: bool) -> None:
        path = self.path(global_step)
        try:
            make_folder(self.folder)
            write_atomically(path, lambda name: _dump(state, name))
            if best:
                self._make_best(path)
            for old in self.paths()[self.keep :]:
                remove(old)
        except (OSError, RuntimeError) as error:  # torch's writer raises the latter
            newest = next(iter(self.paths()), None)
            left = f"the newest that is whole is {newest}" if newest else "there is none yet"
            raise SaveError(f"checkpoint {path} could not be written: {_reason(error)}; {left}") from error

    def _make_best(self, path: Path | str) -> None:
        """Let best.pyth be this checkpoint: another name of the same file where that is possible."""
        best = join(self.folder, BEST)

        def link(temporary: str) -> None:
            if not is_local(path):
                Path(temporary).write_bytes(Path(_local(path)).read_bytes())
                return
            with contextlib.suppress(FileNotFoundError):
                os.unlink(temporary)
            try:
                os.link(path, temporary)
            except OSError:  # a file system without hard links
                Path(temporary).write_bytes(Path(path).read_bytes())

        write_atomically(best, link)

    def check(self) -> None:
        """Raise SaveError if a save in the background has failed; does not wait."""
        if self._pending is not None and self._pending.done():
            self.finish()

    def finish(self) -> None:
        """Wait until everything is written. Raises SaveError if it could not be."""
        pending, self._pending = self._pending, None
        if pending is not None:
            pending.result()

    def tidy(self) -> None:
        """Remove what a process that was killed while it wrote has left behind."""
        for name in names_in(self.folder):
            if _LEFT_OVER.match(name):
                remove(join(self.folder, name))

    def load_newest(self) -> tuple[dict[str, Any] | None, Path | str | None, list[str]]:
        """The newest checkpoint that can be read; the best if all others are damaged.

        Returns:
            (state, its path, messages about newer ones that could not be read); (None, None, ...) when
            there is none.
        """
        problems = []
        best = [self.path(0).__class__(join(self.folder, BEST))] if BEST in names_in(self.folder) else []
        for path in [*self.paths(), *best]:
            try:
                return read_file(path), path, problems
            except CheckpointError as error:
                problems.append(str(error))
        return None, None, problems


def _dump(state: dict[str, Any], name: str) -> None:
    with open(name, "wb") as file:  # given a name, torch tells a full disk as a wrong position
        torch.save(state, file)


def _local(path: Path | str) -> str:
    from mvidx.checkpoint.files import local_path

    return local_path(path)


def _reason(error: Exception) -> str:
    if isinstance(error, OSError) and error.strerror:
        return error.strerror
    return (str(error).strip() or type(error).__name__).splitlines()[0][:300]
