"""What happens around the steps: metrics, evaluation, checkpoints. The order of the list is the order of calls."""

import json
import resource
import sys
import time
import warnings
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from tqdm import tqdm

from mvidx import distributed
from mvidx.checkpoint.paths import append_lines, cut, join, size_of
from mvidx.checkpoint.store import CheckpointStore
from mvidx.engine.log import clock, logger
from mvidx.engine.metrics import Totals
from mvidx.engine.sinks import Sink
from mvidx.engine.tester import Predictions
from mvidx.engine.trainer import Hook, StepResult, Trainer
from mvidx.errors import RunTrouble


class MetricsFile:
    """metrics.jsonl, one JSON object a line; a resumed run cuts it back to where its checkpoint stood."""

    def __init__(self, path: str | Path):
        self.path = path

    def append(self, record: dict[str, Any]) -> None:
        """Add a line. Raises RunTrouble when that can't be written."""
        try:
            append_lines(self.path, [json.dumps(record)])
        except OSError as error:
            raise RunTrouble(f"{self.path} could not be written: {error.strerror or error}") from None

    def size(self) -> int:
        """Bytes written so far."""
        return size_of(self.path)

    def cut(self, size: int) -> None:
        """Drop what was written after the file had `size` bytes."""
        cut(self.path, size)


