"""What every mvidx model is: a backbone of four stages over channels-last grids, and a linear head."""

import contextlib
from collections.abc import Collection, Iterator

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.utils.checkpoint import checkpoint

from mvidx.layers.precision import computes_in_float32
from mvidx.models.card import ModelCard


@contextlib.contextmanager
def frozen_running_statistics(module: nn.Module):
    """Let the BatchNorms inside `module` leave their running statistics alone.

    Activation checkpointing computes a block twice; its batches must count once.
    """
    norms = [m for m in module.modules() if isinstance(m, _BatchNorm) and m.num_batches_tracked is not None]
    kept = [(norm.momentum, norm.num_batches_tracked) for norm in norms]
    for norm in norms:
        norm.momentum, norm.num_batches_tracked = 0.0, norm.num_batches_tracked.clone()
    try:
        yield
    finally:
        for norm, (momentum, count) in zip(norms, kept, strict=True):
            norm.momentum, norm.num_batches_tracked = momentum, count


class Backbone(nn.Module):
    """Base of all model families.

    A family implements `forward_pyramid`; where its head reads something other than the mean of the last
    grid it also overrides `forward_embedding`.

    Args:
        ndim: 2 for images (B, C, H, W), 3 for videos (B, C, T, H, W).
        in_chans: input channels.
        input_size: ([T,] H, W) the tables of the model are sized for.
        num_classes: width of the logits; 0 for none (the head is then the identity).
        num_features: width of the embedding that the head reads.
        head_drop_rate: dropout before the head.
    """

    feature_info: list[dict]
    """One dict a stage: `channels` (int) and `strides` (one entry an axis) of its grid."""

    card: ModelCard | None = None
    """What it was built as and for, see `card_of`; None for a model that its class was called for."""

    def __init__(
        self,
        *,
        ndim: int,
        in_chans: int,
        input_size: tuple[int, ...],
        num_classes: int,
        num_features: int,
        head_drop_rate: float = 0.0,
    ):
        super().__init__()
        self.ndim = ndim
        self.in_chans = in_chans
        self.input_size = tuple(input_size)
        self.num_classes = num_classes
        self.num_features = num_features
        self.grad_checkpointing = False
        self.head_drop = nn.Dropout(head_drop_rate)
        self.head = self._linear_head(num_classes)

    def _linear_head(self, num_classes: int) -> nn.Module:
        if num_classes < 0:
            raise ValueError(f"num_classes={num_classes}, expected 0 or more")
        return nn.Linear(self.num_features, num_classes) if num_classes else nn.Identity()

    def reset_classifier(self, num_classes: int) -> None:
        """Replace the head by a new one of `num_classes` (0: none, the model then gives embeddings)."""
        device, dtype = next(((p.device, p.dtype) for p in self.parameters()), (None, None))
        self.num_classes = num_classes
        self.head = self._linear_head(num_classes).to(device=device, dtype=dtype)
        if num_classes:
            nn.init.trunc_normal_(self.head.weight, std=0.02)
            nn.init.zeros_(self.head.bias)

    def set_grad_checkpointing(self, enable: bool = True) -> None:
        """Recompute every block in the backward pass instead of keeping its activations."""
        self.grad_checkpointing = enable

    def run_block(self, block: nn.Module, *args):
        """Call a block, through activation checkpointing when that is on."""
        if self.grad_checkpointing and self.training and torch.is_grad_enabled():
            contexts = lambda: (contextlib.nullcontext(), frozen_running_statistics(block))  # noqa: E731
            return checkpoint(block, *args, use_reentrant=False, context_fn=contexts)
        return block(*args)

    def compile(self, *, backend: str = "inductor", options: dict | None = None, **kwargs) -> None:
        """`torch.compile` this model in place; what inductor would do to the layout of its grids is left out.

        Around convolutions inductor stores every tensor of four axes as (B, C, H, W) with the channels last. Of a
        grid, (B, H, W, C), that makes one with the columns last, and neighbouring channels far apart.
        """
        if backend == "inductor" and kwargs.get("mode") is None:  # torch.compile takes one of mode and options
            options = {"layout_optimization": False, **(options or {})}
        super().compile(backend=backend, options=options, **kwargs)

    def prepare_for(self, names: Collection[str]) -> None:
        """Take the shape that a state with these names (ours) needs, where a family has more than one."""

    def no_weight_decay(self) -> set[str]:
        """Names of parameters that a recipe may exempt from weight decay: tables and tokens."""
        return set()

    def layer_groups(self) -> Iterator[tuple[str, int]]:
        """Names of modules or parameters with the depth of their layer, for layer decay; the head is last."""
        raise NotImplementedError

    def check_input(self, x: Tensor) -> None:
        """Raise ValueError unless `x` is (B, in_chans, [T,] H, W), floating point."""
        wanted = f"(B, {self.in_chans}, " + ("T, H, W)" if self.ndim == 3 else "H, W)")
        if x.ndim != self.ndim + 2 or x.shape[1] != self.in_chans:
            raise ValueError(f"{type(self).__name__} got an input of shape {tuple(x.shape)}, expected {wanted}")
        if not x.is_floating_point():
            raise ValueError(f"{type(self).__name__} got an input of {x.dtype}, expected floating point")

    def forward_pyramid(self, x: Tensor) -> list[Tensor]:
        """The grids of the four stages, channels last: (B, [T',] H', W', C), finest first."""
        raise NotImplementedError

    def forward_features(self, x: Tensor) -> Tensor:
        """The last grid after the final norm, channels last: (B, [T',] H', W', C)."""
        raise NotImplementedError

    def forward_embedding(self, x: Tensor) -> Tensor:
        """What the head reads: (B, num_features)."""
        return self.forward_features(x).flatten(1, -2).mean(1)

    def forward(self, x: Tensor) -> Tensor:
        """(B, in_chans, [T,] H, W) -> logits (B, num_classes), without softmax.

        Under autocast to bfloat16 on a CPU that is slow at it, all but the rounding of the logits is float32.
        """
        if computes_in_float32(x):
            with torch.autocast("cpu", enabled=False):
                return self._logits(x.float()).to(torch.get_autocast_dtype("cpu"))
        return self._logits(x)

    def _logits(self, x: Tensor) -> Tensor:
        return self.head(self.head_drop(self.forward_embedding(x)))


def init_linear(module: nn.Module, *, std: float = 0.02, bias: float = 0.0) -> None:
    """Truncated normal weights and a constant bias for a Linear or convolution; others are left alone."""
    if isinstance(module, (nn.Linear, nn.Conv2d, nn.Conv3d)):
        nn.init.trunc_normal_(module.weight, std=std)
        if module.bias is not None:
            nn.init.constant_(module.bias, bias)
