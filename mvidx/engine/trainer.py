"""The training loop: it reads top to bottom, and everything that influences the next step is saved with it."""

import contextlib
import random
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.optim.swa_utils import AveragedModel
from torch.utils.data import DataLoader

from mvidx import distributed
from mvidx.checkpoint.paths import join, write_atomically
from mvidx.data.loader import Batch, EpochBatches
from mvidx.engine.loading import LoaderTrouble, batches_of
from mvidx.engine.log import logger
from mvidx.engine.metrics import topk_correct
from mvidx.engine.sharding import load_whole_optimizer, whole
from mvidx.engine.stop import Stopped, StopRequest
from mvidx.errors import RunTrouble
from mvidx.optim.schedule import Schedule

PRECISIONS = {"float32": None, "bfloat16": torch.bfloat16, "float16": torch.float16}


class Hook:
    """Something that happens around the steps. The trainer calls its hooks in the order of its list."""

    name = ""
    """Key of the hook's state in a checkpoint; empty for a hook without state."""

    def before_train(self, trainer: "Trainer") -> None: ...

    def after_step(self, trainer: "Trainer", step: "StepResult") -> None: ...

    def after_epoch(self, trainer: "Trainer") -> None: ...

    def after_train(self, trainer: "Trainer") -> None: ...

    def on_stop(self, trainer: "Trainer") -> None:
        """The run was asked to end, and stands between two steps."""

    def state_dict(self) -> dict[str, Any]:
        return {}

    def load_state_dict(self, state: dict[str, Any], device: torch.device) -> None: ...

    @staticmethod
    def merged(states: list[dict[str, Any]]) -> dict[str, Any]:
        """One state for the states of several processes, where their number has changed."""
        return states[0]


class NonFiniteLoss(RunTrouble):
    """The loss or its gradient was not finite for too many steps in a row."""


@dataclass
class StepResult:
    """What a step left behind.

    Attributes:
        loss: mean over the step's clips, a scalar on the device.
        correct: how many of them were right at rank 1 and within rank 5, scalars on the device.
        num_clips: how many clips this process had.
        failures: (path, reason) of videos that could not be read and were replaced.
        lr: learning rate of the step.
        grad_norm: norm of the gradient before it was clipped, a scalar on the device.
        data_seconds: how long the step waited for its batches.
        skipped: whether loss or gradient were not finite, so that the weights stayed as they were.
    """

    loss: Tensor
    correct: list[Tensor]
    num_clips: int
    failures: list[tuple[str, str]]
    lr: float
    grad_norm: Tensor
    data_seconds: float
    skipped: bool = False


def autocast(device: torch.device, precision: str):
    """The context that forward passes of this precision run in."""
    dtype = PRECISIONS[precision]
    return contextlib.nullcontext() if dtype is None else torch.autocast(device.type, dtype)


def seed_everything(seed: int) -> None:
    """Seed Python's, NumPy's and torch's global generators."""
    random.seed(seed)
    np.random.seed(seed % 2**32)
    torch.manual_seed(seed)


