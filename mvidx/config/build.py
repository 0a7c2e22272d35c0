"""From a config to what it describes: model, loss, optimizer, schedule."""

import fnmatch
from collections.abc import Callable, Sequence

import torch
from fvcore.common.config import CfgNode
from torch import Tensor, nn

from mvidx.config.load import ConfigError
from mvidx.engine.losses import LOSSES
from mvidx.models.card import plain_arguments
from mvidx.models.mvit import MViT
from mvidx.models.registry import create_model, list_models, model_entry
from mvidx.optim.groups import parameter_groups
from mvidx.optim.schedule import Schedule

# ---------------------------------------------------------------------------- model


def build_model(cfg: CfgNode) -> nn.Module:
    """The model of a config: from the MVIT section for "MViT", else by its name in the registry.

    Raises:
        ConfigError: an unknown name, or numbers that do not make a model; names the key and the value.
    """
    name = cfg.MODEL.MODEL_NAME
    try:
        model = MViT(**mvit_arguments(cfg)) if name == "MViT" else create_model(name, **named_arguments(cfg))
    except (ValueError, TypeError) as error:
        known = "" if name == "MViT" or name in list_models() else " (or 'MViT', built from the MVIT section)"
        raise ConfigError(f"MODEL.MODEL_NAME={name}: {error}{known}") from None
    model.set_grad_checkpointing(cfg.MODEL.ACT_CHECKPOINT)
    return model


def takes_images(cfg: CfgNode) -> bool:
    """Whether the model of a config takes images rather than clips."""
    name = cfg.MODEL.MODEL_NAME
    return cfg.MVIT.PATCH_2D if name == "MViT" else not model_entry(name).video


def named_arguments(cfg: CfgNode) -> dict:
    """Arguments of `create_model` for a model chosen by name."""
    entry = model_entry(cfg.MODEL.MODEL_NAME)
    return {
        "num_classes": cfg.MODEL.NUM_CLASSES,
        "img_size": cfg.DATA.TRAIN_CROP_SIZE,
        "head_drop_rate": cfg.MODEL.DROPOUT_RATE,
        **({"frames": cfg.DATA.NUM_FRAMES} if entry.video else {}),
        **plain_arguments(cfg.MODEL.ARGUMENTS),
    }


def _per_block(rows: Sequence, ndim: int, key: str) -> dict[int, tuple[int, ...]]:
    """[[block, *stride], ...] -> {block: stride}; an image model's strides lose their time entry, which is 1."""
    strides = {}
    for row in rows:
        block, stride = int(row[0]), tuple(int(s) for s in row[1:])
        strides[block] = _axes(stride, ndim, f"{key}[{block}]")
    return strides


def _axes(value: Sequence[int], ndim: int, key: str) -> tuple[int, ...]:
    value = tuple(int(v) for v in value)
    if ndim == 2 and len(value) == 3:
        if value[0] != 1:
            raise ConfigError(f"MVIT.{key}={list(value)}: an image model (MVIT.PATCH_2D) has no time to pool")
        return value[1:]
    return value


