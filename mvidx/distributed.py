"""The processes of a job: one initialisation driven by the environment, and exact sums and gathers.

torchrun, srun and the launchers of `mvidx.launch` tell each process its place through RANK, WORLD_SIZE,
LOCAL_RANK, LOCAL_WORLD_SIZE, MASTER_ADDR and MASTER_PORT (srun: SLURM_PROCID and its like). Without them
there is one process and nothing to initialise.
"""

import os
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

import torch
import torch.distributed as dist


@dataclass(frozen=True)
class Place:
    """Where a process stands in its job: ranks among all, and among those of its node."""

    rank: int = 0
    world_size: int = 1
    local_rank: int = 0
    local_world_size: int = 1


def place_from_environment() -> Place:
    """This process's place, as torchrun or srun put it into the environment."""
    env = os.environ
    if "RANK" in env and "WORLD_SIZE" in env:
        world_size = int(env["WORLD_SIZE"])
        return Place(
            int(env["RANK"]),
            world_size,
            int(env.get("LOCAL_RANK", 0)),
            int(env.get("LOCAL_WORLD_SIZE", world_size)),
        )
    # A step that srun started has SLURM_STEP_NUM_TASKS; a plain shell inside an allocation has one task.
    if int(env.get("SLURM_STEP_NUM_TASKS", env.get("SLURM_NTASKS", 1))) > 1 and "SLURM_PROCID" in env:
        world_size = int(env.get("SLURM_STEP_NUM_TASKS", env.get("SLURM_NTASKS", 1)))
        nodes = int(env.get("SLURM_STEP_NUM_NODES", env.get("SLURM_NNODES", 1)))
        return Place(
            int(env["SLURM_PROCID"]),
            world_size,
            int(env.get("SLURM_LOCALID", 0)),
            world_size // nodes,
        )
    return Place()


def initialize(device: torch.device, *, timeout_seconds: float = 600) -> Place:
    """Join the job that the environment describes, if it has more than one process. Returns this one's place."""
    place = place_from_environment()
    if place.world_size > 1 and not dist.is_initialized():
        os.environ.setdefault("RANK", str(place.rank))
        os.environ.setdefault("WORLD_SIZE", str(place.world_size))
        os.environ.setdefault("MASTER_ADDR", "127.0.0.1")
        os.environ.setdefault("MASTER_PORT", "29500")
        dist.init_process_group(
            "nccl" if device.type == "cuda" else "gloo",
            timeout=timedelta(seconds=timeout_seconds),
            device_id=device if device.type == "cuda" else None,
        )
    return place


def shutdown() -> None:
    """Leave the job."""
    if dist.is_initialized():
        dist.destroy_process_group()


def is_main() -> bool:
    """Whether this is rank 0, which writes files and talks."""
    return not dist.is_initialized() or dist.get_rank() == 0


def barrier() -> None:
    """Wait for all processes."""
    if dist.is_initialized():
        dist.barrier()


def all_sum(values: torch.Tensor) -> torch.Tensor:
    """Sum of a tensor over all processes, on every one of them."""
    if dist.is_initialized():
        values = values.clone()
        dist.all_reduce(values)
    return values


def gather(value: Any) -> list[Any]:
    """A picklable value of every process, in the order of their ranks, on every one of them."""
    if not dist.is_initialized():
        return [value]
    values = [None] * dist.get_world_size()
    dist.all_gather_object(values, value)
    return values