class Trainer:
    """Trains a model over epochs of batches.

    Args:
        model: maps prepared clips to logits; may be wrapped for distribution.
        raw_model: the model inside the wrapping, whose weights are saved.
        optimizer: its groups may have `lr_scale`.
        schedule: learning rate by exact epoch.
        loader: gives `Batch`es; its order is `batches`.
        batches: the order, positioned by the trainer; says how many batches make a step.
        loss: (logits, labels) -> scalar mean.
        prepare: uint8 clips and labels on the device, with keywords indices, epoch and step (that of the batch)
            -> what the model takes, and labels or targets (B, classes).
        device: where the model is.
        precision: "float32", "bfloat16" or "float16" (with loss scaling).
        clip_norm: largest norm of the gradient, 0 for no clipping.
        clip_value: largest value in the gradient, 0 for no clipping; goes before `clip_norm`.
        freeze_batch_norm: leave the running statistics of batch norms as they are.
        average: moving average of the weights, see `mvidx.optim.ema`.
        max_nonfinite_steps: the run ends when this many steps in a row had a loss or gradient that is not finite.
        dump_folder: where the batch of the last of those is written.
        path_of: path of a video by its index, for messages.
        stop: who may ask for the end of the run.
        max_epochs: length of the run.
        hooks: in the order they are called.
    """

    def __init__(
        self,
        *,
        model: nn.Module,
        raw_model: nn.Module,
        optimizer: torch.optim.Optimizer,
        schedule: Schedule,
        loader: DataLoader,
        batches: EpochBatches,
        loss: Callable[[Tensor, Tensor], Tensor],
        prepare: Callable[..., tuple[Tensor, Tensor]],
        device: torch.device,
        precision: str = "float32",
        clip_norm: float = 0.0,
        clip_value: float = 0.0,
        freeze_batch_norm: bool = False,
        average: AveragedModel | None = None,
        max_nonfinite_steps: int = 1,
        dump_folder: str | Path = "",
        path_of: Callable[[int], str] = str,
        stop: StopRequest | None = None,
        max_epochs: int,
        hooks: Sequence[Hook] = (),
    ):
        if precision not in PRECISIONS:
            raise ValueError(f"precision={precision!r}, expected one of {', '.join(PRECISIONS)}")
        self.model = model
        self.raw_model = raw_model
        self.optimizer = optimizer
        self.schedule = schedule
        self.loader = loader
        self.batches = batches
        self.loss = loss
        self.prepare = prepare
        self.device = device
        self.precision = precision
        self.clip_norm = clip_norm
        self.clip_value = clip_value
        self.freeze_batch_norm = freeze_batch_norm
        self.average = average
        self.max_nonfinite_steps = max_nonfinite_steps
        self.dump_folder = dump_folder
        self.path_of = path_of
        self.stop = StopRequest() if stop is None else stop
        self.max_epochs = max_epochs
        self.hooks = list(hooks)
        self.scaler = torch.amp.GradScaler(device.type, enabled=precision == "float16")
        self.epoch = 0
        self.step = 0  # in the epoch
        self.nonfinite_steps = 0  # in a row

    @property
    def steps_per_epoch(self) -> int:
        return len(self.batches)

    @property
    def global_step(self) -> int:
        """Steps done since the start of the run."""
        return self.epoch * self.steps_per_epoch + self.step

    def train(self) -> None:
        """Run from where the trainer stands to the last epoch. Raises Stopped where it was asked to end."""
        for hook in self.hooks:
            hook.before_train(self)
        while self.epoch < self.max_epochs:
            self.set_train_mode()
            self.batches.set_position(self.epoch, self.step)
            for batches, data_seconds in self.load():
                result = self.train_step(batches, data_seconds=data_seconds)
                self.step += 1
                for hook in self.hooks:
                    hook.after_step(self, result)
            self.end_epoch()
        for hook in self.hooks:
            hook.after_train(self)

    def load(self) -> Iterator[tuple[list[Batch], float]]:
        """The batches of each step that is left of the epoch, and how many seconds they were waited for.

        Here, between two steps, the processes agree on whether to stop, and on whether one of them has no data.
        """
        batches = batches_of(self.loader)
        since = time.perf_counter()
        while self.step < self.steps_per_epoch:
            trouble: Exception | None = None
            found: list[Batch] = []
            try:
                if not self.stop:
                    found = [next(batches) for _ in range(self.batches.accumulate)]
            except LoaderTrouble as error:
                trouble = error  # a signal to all processes ends the loader's workers too: that is no trouble
            signum, troubled = distributed.agree(self.stop.signum, trouble is not None)
            if signum:
                self.end_early(signum)
            if trouble is not None:
                raise trouble
            if troubled:
                raise distributed.PeerLost(distributed.last_word() or "another process lost its loader")
            yield found, time.perf_counter() - since
            since = time.perf_counter()

    def end_early(self, signum: int) -> None:
        """Let the hooks save, and raise Stopped."""
        for hook in self.hooks:
            hook.on_stop(self)
        raise Stopped(signum)

    def end_epoch(self) -> None:
        """Count the epoch and call the hooks; when one of them is stopped, the run stands before all of them again."""
        before = self.local_state()
        self.epoch, self.step = self.epoch + 1, 0
        try:
            for hook in self.hooks:
                hook.after_epoch(self)
        except Stopped as stopped:
            self.epoch, self.step = self.epoch - 1, self.steps_per_epoch
            self.load_local_state(before)
            self.end_early(stopped.signum)

    def set_train_mode(self) -> None:
        """Training mode, but for batch norms that are frozen, wholly or by having no parameter that learns."""
        self.model.train()
        for module in self.raw_model.modules():
            if isinstance(module, _BatchNorm):
                learned = [parameter.requires_grad for parameter in module.parameters()]
                if self.freeze_batch_norm or (learned and not any(learned)):
                    module.eval()

    def set_lr(self) -> float:
        """Set every group's learning rate for the step to come; returns the schedule's."""
        lr = self.schedule.lr(self.epoch + self.step / self.steps_per_epoch)
        for group in self.optimizer.param_groups:
            group["lr"] = lr * group.get("lr_scale", 1.0)
        return lr

    def train_step(self, batches: Sequence[Batch], *, data_seconds: float = 0.0) -> StepResult:
        """Forward and backward of each batch, then clip and step once.

        Accuracy counts the label with the largest share of a mixed clip. Gradients are means over all clips of the
        step, in whatever number of batches they come.
        """
        lr = self.set_lr()
        statistics = self.batch_norm_statistics()
        self.optimizer.zero_grad(set_to_none=True)
        losses, hits = [], []
        for number, batch in enumerate(batches):
            clips, targets = self.prepare(
                batch.clips.to(self.device, non_blocking=True),
                batch.labels.to(self.device, non_blocking=True),
                indices=batch.indices,
                epoch=self.epoch,
                step=self.step * len(batches) + number,
            )
            with self.synchronized(last=number == len(batches) - 1):
                with autocast(self.device, self.precision):
                    logits = self.model(clips)
                loss = self.loss(logits.float(), targets)
                self.scaler.scale(loss / len(batches)).backward()
            losses.append(loss.detach())
            hits.append(torch.stack(topk_correct(logits.detach(), targets)))
        loss = torch.stack(losses).mean()

        self.scaler.unscale_(self.optimizer)
        parameters = [p for p in self.raw_model.parameters() if p.grad is not None]
        grad_norm = nn.utils.get_total_norm([p.grad for p in parameters])
        # float16 overflows now and then: its scaler passes over such a gradient and lowers the scale
        finite = loss.isfinite() if self.scaler.is_enabled() else loss.isfinite() & whole(grad_norm).isfinite()
        skipped = bool(distributed.agree(int(not finite))[0])
        if skipped:
            for statistic, value in statistics:
                statistic.copy_(value)
            if self.scaler.is_enabled():
                self.scaler.update()
        else:
            if self.clip_value:
                nn.utils.clip_grad_value_(parameters, self.clip_value)
            elif self.clip_norm:
                nn.utils.clip_grads_with_norm_(parameters, self.clip_norm, grad_norm)
            self.scaler.step(self.optimizer)
            self.scaler.update()
            if self.average is not None:
                self.average.update_parameters(self.raw_model)
        result = StepResult(
            loss,
            list(torch.stack(hits).sum(0)),
            sum(len(batch.labels) for batch in batches),
            [failure for batch in batches for failure in batch.failures],
            lr,
            whole(grad_norm).detach(),
            data_seconds,
            skipped,
        )
        self.count_nonfinite(result, losses, batches)
        return result

    @contextlib.contextmanager
    def synchronized(self, *, last: bool):
        """Let gradients be averaged over the processes in the last backward pass of a step alone."""
        if hasattr(self.model, "set_requires_gradient_sync"):  # FSDP2
            self.model.set_requires_gradient_sync(last)
        elif not last and hasattr(self.model, "no_sync"):  # DistributedDataParallel
            with self.model.no_sync():
                yield
            return
        yield

    def batch_norm_statistics(self) -> list[tuple[Tensor, Tensor]]:
        """(buffer, copy) of the running statistics that the coming step changes, for a step that is passed over."""
        return [
            (buffer, buffer.clone())
            for module in self.raw_model.modules()
            if isinstance(module, _BatchNorm) and module.training
            for buffer in module.buffers(recurse=False)
        ]

    def count_nonfinite(self, result: StepResult, losses: Sequence[Tensor], batches: Sequence[Batch]) -> None:
        """Warn of a step that was passed over, and end the run at the last one in a row that is allowed."""
        if not result.skipped:
            self.nonfinite_steps = 0
            return
        self.nonfinite_steps += 1
        own = any(not value.isfinite() for value in losses)
        paths = list(dict.fromkeys(self.path_of(index) for batch in batches for index in batch.indices))
        reports = distributed.gather((own, float(result.loss), paths))
        guilty = [report for report in reports if report[0]] or reports
        paths = [path for _, _, found in guilty for path in found]
        what = f"loss {guilty[0][1]:g}" if guilty[0][0] else f"gradient of norm {float(result.grad_norm):g}"
        where = f"epoch {self.epoch + 1}, step {self.step + 1} (global step {self.global_step + 1})"
        listed = ", ".join(paths[:16]) + (f" and {len(paths) - 16} more" if len(paths) > 16 else "")
        if self.nonfinite_steps < self.max_nonfinite_steps:
            logger.warning(
                "%s at %s, learning rate %g: step skipped (%d in a row, the run ends at %d); its batch: %s",
                *(what, where, result.lr, self.nonfinite_steps, self.max_nonfinite_steps, listed),
            )
            return
        dump = ""
        if self.dump_folder and (own or not any(report[0] for report in reports)):
            dump = self.dump(batches, losses, result)
        dump = next((name for name in distributed.gather(dump) if name), "")
        raise NonFiniteLoss(
            f"{what} at {where}, learning rate {result.lr:g}, after {self.nonfinite_steps} skipped step(s) in a row "
            f"(SOLVER.MAX_NONFINITE_STEPS); batch and weights are in {dump or 'no file'}; its videos: {listed}"
        )

    def dump(self, batches: Sequence[Batch], losses: Sequence[Tensor], result: StepResult) -> str:
        """Write what is needed to compute a step again; returns the name of the file."""
        name = f"nonfinite_step_{self.global_step + 1:08d}_rank{distributed.rank()}.pyth"
        path = join(self.dump_folder, name)
        content = {
            "epoch": self.epoch,
            "step": self.step,
            "lr": result.lr,
            "losses": [float(loss) for loss in losses],
            "grad_norm": float(result.grad_norm),
            "clips": [batch.clips.cpu() for batch in batches],
            "labels": [batch.labels.cpu() for batch in batches],
            "paths": [[self.path_of(index) for index in batch.indices] for batch in batches],
            # split weights would need all processes to be gathered
            "model": {} if hasattr(self.model, "set_requires_gradient_sync") else self.raw_model.state_dict(),
        }
        try:
            write_atomically(path, lambda temporary: torch.save(content, temporary))
        except (OSError, RuntimeError) as error:
            return f"no file ({error})"
        return str(path)

    def local_state(self) -> dict[str, Any]:
        """What each process has for itself: its generators and its hooks."""
        generators = {"python": random.getstate(), "torch": torch.get_rng_state()}
        if self.device.type == "cuda":
            generators["cuda"] = torch.cuda.get_rng_state(self.device)
        return {
            "generators": generators,
            "hooks": {hook.name: hook.state_dict() for hook in self.hooks if hook.name},
        }

    def load_local_state(self, state: dict[str, Any]) -> None:
        """Stand where this process stood when `local_state` was called."""
        version, internal, gauss = state["generators"]["python"]
        random.setstate((version, tuple(internal), gauss))
        torch.set_rng_state(state["generators"]["torch"])
        if self.device.type == "cuda" and "cuda" in state["generators"]:
            torch.cuda.set_rng_state(state["generators"]["cuda"], self.device)
        for hook in self.hooks:
            if hook.name in state["hooks"]:
                hook.load_state_dict(state["hooks"][hook.name], self.device)

    def state_dict(self) -> dict[str, Any]:
        """Everything that the next step depends on, the same on every process; all of them must call it."""
        state = {
            "model": whole(self.raw_model.state_dict()),
            "optimizer": whole(self.optimizer.state_dict()),
            "scaler": self.scaler.state_dict(),
            "epoch": self.epoch,
            "step": self.step,
            "nonfinite_steps": self.nonfinite_steps,
            "processes": distributed.gather(self.local_state()),
        }
        if self.average is not None:
            state["ema"] = whole(self.average.module.state_dict())
            state["ema_updates"] = int(self.average.n_averaged)
        return state

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Stand where the run stood when `state_dict` was called.

        With another number of processes than then, process 0 takes over what all had counted, and the generators of
        processes that there were not start anew.
        """
        self.raw_model.load_state_dict(state["model"])
        load_whole_optimizer(self.optimizer, state["optimizer"])
        self.scaler.load_state_dict(state["scaler"])
        if self.average is not None:
            if "ema" not in state:
                raise KeyError("it has no moving average of the weights (EMA.ENABLE)")
            self.average.module.load_state_dict(state["ema"])
            self.average.n_averaged.fill_(state["ema_updates"])
        self.epoch, self.step = state["epoch"], state["step"]
        self.nonfinite_steps = state["nonfinite_steps"]
        self.load_local_state(self._share(state["processes"]))

    def _share(self, states: list[dict[str, Any]]) -> dict[str, Any]:
        """This process's part of the states of all."""
        count, rank = distributed.world_size(), distributed.rank()
        if len(states) == count:
            return states[rank]
        logger.warning("the checkpoint is of %d process(es), these are %d: not bit for bit", len(states), count)
        known = {hook.name: hook for hook in self.hooks if hook.name in states[0]["hooks"]}
        merged = {name: hook.merged([state["hooks"][name] for state in states]) for name, hook in known.items()}
        empty = {name: hook.state_dict() for name, hook in known.items()}
        generators = states[rank]["generators"] if rank < len(states) else self.local_state()["generators"]
        return {"generators": generators, "hooks": merged if rank == 0 else empty}