def mvit_arguments(cfg: CfgNode) -> dict:
    """Arguments of `MViT` from the MVIT section, read as PySlowFast reads it."""
    mvit = cfg.MVIT
    for key, wanted in (("MODE", "conv"), ("NORM", "layernorm")):
        if mvit[key] != wanted:
            raise ConfigError(f"MVIT.{key}={mvit[key]!r}, expected {wanted!r}")
    ndim = 2 if mvit.PATCH_2D else 3
    adaptive = mvit.POOL_KV_STRIDE_ADAPTIVE
    kernel = mvit.POOL_KVQ_KERNEL
    relative = "none"
    if mvit.REL_POS_SPATIAL:
        relative = "all" if mvit.REL_POS_TEMPORAL or ndim == 2 else "space"
    elif mvit.REL_POS_TEMPORAL:
        raise ConfigError("MVIT.REL_POS_TEMPORAL=True, expected MVIT.REL_POS_SPATIAL too")
    absolute = "none"
    if mvit.USE_ABS_POS:
        absolute = "separate" if mvit.SEP_POS_EMBED else "joint"
    return {
        "img_size": cfg.DATA.TRAIN_CROP_SIZE,
        "frames": cfg.DATA.NUM_FRAMES if ndim == 3 else None,
        "in_chans": cfg.DATA.INPUT_CHANNEL_NUM[0],
        "num_classes": cfg.MODEL.NUM_CLASSES,
        "embed_dim": mvit.EMBED_DIM,
        "depth": mvit.DEPTH,
        "num_heads": mvit.NUM_HEADS,
        "mlp_ratio": mvit.MLP_RATIO,
        "dim_mul": {int(block): float(factor) for block, factor in mvit.DIM_MUL},
        "head_mul": {int(block): float(factor) for block, factor in mvit.HEAD_MUL},
        "q_stride": _per_block(mvit.POOL_Q_STRIDE, ndim, "POOL_Q_STRIDE"),
        "kv_stride": _per_block(mvit.POOL_KV_STRIDE, ndim, "POOL_KV_STRIDE")
        if adaptive is None
        else _axes(adaptive, ndim, "POOL_KV_STRIDE_ADAPTIVE"),
        "pool_kernel": None if kernel is None else _axes(kernel, ndim, "POOL_KVQ_KERNEL"),
        "patch_kernel": mvit.PATCH_KERNEL,
        "patch_stride": mvit.PATCH_STRIDE,
        "patch_padding": mvit.PATCH_PADDING,
        "class_token": mvit.CLS_EMBED_ON,
        "mean_pooling": mvit.USE_MEAN_POOLING,
        "absolute_position": absolute,
        "relative_position": relative,
        "expand_in_attention": mvit.DIM_MUL_IN_ATT,
        "residual_pooling": mvit.RESIDUAL_POOLING,
        "qkv_bias": mvit.QKV_BIAS,
        "drop_rate": mvit.DROPOUT_RATE,
        "drop_path_rate": mvit.DROPPATH_RATE,
        "head_drop_rate": cfg.MODEL.DROPOUT_RATE,
        "head_init_scale": mvit.HEAD_INIT_SCALE,
    }


# ---------------------------------------------------------------------------- optimization


def build_loss(cfg: CfgNode) -> Callable[[Tensor, Tensor], Tensor]:
    name = cfg.MODEL.LOSS_FUNC
    if name not in LOSSES:
        raise ConfigError(f"MODEL.LOSS_FUNC={name!r}, expected one of {', '.join(LOSSES)}")
    if cfg.DATA.MULTI_LABEL and not name.startswith("bce"):
        raise ConfigError(f"MODEL.LOSS_FUNC={name!r}, expected 'bce' with DATA.MULTI_LABEL")
    return LOSSES[name]


def build_schedule(cfg: CfgNode) -> Schedule:
    solver = cfg.SOLVER
    policies = {"cosine": "cosine", "steps_with_relative_lrs": "steps"}
    if solver.LR_POLICY not in policies:
        raise ConfigError(f"SOLVER.LR_POLICY={solver.LR_POLICY!r}, expected one of {', '.join(policies)}")
    scale = cfg.NUM_SHARDS if solver.BASE_LR_SCALE_NUM_SHARDS else 1
    try:
        return Schedule(
            policies[solver.LR_POLICY],
            base_lr=solver.BASE_LR * scale,
            end_lr=solver.COSINE_END_LR * scale,
            max_epochs=solver.MAX_EPOCH,
            warmup_epochs=solver.WARMUP_EPOCHS,
            warmup_start_lr=solver.WARMUP_START_LR * scale,
            cosine_after_warmup=solver.COSINE_AFTER_WARMUP,
            steps=tuple(solver.STEPS),
            step_factors=tuple(solver.LRS),
        )
    except ValueError as error:
        raise ConfigError(f"SOLVER: {error}") from None


