"""Checkpoints of a run: written whole or not at all, the newest few kept, the newest readable one resumed."""

import re
from pathlib import Path
from typing import Any

import torch

from mvidx.checkpoint.files import CheckpointError, read_file, write_atomically

_NAME = re.compile(r"^step_(\d+)\.pyth$")


class CheckpointStore:
    """The folder of a run's checkpoints, `step_00001234.pyth` by the number of steps done.

    Args:
        folder: made when the first checkpoint is saved.
        keep: how many of the newest stay.
    """

    def __init__(self, folder: Path, *, keep: int = 2):
        if keep < 1:
            raise ValueError(f"keep={keep}, expected at least 1")
        self.folder = Path(folder)
        self.keep = keep

    def paths(self) -> list[Path]:
        """Files of the store, newest first."""
        found = [(int(match[1]), path) for path in self.folder.glob("*") if (match := _NAME.match(path.name))]
        return [path for _, path in sorted(found, reverse=True)]

    def save(self, state: dict[str, Any], global_step: int) -> Path:
        """Write a checkpoint, then remove what is older than the newest `keep`."""
        self.folder.mkdir(parents=True, exist_ok=True)
        path = self.folder / f"step_{global_step:08d}.pyth"
        write_atomically(path, lambda name: torch.save(state, name))
        for old in self.paths()[self.keep :]:
            old.unlink()
        return path

    def load_newest(self) -> tuple[dict[str, Any] | None, Path | None, list[str]]:
        """The newest checkpoint that can be read.

        Returns:
            (state, its path, messages about newer ones that could not be read); (None, None, ...) when
            there is none.
        """
        problems = []
        for path in self.paths():
            try:
                return read_file(path), path, problems
            except CheckpointError as error:
                problems.append(str(error))
        return None, None, problems
