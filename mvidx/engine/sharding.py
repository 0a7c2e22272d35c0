"""Parameters, gradients and optimizer state split over the processes, by torch's FSDP2.

Checkpoints hold whole tensors whatever the run is split over, so that a run goes on with another number of processes,
or without sharding.
"""

from typing import Any

import torch
from torch import Tensor, nn
from torch.distributed.tensor import DTensor, distribute_tensor


def shard(model: nn.Module, mesh) -> None:
    """Split `model` in place, with the values it has in process 0.

    Each block is gathered when it runs, all else with the model. The last block of a list counts as all else: a
    classification head may read its parameters directly.

    Args:
        model: its blocks are the entries of every module list called `blocks`.
        mesh: a device mesh of one axis.
    """
    from torch.distributed.fsdp import fully_shard

    with torch.no_grad():
        for value in (*model.parameters(), *model.buffers()):
            torch.distributed.broadcast(value, src=0)  # processes have different seeds
    for name, module in model.named_modules():
        if name.rpartition(".")[2] == "blocks" and isinstance(module, (nn.ModuleList, nn.Sequential)):
            for block in list(module)[:-1]:
                if any(True for _ in block.parameters()):
                    fully_shard(block, mesh=mesh)
    fully_shard(model, mesh=mesh)
    model.register_load_state_dict_pre_hook(_split_state)


def _split_state(module: nn.Module, state: dict[str, Tensor], prefix: str, *_) -> None:
    """Let `load_state_dict` of a split model take whole tensors."""
    own = module.state_dict()
    for name in state:
        state[name] = split_like(state[name], own.get(name))


def whole(value: Any) -> Any:
    """The same with whole tensors instead of split ones; all processes must call it."""
    if isinstance(value, DTensor):
        return value.full_tensor()
    if isinstance(value, dict):
        return type(value)((key, whole(entry)) for key, entry in value.items())
    if isinstance(value, (list, tuple)):
        return type(value)(whole(entry) for entry in value)
    return value


def split_like(value: Any, other: Any) -> Any:
    """A whole tensor split as `other` is; as it is where that is whole, or has another shape (a step's count)."""
    if isinstance(other, DTensor) and isinstance(value, Tensor) and value.shape == other.shape:
        value = value.to(other.device)
        return distribute_tensor(value, other.device_mesh, other.placements, src_data_rank=None)
    return value


def load_whole_optimizer(optimizer: torch.optim.Optimizer, state: dict[str, Any]) -> None:
    """`load_state_dict` of whole tensors into an optimizer whose parameters may be split."""
    parameters = [parameter for group in optimizer.param_groups for parameter in group["params"]]
    entries = {
        index: {key: split_like(value, parameters[index]) for key, value in entry.items()}
        for index, entry in state["state"].items()
        if index < len(parameters)
    }
    optimizer.load_state_dict({**state, "state": entries})
