"""The weights that a run starts from."""

import torch
from fvcore.common.config import CfgNode
from torch import nn

from mvidx.checkpoint.files import CheckpointError, find_state, read_file
from mvidx.checkpoint.inflate import inflate
from mvidx.checkpoint.renames import State, recognise
from mvidx.checkpoint.sources import load_checkpoint
from mvidx.engine.log import logger
from mvidx.engine.trainer import Trainer


def load_weights(cfg: CfgNode, model: nn.Module) -> None:
    """Load TRAIN.CHECKPOINT_FILE_PATH; weights of an image model are inflated for a video model if asked to.

    CHECKPOINT_INFLATE divides a kernel over the frames. CHECKPOINT_IN_INIT repeats it undivided, as
    PySlowFast's key of that name does, so that a still clip gives larger sums than its image did.
    """
    path = cfg.TRAIN.CHECKPOINT_FILE_PATH
    wanted = cfg.TRAIN.CHECKPOINT_INFLATE or cfg.TRAIN.CHECKPOINT_IN_INIT
    state = find_state(read_file(path), path) if wanted else {}
    if not wanted or not is_of_images(state, model):
        load_checkpoint(model, path)
        return
    # PySlowFast's image models pool with kernels of one frame
    state = {name: value.squeeze(2) if value.ndim == 5 else value for name, value in state.items()}
    inflated = inflate(state, model, time="mean")
    if cfg.TRAIN.CHECKPOINT_IN_INIT:
        repeat_kernels(inflated, state, model)
    model.load_state_dict(inflated)
    logger.info("inflated %s, weights of an image model, for a video model", path)


def is_of_images(state: State, model: nn.Module) -> bool:
    """Whether a state has kernels of two axes for a model that has three."""
    _, named = recognise(state)
    convolutions = [name for name, module in model.named_modules() if isinstance(module, nn.Conv3d)]
    return any(named[f"{name}.weight"].ndim == 4 for name in convolutions if f"{name}.weight" in named)


def repeat_kernels(inflated: State, state: State, model: nn.Module) -> None:
    """Turn kernels that were divided over the frames into repeated ones, in place."""
    _, named = recognise(state)
    for name, module in model.named_modules():
        key = f"{name}.weight"
        if isinstance(module, nn.Conv3d) and key in named and inflated[key].numel() > named[key].numel():
            inflated[key] = inflated[key] * module.kernel_size[0]


def start_from_checkpoint(cfg: CfgNode, model: nn.Module, trainer: Trainer) -> None:
    """Begin with TRAIN.CHECKPOINT_FILE_PATH: its weights, and unless CHECKPOINT_EPOCH_RESET its place in the run.

    A checkpoint of a run is continued with all its state. PySlowFast's gives weights and epoch: what its
    optimizer kept is for its own order of parameters.
    """
    path = cfg.TRAIN.CHECKPOINT_FILE_PATH
    if cfg.TRAIN.CHECKPOINT_EPOCH_RESET:
        load_weights(cfg, model)
        return
    content = read_file(path)
    if isinstance(content, dict) and {"model", "optimizer", "epoch"} <= set(content):
        try:
            trainer.load_state_dict(content)
        except (RuntimeError, ValueError, KeyError) as error:
            reason = " ".join(str(error).split())[:300]
            raise CheckpointError(
                f"checkpoint {path} is of another run, TRAIN.CHECKPOINT_EPOCH_RESET True takes its weights alone: "
                f"{reason}"
            ) from None
        logger.info("continuing %s: epoch %d, step %d", path, trainer.epoch + 1, trainer.step)
        return
    load_weights(cfg, model)
    epoch = content.get("epoch") if isinstance(content, dict) and "model_state" in content else None
    if isinstance(epoch, (int, float, torch.Tensor)):
        trainer.epoch = int(epoch) + 1
        logger.warning(
            "%s stands at epoch %d: continuing there with a fresh optimizer (TRAIN.CHECKPOINT_EPOCH_RESET: start anew)",
            path,
            trainer.epoch,
        )
