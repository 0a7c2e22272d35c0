"""What happens around the steps: metrics, evaluation, checkpoints. The order of the list is the order of calls."""

import json
import os
import resource
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from tqdm import tqdm

from mvidx import distributed
from mvidx.checkpoint.store import CheckpointStore
from mvidx.engine.log import clock, logger
from mvidx.engine.metrics import Totals
from mvidx.engine.tester import Predictions
from mvidx.engine.trainer import Hook, StepResult, Trainer


class MetricsFile:
    """metrics.jsonl, one JSON object a line; a resumed run cuts it back to where its checkpoint stood."""

    def __init__(self, path: Path):
        self.path = path

    def append(self, record: dict[str, Any]) -> None:
        with open(self.path, "a") as file:
            file.write(json.dumps(record) + "\n")

    def size(self) -> int:
        """Bytes written so far."""
        return self.path.stat().st_size if self.path.exists() else 0

    def cut(self, size: int) -> None:
        """Drop what was written after the file had `size` bytes."""
        if self.size() > size:
            os.truncate(self.path, size)


def memory_bytes(device: torch.device) -> int:
    """Peak memory: of the GPU that is used, otherwise of this process."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


class MetricsHook(Hook):
    """Means of loss and accuracy over the steps: to the screen, metrics.jsonl and TensorBoard.

    What depends on the machine's speed stands under "timing" in each record, so that the rest is the same
    for equal runs.

    Args:
        folder: of the run.
        log_period: steps between records.
        tensorboard: write TensorBoard events too.
    """

    name = "metrics"

    def __init__(self, folder: Path, *, log_period: int, tensorboard: bool):
        self.folder = folder
        self.log_period = log_period
        self.tensorboard = tensorboard
        self.file = MetricsFile(folder / "metrics.jsonl")
        self.recent, self.whole = Totals(), Totals()
        self.num_replaced = 0
        self.resumed_size: int | None = None
        self.writer = None
        self.bar = None

    def before_train(self, trainer: Trainer) -> None:
        if distributed.is_main():
            self.file.cut(self.resumed_size or 0)
            if self.tensorboard:
                from torch.utils.tensorboard import SummaryWriter

                self.writer = SummaryWriter(str(self.folder / "tensorboard"), purge_step=trainer.global_step)
        self.seconds, self.data_seconds, self.clips = 0.0, 0.0, 0
        self.last = time.perf_counter()
        self.total_steps = trainer.max_epochs * trainer.steps_per_epoch
        self._new_bar(trainer)

    def _new_bar(self, trainer: Trainer) -> None:
        if distributed.is_main() and sys.stderr.isatty() and trainer.epoch < trainer.max_epochs:
            self.bar = tqdm(
                total=trainer.steps_per_epoch,
                initial=trainer.step,
                desc=f"epoch {trainer.epoch + 1}/{trainer.max_epochs}",
                unit="step",
                leave=False,
                dynamic_ncols=True,
            )

    def after_step(self, trainer: Trainer, step: StepResult) -> None:
        clips = len(step.batch.labels)
        for totals in (self.recent, self.whole):
            totals.add(clips, loss=step.loss * clips, top1=100 * step.correct[0], top5=100 * step.correct[1])
        for path, reason in step.batch.failures:
            self.num_replaced += 1
            logger.warning("unreadable video replaced (%d so far): %s: %s", self.num_replaced, path, reason)
        now = time.perf_counter()
        self.seconds += now - self.last
        self.data_seconds += step.data_seconds
        self.clips += clips
        self.last = now
        if self.bar is not None:
            self.bar.update()
        if trainer.step % self.log_period == 0 or trainer.step == trainer.steps_per_epoch:
            self._record_step(trainer, step)

    def _record_step(self, trainer: Trainer, step: StepResult) -> None:
        means = self.recent.means()
        speed = self.clips / max(self.seconds, 1e-9) * (trainer.batches.world_size)
        steps_done = trainer.epoch * trainer.steps_per_epoch + trainer.step
        share = self.clips / max(len(step.batch.labels), 1)
        left = (self.total_steps - steps_done) * self.seconds / max(share, 1)
        record = {
            "kind": "train_step",
            "epoch": trainer.epoch + 1,
            "step": trainer.step,
            "global_step": steps_done,
            **means,
            "lr": step.lr,
            "num_replaced": self.num_replaced,
            "timing": {
                "clips_per_second": round(speed, 2),
                "data_share": round(self.data_seconds / max(self.seconds, 1e-9), 4),
                "memory_gib": round(memory_bytes(trainer.device) / 2**30, 3),
                "seconds_left": round(left, 1),
            },
        }
        if distributed.is_main():
            self.file.append(record)
            self._to_tensorboard("train", {**means, "lr": step.lr, **record["timing"]}, steps_done)
            if self.bar is not None:
                self.bar.set_postfix(loss=f"{means['loss']:.3f}", top1=f"{means['top1']:.1f}")
            else:
                logger.info(
                    "epoch %d/%d step %d/%d  loss %.4f  top-1 %.2f  lr %.3g  "
                    "%.1f clips/s  data %.0f%%  %.1f GiB  %s left",
                    *(trainer.epoch + 1, trainer.max_epochs, trainer.step, trainer.steps_per_epoch),
                    *(means["loss"], means["top1"], step.lr, speed),
                    *(100 * record["timing"]["data_share"], record["timing"]["memory_gib"], clock(left)),
                )
        self.recent.clear()
        self.seconds, self.data_seconds, self.clips = 0.0, 0.0, 0

    def after_epoch(self, trainer: Trainer) -> None:
        means = self.whole.means()
        self.write("train_epoch", "train_epoch", means, trainer)
        if distributed.is_main():
            if self.bar is not None:
                self.bar.close()
                self.bar = None
            logger.info(
                "epoch %d/%d  train loss %.4f  top-1 %.2f",
                trainer.epoch,
                trainer.max_epochs,
                means["loss"],
                means["top1"],
            )
        self.whole.clear()
        self._new_bar(trainer)
        self.last = time.perf_counter()

    def write(self, kind: str, tag: str, values: dict[str, float], trainer: Trainer) -> None:
        """Append a record of a finished epoch, and send its values to TensorBoard."""
        if distributed.is_main():
            record = {"kind": kind, "epoch": trainer.epoch, "global_step": trainer.global_step, **values}
            self.file.append(record)
            self._to_tensorboard(tag, values, trainer.global_step)

    def _to_tensorboard(self, tag: str, values: dict[str, float], step: int) -> None:
        if self.writer is not None:
            for name, value in values.items():
                self.writer.add_scalar(f"{tag}/{name}", value, step)

    def after_train(self, trainer: Trainer) -> None:
        if self.writer is not None:
            self.writer.close()
        if self.bar is not None:
            self.bar.close()

    def state_dict(self) -> dict[str, Any]:
        return {
            "recent": self.recent.state_dict(),
            "whole": self.whole.state_dict(),
            "num_replaced": self.num_replaced,
            "size": self.file.size(),
        }

    def load_state_dict(self, state: dict[str, Any], device: torch.device) -> None:
        self.recent.load_state_dict(state["recent"], device)
        self.whole.load_state_dict(state["whole"], device)
        self.num_replaced = state["num_replaced"]
        self.resumed_size = state["size"]


class EvaluateHook(Hook):
    """Evaluates on the validation split every so many epochs, and after the last.

    Args:
        evaluate: scores the validation videos.
        metrics: takes the record.
        period: epochs between evaluations.
    """

    def __init__(self, evaluate: Callable[[], Predictions], metrics: MetricsHook, *, period: int):
        self.evaluate = evaluate
        self.metrics = metrics
        self.period = period

    def after_epoch(self, trainer: Trainer) -> None:
        if trainer.epoch % self.period and trainer.epoch < trainer.max_epochs:
            return
        predictions = self.evaluate()
        values = {**predictions.accuracy(), "loss": predictions.loss(), "num_failed": len(predictions.failures)}
        self.metrics.write("val", "val", values, trainer)
        logger.info("epoch %d/%d  val top-1 %.2f  top-5 %.2f  loss %.4f", trainer.epoch, trainer.max_epochs,
                    values["top1"], values["top5"], values["loss"])  # fmt: skip
        for path, reason in predictions.failures.values():
            logger.warning("unreadable validation video left out: %s: %s", path, reason)
        self.metrics.last = time.perf_counter()


class CheckpointHook(Hook):
    """Saves the whole state every so many epochs (and steps), and after the last epoch.

    Stands last in the list, so that what the other hooks did in this step is in the checkpoint.

    Args:
        store: where to.
        epochs: epochs between checkpoints.
        steps: steps between checkpoints inside an epoch, 0 for none.
        extra: what goes into the file beside the trainer's state (the config).
    """

    def __init__(self, store: CheckpointStore, *, epochs: int, steps: int = 0, extra: dict[str, Any] | None = None):
        self.store = store
        self.epochs = epochs
        self.steps = steps
        self.extra = extra or {}

    def save(self, trainer: Trainer) -> None:
        if distributed.is_main():
            path = self.store.save({**trainer.state_dict(), **self.extra}, trainer.global_step)
            logger.info("saved %s", path)

    def after_step(self, trainer: Trainer, step: StepResult) -> None:
        if self.steps and trainer.global_step % self.steps == 0 and trainer.step < trainer.steps_per_epoch:
            self.save(trainer)

    def after_epoch(self, trainer: Trainer) -> None:
        if trainer.epoch % self.epochs == 0 or trainer.epoch == trainer.max_epochs:
            self.save(trainer)