def freeze_parts(model: nn.Module, parts: Sequence[str]) -> int:
    """Let the named parts of a model not learn; returns how many parameters (numbers) that are.

    Args:
        parts: names or patterns of modules or parameters, see MODEL.FROZEN_PARTS.

    Raises:
        ConfigError: a part that the model does not have, or nothing that learns is left.
    """
    names = [name for name, _ in (*model.named_modules(), *model.named_parameters()) if name]
    parameters = dict(model.named_parameters())
    frozen: set[str] = set()
    for part in parts:
        found = fnmatch.filter(names, part)
        if not found:
            near = sorted({name.split(".")[0] for name in parameters})
            raise ConfigError(f"MODEL.FROZEN_PARTS: {part!r} is no part of the model, which has {', '.join(near)}")
        frozen |= {name for name in parameters for prefix in found if name == prefix or name.startswith(f"{prefix}.")}
    if len(frozen) == len(parameters):
        raise ConfigError(f"MODEL.FROZEN_PARTS={list(parts)} leaves nothing that learns")
    for name in frozen:
        parameters[name].requires_grad_(False)
    return sum(parameters[name].numel() for name in frozen)


def synchronize_batch_norms(model: nn.Module, device: torch.device) -> nn.Module:
    """Let batch norms take their training statistics over all processes: torch's on a GPU, pytorchvideo's on a CPU."""
    if device.type == "cuda":
        return nn.SyncBatchNorm.convert_sync_batchnorm(model)
    from pytorchvideo.layers.batch_norm import NaiveSyncBatchNorm1d, NaiveSyncBatchNorm2d, NaiveSyncBatchNorm3d

    kinds = {
        nn.BatchNorm1d: NaiveSyncBatchNorm1d,
        nn.BatchNorm2d: NaiveSyncBatchNorm2d,
        nn.BatchNorm3d: NaiveSyncBatchNorm3d,
    }
    for module in model.modules():
        if type(module) in kinds:
            module.__class__ = kinds[type(module)]  # they differ in their forward pass alone
    return model


def build_optimizer(cfg: CfgNode, model: nn.Module) -> torch.optim.Optimizer:
    solver = cfg.SOLVER
    if not 0 < solver.LAYER_DECAY <= 1:
        raise ConfigError(f"SOLVER.LAYER_DECAY={solver.LAYER_DECAY}, expected above 0 and at most 1")
    exempt = model.no_weight_decay() if cfg.MVIT.ZERO_DECAY_POS_CLS else ()
    groups = parameter_groups(
        model,
        weight_decay=solver.WEIGHT_DECAY,
        exempt_vectors=solver.ZERO_WD_1D_PARAM,
        exempt_names=exempt,
        layer_decay=solver.LAYER_DECAY,
        batch_norm_decay=cfg.BN.WEIGHT_DECAY,
        backbone_lr_scale=solver.BACKBONE_LR_SCALE,
    )
    groups = [{key: value for key, value in group.items() if key != "names"} for group in groups]
    method, betas = solver.OPTIMIZING_METHOD, tuple(solver.BETAS)
    if method in ("adamw", "mt_adamw"):  # PySlowFast's second name for an implementation that torch has merged
        return torch.optim.AdamW(groups, lr=solver.BASE_LR, betas=betas, fused=True)
    if method == "adam":
        return torch.optim.Adam(groups, lr=solver.BASE_LR, betas=betas, fused=True)
    if method == "sgd":
        nesterov = solver.NESTEROV and solver.MOMENTUM > 0 and solver.DAMPENING == 0
        return torch.optim.SGD(
            groups, lr=solver.BASE_LR, momentum=solver.MOMENTUM, dampening=solver.DAMPENING, nesterov=nesterov
        )
    if method == "lamb":
        from timm.optim import Lamb

        return Lamb(groups, lr=solver.BASE_LR, betas=betas, max_grad_norm=None)  # clipping is SOLVER.CLIP_GRAD_*'s
    raise ConfigError(f"SOLVER.OPTIMIZING_METHOD={method!r}, expected 'adamw', 'adam', 'sgd' or 'lamb'")
