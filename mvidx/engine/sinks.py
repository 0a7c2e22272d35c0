"""Where the numbers of a run are drawn: TensorBoard and Weights & Biases."""

import shutil
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Protocol

from iopath.common.file_io import g_pathmgr

from mvidx.checkpoint.paths import is_local, join, make_folder, size_of, write_text
from mvidx.errors import UserError


class Sink(Protocol):
    """Takes numbers by name and step."""

    def add(self, tag: str, values: Mapping[str, float], step: int) -> None:
        """Draw `values` under `tag/name` at `step`."""

    def close(self) -> None:
        """Write what is left."""


class TensorBoard:
    """Events in FOLDER/tensorboard; for a folder that iopath reaches they are written here and copied at the end.

    Args:
        folder: of the run.
        first_step: what earlier events have from this step on is passed over, as a resumed run writes it again.
    """

    def __init__(self, folder: str | Path, *, first_step: int):
        from torch.utils.tensorboard import SummaryWriter

        self.target = join(folder, "tensorboard")
        self.local = self.target if is_local(folder) else tempfile.mkdtemp(prefix="mvidx-tensorboard-")
        self.writer = SummaryWriter(self.local, purge_step=first_step)

    def add(self, tag: str, values: Mapping[str, float], step: int) -> None:
        for name, value in values.items():
            self.writer.add_scalar(f"{tag}/{name}", value, step)

    def close(self) -> None:
        self.writer.close()
        if self.local != self.target:
            make_folder(self.target)
            for file in Path(self.local).iterdir():
                with open(file, "rb") as source, g_pathmgr.open(join(self.target, file.name), "wb") as target:
                    shutil.copyfileobj(source, target)
            shutil.rmtree(self.local)


class WeightsAndBiases:
    """A run of Weights & Biases that goes on when the run here does.

    Args:
        folder: of the run; its file wandb_id keeps the run's id.
        project, name, mode: see wandb.init; an empty name is left to wandb.
        config: what describes the run.

    Raises:
        UserError: wandb is not installed, or does not let the run begin.
    """

    def __init__(self, folder: str | Path, *, project: str, name: str, mode: str, config: Mapping[str, Any]):
        try:
            import wandb
        except ImportError:
            raise UserError("WANDB.ENABLE needs Weights & Biases: pip install 'mvidx[wandb]'") from None
        known = join(folder, "wandb_id")
        run_id = None
        if size_of(known):
            with g_pathmgr.open(known, "r") as file:
                run_id = file.read().strip()
        try:
            self.run = wandb.init(
                project=project,
                name=name or None,
                mode=mode,
                id=run_id,
                resume="allow",
                dir=str(folder) if is_local(folder) else None,
                config=dict(config),
            )
        except (wandb.errors.Error, ValueError) as error:
            raise UserError(f"WANDB: {' '.join(str(error).split())}") from None
        write_text(known, f"{self.run.id}\n")

    def add(self, tag: str, values: Mapping[str, float], step: int) -> None:
        # global_step is a value and not wandb's own step: that may not go back, as it does where a run is resumed
        self.run.log({f"{tag}/{name}": value for name, value in values.items()} | {"global_step": step})

    def close(self) -> None:
        self.run.finish()
