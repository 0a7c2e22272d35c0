"""`inflate`: weights of an image model for the video model of the same family (I3D, arXiv 1705.07750).

With time="center" a clip of one repeated image gives exactly the image model's logits, in every family whose
attention has no class token. (A token competes with the keys of all frames: what it sees of itself shrinks as
frames are added, so that MViTv1's logits come close and are not equal.)
"""

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from mvidx.checkpoint.files import CheckpointError, find_state
from mvidx.checkpoint.renames import State, recognise
from mvidx.checkpoint.sources import fit_tensor, is_counter, listed
from mvidx.layers.position import AbsolutePosition, RelativePosition, WindowBias
from mvidx.mixers.baseline import RandomMixing, SpatialMlp

TIMES = ("center", "mean")
TOKENS = ("cls_token", "cls_pos")


def inflate(state: Mapping[str, Tensor], model: nn.Module, *, time: str = "center") -> State:
    """Weights of a video model from those of an image model.

    Kernels get a temporal axis, temporal position tables start at zero, window bias tables repeat along time,
    a spatial MLP leaves the frames alone at first ("center") or averages them ("mean"). A class token that the
    image model lacks, a random mixer's matrix over time and a classifier of another size keep the values they
    have in `model`. Tables over space are interpolated where the model was built for another size.

    Args:
        state: names and tensors of an image model: ours, or any that `mvidx.load_checkpoint` recognises.
        model: the video model; not changed, except that a state of timm's gives it timm's variant of the norm
            or class token (see `prepare_for`), as loading does.
        time: "center" puts a kernel in the middle frame and zeros elsewhere, which is exact for a clip of one
            repeated image. "mean" divides it over the frames, which is exact only away from the first and last
            frames: there kernels reach into the padding, and what looks at all frames (attention, PoolFormer's
            norm, the mean before the head) carries that into the logits.

    Returns:
        A complete state of `model`, for `load_state_dict`.

    Raises:
        ValueError: `time` is neither of the two.
        CheckpointError: a tensor that has no place in the video model, lacks there, or does not fit; named.
    """
    if time not in TIMES:
        raise ValueError(f"time={time!r}, expected 'center' or 'mean'")
    source, state = recognise(find_state(dict(state), "to inflate"))
    if hasattr(model, "prepare_for"):
        model.prepare_for(state)
    wanted = model.state_dict()
    kind = type(model).__name__
    unexpected = [name for name in state if name not in wanted]
    if unexpected:
        raise CheckpointError(
            f"inflating from {source}: {len(unexpected)} tensors have no place in {kind}: {listed(unexpected)}"
        )
    started = _started(model, time)
    inflated, lacking = {}, []
    for name, target in wanted.items():
        if name.startswith("head.") and (name not in state or state[name].shape != target.shape):
            value = target
        elif name in state:
            owner = model.get_submodule(name.rpartition(".")[0])
            value = _inflated(name, state[name], target, owner, time)
        elif name in started:
            value = started[name]
        elif name in TOKENS or is_counter(name):
            value = target
        else:
            lacking.append(name)
            continue
        inflated[name] = value.detach().to(target.dtype).clone()
    if lacking:
        raise CheckpointError(f"inflating from {source}: lacks {len(lacking)} tensors of {kind}: {listed(lacking)}")
    return inflated


def _started(model: nn.Module, time: str) -> State:
    """First values of what only the video model has, by name."""
    started = {}
    for prefix, module in model.named_modules():
        if isinstance(module, AbsolutePosition) and module.time is not None:
            started[f"{prefix}.time"] = torch.zeros_like(module.time)
        elif isinstance(module, RelativePosition) and getattr(module, "t", None) is not None:
            started[f"{prefix}.t"] = torch.zeros_like(module.t)
        elif isinstance(module, SpatialMlp) and module.time is not None:
            frames = module.size[0]
            identity = torch.eye(frames, device=module.time.device)
            started[f"{prefix}.time"] = identity if time == "center" else torch.full_like(identity, 1 / frames)
        elif isinstance(module, RandomMixing) and module.time is not None:
            started[f"{prefix}.time"] = module.time  # its rows sum to one: equal frames stay as they are
    return started


def _inflated(name: str, value: Tensor, target: Tensor, owner: nn.Module, time: str) -> Tensor:
    """One tensor of the image model in the shape that the video model has."""
    shape = tuple(target.shape)
    table = isinstance(owner, (AbsolutePosition, RelativePosition, WindowBias))
    if isinstance(owner, nn.Conv3d) and value.ndim == 4:
        image_shape = (*shape[:2], *shape[3:])
    elif table and len(shape) == 5 and value.ndim < 5:  # (1, T, H, W, C)
        image_shape = (1, *shape[2:])
    else:
        image_shape = shape
    value, _ = fit_tensor(name, value, image_shape, table=table)
    if image_shape == shape:
        return value
    return value.unsqueeze(1).expand(shape) if table else _inflated_kernel(value, shape[2], time)


def _inflated_kernel(kernel: Tensor, frames: int, time: str) -> Tensor:
    """(O, I, h, w) -> (O, I, frames, h, w)."""
    if time == "mean":
        return kernel.unsqueeze(2).expand(-1, -1, frames, -1, -1) / frames
    inflated = kernel.new_zeros(*kernel.shape[:2], frames, *kernel.shape[2:])
    inflated[:, :, frames // 2] = kernel
    return inflated
