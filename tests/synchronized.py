"""What two processes do in the test of synchronized batch norms."""

import os

import torch
import torch.distributed as dist
from torch import nn

from mvidx.config.build import synchronize_batch_norms
from mvidx.engine.hooks import average_statistics


def model_and_clips():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv3d(3, 4, 1), nn.BatchNorm3d(4), nn.ReLU(), nn.Flatten(), nn.Linear(32, 2))
    return model, torch.randn(4, 3, 2, 2, 2) * 3 + 1


def loss_of(model, clips):
    return model(clips).square().mean()


def work(rank, world_size, folder):
    """Half of the clips each, through DistributedDataParallel; writes what came out into FOLDER/RANK.pyth."""
    torch.set_num_threads(1)
    os.environ["USE_LIBUV"] = "0"
    dist.init_process_group("gloo", init_method=f"file://{folder}/meet", rank=rank, world_size=world_size)
    model, clips = model_and_clips()
    wrapped = nn.parallel.DistributedDataParallel(synchronize_batch_norms(model, torch.device("cpu")))
    own = clips.chunk(world_size)[rank]
    loss_of(wrapped, own).backward()
    plain = nn.BatchNorm3d(3, momentum=1.0)
    plain.running_mean.copy_(own.mean((0, 2, 3, 4)))
    plain.running_var.copy_(own.var((0, 2, 3, 4), unbiased=False))
    average_statistics(plain)
    found = {
        "gradients": {name: parameter.grad for name, parameter in model.named_parameters()},
        "mean": model[1].running_mean,
        "averaged_mean": plain.running_mean,
        "averaged_variance": plain.running_var,
    }
    torch.save(found, f"{folder}/{rank}.pyth")
    dist.destroy_process_group()