def memory_bytes(device: torch.device) -> int:
    """Peak memory: of the GPU that is used, otherwise of this process."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


class MetricsHook(Hook):
    """Means of loss and accuracy over the steps: to the screen, metrics.jsonl and the sinks.

    What depends on the machine and its speed stands under "timing" in each record, so that the rest is the same
    for equal runs.

    Args:
        folder: of the run.
        log_period: steps between records.
        sinks: makes what else takes the numbers, from the number of steps done; called on process 0.
        start: the record that a run begins with; empty for none.
    """

    name = "metrics"

    def __init__(
        self,
        folder: str | Path,
        *,
        log_period: int,
        sinks: Callable[[int], list[Sink]] = lambda step: [],
        start: Mapping[str, Any] | None = None,
    ):
        self.log_period = log_period
        self.make_sinks = sinks
        self.start = dict(start or {})
        self.file = MetricsFile(join(folder, "metrics.jsonl"))
        self.recent, self.whole = Totals(), Totals()
        self.num_replaced = self.num_skipped = 0
        self.resumed_size: int | None = None
        self.sinks: list[Sink] = []
        self.bar = None

    def before_train(self, trainer: Trainer) -> None:
        if distributed.is_main():
            self.file.cut(self.resumed_size or 0)
            if self.start and not self.file.size():
                self.file.append({"kind": "start", **self.start})
            self.sinks = self.make_sinks(trainer.global_step)
        self.seconds, self.data_seconds, self.clips, self.steps = 0.0, 0.0, 0, 0
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
        clips = step.num_clips
        if step.skipped:
            self.num_skipped += 1
        else:
            for totals in (self.recent, self.whole):
                totals.add(clips, loss=step.loss * clips, top1=100 * step.correct[0], top5=100 * step.correct[1])
        for path, reason in step.failures:
            self.num_replaced += 1
            logger.warning("unreadable video replaced (%d so far): %s: %s", self.num_replaced, path, reason)
        now = time.perf_counter()
        self.seconds += now - self.last
        self.data_seconds += step.data_seconds
        self.clips += clips
        self.steps += 1
        self.last = now
        if self.bar is not None:
            self.bar.update()
        if trainer.step % self.log_period == 0 or trainer.step == trainer.steps_per_epoch:
            self._record_step(trainer, step)

    def _record_step(self, trainer: Trainer, step: StepResult) -> None:
        means = {"loss": None, "top1": None, "top5": None, **self.recent.means()}
        replaced = int(distributed.all_sum(torch.tensor(self.num_replaced, device=trainer.device)))
        speed = self.clips / max(self.seconds, 1e-9) * distributed.world_size()
        left = (self.total_steps - trainer.global_step) * self.seconds / max(self.steps, 1)
        record = {
            "kind": "train_step",
            "epoch": trainer.epoch + 1,
            "step": trainer.step,
            "global_step": trainer.global_step,
            **means,
            "lr": step.lr,
            "num_replaced": replaced,
            "num_skipped": self.num_skipped,
            "timing": {
                "clips_per_second": round(speed, 2),
                "data_share": round(self.data_seconds / max(self.seconds, 1e-9), 4),
                "memory_gib": round(memory_bytes(trainer.device) / 2**30, 3),
                "seconds_left": round(left, 1),
            },
        }
        if distributed.is_main():
            self.file.append(record)
            self._draw("train", {**means, "lr": step.lr, **record["timing"]}, trainer.global_step)
            loss, top1 = (float("nan") if means[name] is None else means[name] for name in ("loss", "top1"))
            if self.bar is not None:
                self.bar.set_postfix(loss=f"{loss:.3f}", top1=f"{top1:.1f}")
            else:
                logger.info(
                    "epoch %d/%d step %d/%d  loss %.4f  top-1 %.2f  lr %.3g  "
                    "%.1f clips/s  data %.0f%%  %.1f GiB  %s left",
                    *(trainer.epoch + 1, trainer.max_epochs, trainer.step, trainer.steps_per_epoch),
                    *(loss, top1, step.lr, speed),
                    *(100 * record["timing"]["data_share"], record["timing"]["memory_gib"], clock(left)),
                )
        self.recent.clear()
        self.seconds, self.data_seconds, self.clips, self.steps = 0.0, 0.0, 0, 0

    def after_epoch(self, trainer: Trainer) -> None:
        means = {"loss": None, "top1": None, "top5": None, **self.whole.means()}
        self.write("train_epoch", "train_epoch", means, trainer)
        if distributed.is_main():
            if self.bar is not None:
                self.bar.close()
                self.bar = None
            loss, top1 = (float("nan") if means[name] is None else means[name] for name in ("loss", "top1"))
            logger.info("epoch %d/%d  train loss %.4f  top-1 %.2f", trainer.epoch, trainer.max_epochs, loss, top1)
        self.whole.clear()
        self._new_bar(trainer)
        self.last = time.perf_counter()

    def write(self, kind: str, tag: str, values: Mapping[str, float], trainer: Trainer) -> None:
        """Append a record of a finished epoch, and draw its values."""
        if distributed.is_main():
            record = {"kind": kind, "epoch": trainer.epoch, "global_step": trainer.global_step, **values}
            self.file.append(record)
            self._draw(tag, values, trainer.global_step)

    def _draw(self, tag: str, values: Mapping[str, float | None], step: int) -> None:
        known = {name: value for name, value in values.items() if value is not None}
        for sink in self.sinks:
            sink.add(tag, known, step)

    def after_train(self, trainer: Trainer) -> None:
        for sink in self.sinks:
            sink.close()
        if self.bar is not None:
            self.bar.close()

    on_stop = after_train

    def state_dict(self) -> dict[str, Any]:
        return {
            "recent": self.recent.state_dict(),
            "whole": self.whole.state_dict(),
            "num_replaced": self.num_replaced,
            "num_skipped": self.num_skipped,
            "size": self.file.size(),
        }

    @staticmethod
    def merged(states: list[dict[str, Any]]) -> dict[str, Any]:
        totals = {name: Totals.merged([state[name] for state in states]) for name in ("recent", "whole")}
        return {**states[0], **totals, "num_replaced": sum(state["num_replaced"] for state in states)}

    def load_state_dict(self, state: dict[str, Any], device: torch.device) -> None:
        self.recent.load_state_dict(state["recent"], device)
        self.whole.load_state_dict(state["whole"], device)
        self.num_replaced = state["num_replaced"]
        self.num_skipped = state["num_skipped"]
        self.resumed_size = state["size"]
        if distributed.is_main():
            self.file.cut(state["size"])


class BatchNormHook(Hook):
    """Before an evaluation: one set of running statistics for all processes, and precise ones if wanted.

    Precise statistics (arXiv 2105.07576) are those of the weights as they are, over many training batches, by
    fvcore; dropout and stochastic depth are off, as in the evaluation to come.

    Args:
        batches: prepared training clips for the statistics of an epoch; None for no precise ones.
        num_batches: how many of them.
        period: epochs between evaluations.
    """

    def __init__(
        self, batches: Callable[[int], Iterable[Tensor]] | None = None, *, num_batches: int = 0, period: int = 1
    ):
        self.batches = batches
        self.num_batches = num_batches
        self.period = period

    def after_epoch(self, trainer: Trainer) -> None:
        if trainer.epoch % self.period and trainer.epoch < trainer.max_epochs:
            return
        models = [trainer.raw_model, *([trainer.average.module] if trainer.average is not None else [])]
        for model in models:
            norms = [module for module in model.modules() if isinstance(module, _BatchNorm)]
            if self.batches is not None and not trainer.freeze_batch_norm:
                self.update(model, norms, trainer)
            for norm in norms:
                average_statistics(norm)

    def update(self, model: nn.Module, norms: list[_BatchNorm], trainer: Trainer) -> None:
        """Set the running statistics of `norms` to those over `num_batches` batches of this process."""
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # fvcore.nn imports deprecated torch
            from fvcore.nn.precise_bn import update_bn_stats

        trained = [m.training for m in trainer.raw_model.modules() if isinstance(m, _BatchNorm)]  # not the frozen
        learned = [norm for norm, trains in zip(norms, trained, strict=True) if trains]
        kept = [(norm, norm.running_mean, norm.running_var, norm.num_batches_tracked.clone()) for norm in learned]
        was_training = [(module, module.training) for module in model.modules()]
        model.eval()
        for norm in learned:
            norm.train()
        with torch.random.fork_rng(devices=[trainer.device] if trainer.device.type == "cuda" else []):
            update_bn_stats(model, self.batches(trainer.epoch), self.num_batches)
        for norm, mean, variance, count in kept:  # in the tensors that were there: others hold on to them
            norm.running_mean = mean.copy_(norm.running_mean)
            norm.running_var = variance.copy_(norm.running_var)
            norm.num_batches_tracked.copy_(count)
        for module, training in was_training:
            module.training = training


def average_statistics(norm: _BatchNorm) -> None:
    """Give every process the running statistics of what all of them have seen, in place."""
    if norm.running_mean is None or distributed.world_size() == 1:
        return
    count = distributed.world_size()
    mean, variance = norm.running_mean, norm.running_var
    square = distributed.all_sum(variance + mean.square()) / count
    mean.copy_(distributed.all_sum(mean) / count)
    variance.copy_((square - mean.square()).clamp_(min=0))


class EvaluateHook(Hook):
    """Evaluates on the validation split every so many epochs, and after the last.

    Args:
        evaluate: scores the validation videos, with the weights or (True) with their moving average.
        metrics: takes the record.
        period: epochs between evaluations.
        best: name of the value by which the best epoch is told, empty for none; "loss" is best when low.
    """

    name = "evaluate"

    def __init__(self, evaluate: Callable[[bool], Predictions], metrics: MetricsHook, *, period: int, best: str = ""):
        self.evaluate = evaluate
        self.metrics = metrics
        self.period = period
        self.best = best
        self.best_value: float | None = None
        self.improved = False

    def after_epoch(self, trainer: Trainer) -> None:
        self.improved = False
        if trainer.epoch % self.period and trainer.epoch < trainer.max_epochs:
            return
        predictions = self.evaluate(False)
        values = {**predictions.summary(), "num_failed": len(predictions.failures)}
        told = told_values(values)
        if trainer.average is not None:
            averaged = self.evaluate(True).summary()
            values |= {f"ema_{name}": value for name, value in averaged.items()}
            told += f"  with averaged weights {told_values(averaged)}"
        if self.best:
            self.improved = self._is_best(values)
        self.metrics.write("val", "val", values, trainer)
        best = f"  (best {self.best} so far)" if self.improved else ""
        logger.info("epoch %d/%d  val %s%s", trainer.epoch, trainer.max_epochs, told, best)
        for path, reason in predictions.failures.values():
            logger.warning("unreadable validation video left out: %s: %s", path, reason)
        self.metrics.last = time.perf_counter()

    def _is_best(self, values: Mapping[str, float]) -> bool:
        if self.best not in values:
            known = ", ".join(name for name in values if name != "num_failed")
            raise RunTrouble(f"TRAIN.BEST_METRIC={self.best!r} is none of the values of an evaluation: {known}")
        sign = -1 if self.best.endswith("loss") else 1
        value = sign * values[self.best]
        if self.best_value is not None and not value > self.best_value:
            return False
        self.best_value = value
        return True

    def state_dict(self) -> dict[str, Any]:
        return {"best": self.best, "best_value": self.best_value}

    def load_state_dict(self, state: dict[str, Any], device: torch.device) -> None:
        self.best_value = state["best_value"] if state["best"] == self.best else None


def told_values(values: Mapping[str, float]) -> str:
    """Accuracies and the loss in words."""
    names = {"map": "mAP", "top1": "top-1", "top5": "top-5"}
    told = [f"{name} {values[key]:.2f}" for key, name in names.items() if key in values]
    return "  ".join([*told, f"loss {values['loss']:.4f}"])


class CheckpointHook(Hook):
    """Saves the whole state every so many epochs (and steps), after the last epoch, at the best, and on a stop.

    Stands last in the list, so that what the other hooks did in this step is in the checkpoint.

    Args:
        store: where to.
        epochs: epochs between checkpoints.
        steps: steps between checkpoints inside an epoch, 0 for none.
        evaluation: tells whether an epoch was the best.
        extra: what goes into the file beside the trainer's state (the config).
    """

    def __init__(
        self,
        store: CheckpointStore,
        *,
        epochs: int,
        steps: int = 0,
        evaluation: EvaluateHook | None = None,
        extra: dict[str, Any] | None = None,
    ):
        self.store = store
        self.epochs = epochs
        self.steps = steps
        self.evaluation = evaluation
        self.extra = extra or {}

    def save(self, trainer: Trainer, *, best: bool = False) -> None:
        """Save; all processes must call it, process 0 writes."""
        state = trainer.state_dict()
        if distributed.is_main():
            path = self.store.save({**state, **self.extra}, trainer.global_step, best=best)
            logger.info("saving %s%s", path, " and best.pyth" if best else "")

    def before_train(self, trainer: Trainer) -> None:
        if distributed.is_main():
            self.store.tidy()

    def after_step(self, trainer: Trainer, step: StepResult) -> None:
        self.store.check()
        if self.steps and trainer.global_step % self.steps == 0 and trainer.step < trainer.steps_per_epoch:
            self.save(trainer)

    def after_epoch(self, trainer: Trainer) -> None:
        best = self.evaluation is not None and self.evaluation.improved
        due = trainer.epoch % self.epochs == 0 or trainer.epoch == trainer.max_epochs
        due = due or bool(self.steps and trainer.global_step % self.steps == 0)
        if due or best:
            self.save(trainer, best=best)

    def after_train(self, trainer: Trainer) -> None:
        self.store.finish()

    def on_stop(self, trainer: Trainer) -> None:
        self.save(trainer)
        self.store.finish()
        logger.info("asked to stop: saved %s", self.store.path(trainer.global_step))
