"""The training loop: it reads top to bottom, and everything that influences the next step is saved with it."""

import contextlib
import random
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.utils.data import DataLoader

from mvidx.data.loader import Batch, EpochBatches
from mvidx.engine.metrics import topk_correct
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

    def state_dict(self) -> dict[str, Any]:
        return {}

    def load_state_dict(self, state: dict[str, Any], device: torch.device) -> None: ...


@dataclass
class StepResult:
    """What a step left behind.

    Attributes:
        loss: mean over the batch, a scalar on the device.
        correct: how many of the batch were right at rank 1 and within rank 5, scalars on the device.
        batch: the batch.
        lr: learning rate of the step.
        data_seconds: how long the step waited for its batch.
    """

    loss: Tensor
    correct: list[Tensor]
    batch: Batch
    lr: float
    data_seconds: float


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
        batches: the order, positioned by the trainer.
        loss: (logits, labels) -> scalar mean.
        prepare: uint8 clips and labels on the device, with keywords indices, epoch and step -> what the model
            takes, and labels or targets (B, classes).
        device: where the model is.
        precision: "float32", "bfloat16" or "float16" (with loss scaling).
        clip_norm: largest norm of the gradient, 0 for no clipping.
        clip_value: largest value in the gradient, 0 for no clipping; goes before `clip_norm`.
        freeze_batch_norm: leave the running statistics of batch norms as they are.
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
        self.max_epochs = max_epochs
        self.hooks = list(hooks)
        self.scaler = torch.amp.GradScaler(device.type, enabled=precision == "float16")
        self.epoch = 0
        self.step = 0  # in the epoch

    @property
    def steps_per_epoch(self) -> int:
        return len(self.batches)

    @property
    def global_step(self) -> int:
        """Steps done since the start of the run."""
        return self.epoch * self.steps_per_epoch + self.step

    def train(self) -> None:
        """Run from where the trainer stands to the last epoch."""
        for hook in self.hooks:
            hook.before_train(self)
        while self.epoch < self.max_epochs:
            self.set_train_mode()
            self.batches.set_position(self.epoch, self.step)
            waited_since = time.perf_counter()
            for batch in self.loader:
                result = self.train_step(batch, data_seconds=time.perf_counter() - waited_since)
                self.step += 1
                for hook in self.hooks:
                    hook.after_step(self, result)
                waited_since = time.perf_counter()
            self.epoch, self.step = self.epoch + 1, 0
            for hook in self.hooks:
                hook.after_epoch(self)
        for hook in self.hooks:
            hook.after_train(self)

    def set_train_mode(self) -> None:
        """Training mode, but for batch norms that are frozen."""
        self.model.train()
        if self.freeze_batch_norm:
            for module in self.raw_model.modules():
                if isinstance(module, _BatchNorm):
                    module.eval()

    def set_lr(self) -> float:
        """Set every group's learning rate for the step to come; returns the schedule's."""
        lr = self.schedule.lr(self.epoch + self.step / self.steps_per_epoch)
        for group in self.optimizer.param_groups:
            group["lr"] = lr * group.get("lr_scale", 1.0)
        return lr

    def train_step(self, batch: Batch, *, data_seconds: float = 0.0) -> StepResult:
        """Forward, backward, clip, step. Accuracy counts the label with the largest share of a mixed clip."""
        lr = self.set_lr()
        clips, targets = self.prepare(
            batch.clips.to(self.device, non_blocking=True),
            batch.labels.to(self.device, non_blocking=True),
            indices=batch.indices,
            epoch=self.epoch,
            step=self.step,
        )
        with autocast(self.device, self.precision):
            logits = self.model(clips)
        loss = self.loss(logits.float(), targets)

        self.optimizer.zero_grad(set_to_none=True)
        self.scaler.scale(loss).backward()
        if self.clip_value:
            self.scaler.unscale_(self.optimizer)
            nn.utils.clip_grad_value_(self.raw_model.parameters(), self.clip_value)
        elif self.clip_norm:
            self.scaler.unscale_(self.optimizer)
            nn.utils.clip_grad_norm_(self.raw_model.parameters(), self.clip_norm)
        self.scaler.step(self.optimizer)
        self.scaler.update()

        labels = targets if targets.ndim == 1 else targets.argmax(1)
        correct = topk_correct(logits.detach(), labels)
        return StepResult(loss.detach(), correct, batch, lr, data_seconds)

    def state_dict(self) -> dict[str, Any]:
        """Everything that the next step depends on."""
        generators = {"python": random.getstate(), "torch": torch.get_rng_state()}
        if self.device.type == "cuda":
            generators["cuda"] = torch.cuda.get_rng_state(self.device)
        return {
            "model": self.raw_model.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "scaler": self.scaler.state_dict(),
            "epoch": self.epoch,
            "step": self.step,
            "generators": generators,
            "hooks": {hook.name: hook.state_dict() for hook in self.hooks if hook.name},
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Stand where the run stood when `state_dict` was called."""
        self.raw_model.load_state_dict(state["model"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.scaler.load_state_dict(state["scaler"])
        self.epoch, self.step = state["epoch"], state["step"]
        version, internal, gauss = state["generators"]["python"]
        random.setstate((version, tuple(internal), gauss))
        torch.set_rng_state(state["generators"]["torch"])
        if self.device.type == "cuda" and "cuda" in state["generators"]:
            torch.cuda.set_rng_state(state["generators"]["cuda"], self.device)
        for hook in self.hooks:
            if hook.name in state["hooks"]:
                hook.load_state_dict(state["hooks"][hook.name], self.device)
