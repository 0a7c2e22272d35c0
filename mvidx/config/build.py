"""From a config to what it describes: model, datasets, loaders, optimizer, schedule."""

import os
from collections.abc import Callable, Sequence
from pathlib import Path

import torch
from fvcore.common.config import CfgNode
from torch import Tensor, nn

from mvidx.config.load import ConfigError
from mvidx.data import annotations, loader
from mvidx.data.annotations import VideoList
from mvidx.data.datasets import ClipSampling, TestVideos, TrainVideos
from mvidx.data.transforms import TrainTransform, normalize
from mvidx.distributed import Place
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


def named_arguments(cfg: CfgNode) -> dict:
    """Arguments of `create_model` for a model chosen by name."""
    entry = model_entry(cfg.MODEL.MODEL_NAME)
    return {
        "num_classes": cfg.MODEL.NUM_CLASSES,
        "img_size": cfg.DATA.TRAIN_CROP_SIZE,
        "head_drop_rate": cfg.MODEL.DROPOUT_RATE,
        **({"frames": cfg.DATA.NUM_FRAMES} if entry.video else {}),
        **{key: _unfrozen(value) for key, value in cfg.MODEL.ARGUMENTS.items()},
    }


def _unfrozen(value):
    """Config values as the plain dicts and tuples that constructors take."""
    if isinstance(value, dict):
        return {int(key) if str(key).isdigit() else key: _unfrozen(entry) for key, entry in value.items()}
    return tuple(value) if isinstance(value, list) else value


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


# ---------------------------------------------------------------------------- data


def read_videos(cfg: CfgNode, split: str) -> VideoList:
    """The annotation of a split ("train", "val", "test"); makes the motion dataset when it is missing.

    Raises:
        ConfigError: an unknown dataset, or no PATH_TO_DATA_DIR.
        DataError: the annotation can't be used; names file and row.
    """
    dataset = cfg.TEST.DATASET if split == "test" else cfg.TRAIN.DATASET
    if dataset not in ("kinetics", "motion"):
        key = "TEST.DATASET" if split == "test" else "TRAIN.DATASET"
        raise ConfigError(f"{key}={dataset!r}, expected 'kinetics' or 'motion'")
    if not cfg.DATA.PATH_TO_DATA_DIR:
        raise ConfigError("DATA.PATH_TO_DATA_DIR is empty, expected the folder of train.csv, val.csv and test.csv")
    root = Path(cfg.DATA.PATH_TO_DATA_DIR)
    if dataset == "motion":
        make_motion_dataset(cfg, root)
    return annotations.read_video_list(
        root / f"{split}.csv",
        num_classes=cfg.MODEL.NUM_CLASSES,
        prefix=cfg.DATA.PATH_PREFIX,
        separator=cfg.DATA.PATH_LABEL_SEPARATOR,
        root=root,
    )


def make_motion_dataset(cfg: CfgNode, root: Path) -> None:
    """Write the motion dataset into `root` unless it is there."""
    from mvidx.data.motion import CLASSES, ensure_motion_dataset

    try:
        ensure_motion_dataset(
            root,
            num_train=cfg.MOTION.NUM_TRAIN,
            num_val=cfg.MOTION.NUM_VAL,
            num_test=cfg.MOTION.NUM_TEST,
            seed=cfg.MOTION.SEED,
            classes=tuple(cfg.MOTION.CLASSES) or CLASSES,
        )
    except ValueError as error:
        raise ConfigError(f"MOTION: {error}") from None


def class_names(cfg: CfgNode) -> list[str]:
    """Names of the classes: from DATA.CLASS_NAMES, from classes.txt beside the annotations, or numbers."""
    file = cfg.DATA.CLASS_NAMES or os.path.join(cfg.DATA.PATH_TO_DATA_DIR, "classes.txt")
    if not cfg.DATA.CLASS_NAMES and not os.path.exists(file):
        return list(annotations.numbered_names(cfg.MODEL.NUM_CLASSES))
    return annotations.read_class_names(file, cfg.MODEL.NUM_CLASSES)


def clip_sampling(cfg: CfgNode) -> ClipSampling:
    return ClipSampling(
        num_frames=cfg.DATA.NUM_FRAMES,
        sampling_rate=cfg.DATA.SAMPLING_RATE,
        target_fps=cfg.DATA.TARGET_FPS,
        use_offset=cfg.DATA.USE_OFFSET_SAMPLING,
    )


def train_transform(cfg: CfgNode) -> TrainTransform:
    data = cfg.DATA
    return TrainTransform(
        crop=data.TRAIN_CROP_SIZE,
        scale=tuple(data.TRAIN_JITTER_SCALES_RELATIVE),
        aspect=tuple(data.TRAIN_JITTER_ASPECT_RELATIVE) or (3 / 4, 4 / 3),
        short_sides=tuple(data.TRAIN_JITTER_SCALES),
        flip=data.RANDOM_FLIP,
        antialias=data.ANTIALIAS,
    )


def local_share(total: int, place: Place, key: str) -> int:
    """A process's share of a number that is meant for all GPUs of a node."""
    if total % place.local_world_size:
        raise ConfigError(f"{key}={total} does not divide among {place.local_world_size} processes of a node")
    return total // place.local_world_size


def train_batches(cfg: CfgNode, videos: VideoList, place: Place) -> loader.EpochBatches:
    try:
        return loader.EpochBatches(
            len(videos),
            batch_size=local_share(cfg.TRAIN.BATCH_SIZE, place, "TRAIN.BATCH_SIZE"),
            seed=cfg.RNG_SEED,
            rank=place.rank,
            world_size=place.world_size,
        )
    except ValueError as error:
        raise ConfigError(f"TRAIN.BATCH_SIZE={cfg.TRAIN.BATCH_SIZE}: {error}") from None


def build_train_loader(cfg: CfgNode, videos: VideoList, batches: loader.EpochBatches, device: torch.device):
    """Loader of training batches."""
    dataset = TrainVideos(
        videos,
        clip=clip_sampling(cfg),
        transform=train_transform(cfg),
        backend=cfg.DATA.DECODING_BACKEND,
        seed=cfg.RNG_SEED,
    )
    return loader.train_loader(
        dataset,
        batches,
        num_workers=cfg.DATA_LOADER.NUM_WORKERS,
        pin_memory=cfg.DATA_LOADER.PIN_MEMORY and device.type == "cuda",
    )


def build_test_loader(cfg: CfgNode, videos: VideoList, place: Place, *, num_views: int, num_crops: int, shuffle: bool):
    """Loader of test videos with all their views."""
    if num_crops not in (1, 3):
        raise ConfigError(f"TEST.NUM_SPATIAL_CROPS={num_crops}, expected 1 or 3")
    data = cfg.DATA
    short_side = data.TRAIN_JITTER_SCALES[0] if num_crops == 1 else data.TEST_CROP_SIZE
    if short_side < data.TEST_CROP_SIZE:
        raise ConfigError(
            f"DATA.TEST_CROP_SIZE={data.TEST_CROP_SIZE} does not fit into a short side of "
            f"DATA.TRAIN_JITTER_SCALES[0]={short_side}"
        )
    dataset = TestVideos(
        videos,
        clip=clip_sampling(cfg),
        num_views=num_views,
        spatial_idx=(1,) if num_crops == 1 else (0, 1, 2),
        short_side=short_side,
        crop=data.TEST_CROP_SIZE,
        antialias=data.ANTIALIAS,
        backend=data.DECODING_BACKEND,
        shuffle_seed=cfg.RNG_SEED if shuffle else None,
    )
    return loader.test_loader(
        dataset,
        videos_per_batch=max(1, views_per_batch(cfg, place) // (num_views * num_crops)),
        num_workers=cfg.DATA_LOADER.NUM_WORKERS,
        rank=place.rank,
        world_size=place.world_size,
    )


def views_per_batch(cfg: CfgNode, place: Place) -> int:
    """The most views that a process puts through the model at once."""
    return max(1, cfg.TEST.BATCH_SIZE // place.local_world_size)


def prepare_clips(cfg: CfgNode) -> Callable[[Tensor], Tensor]:
    """uint8 clips on the device -> normalised float32."""
    mean, std = tuple(cfg.DATA.MEAN), tuple(cfg.DATA.STD)
    return lambda clips: normalize(clips, mean, std)


# ---------------------------------------------------------------------------- optimization


def build_loss(cfg: CfgNode) -> Callable[[Tensor, Tensor], Tensor]:
    if cfg.MODEL.LOSS_FUNC != "cross_entropy":
        raise ConfigError(f"MODEL.LOSS_FUNC={cfg.MODEL.LOSS_FUNC!r}, expected 'cross_entropy'")
    return nn.functional.cross_entropy


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


def build_optimizer(cfg: CfgNode, model: nn.Module) -> torch.optim.Optimizer:
    solver = cfg.SOLVER
    exempt = model.no_weight_decay() if cfg.MVIT.ZERO_DECAY_POS_CLS else ()
    groups = parameter_groups(
        model,
        weight_decay=solver.WEIGHT_DECAY,
        exempt_vectors=solver.ZERO_WD_1D_PARAM,
        exempt_names=exempt,
        layer_decay=solver.LAYER_DECAY,
    )
    groups = [{key: value for key, value in group.items() if key != "names"} for group in groups]
    if solver.OPTIMIZING_METHOD == "adamw":
        return torch.optim.AdamW(groups, lr=solver.BASE_LR, betas=tuple(solver.BETAS), fused=True)
    if solver.OPTIMIZING_METHOD == "sgd":
        nesterov = solver.NESTEROV and solver.MOMENTUM > 0
        return torch.optim.SGD(groups, lr=solver.BASE_LR, momentum=solver.MOMENTUM, nesterov=nesterov)
    raise ConfigError(f"SOLVER.OPTIMIZING_METHOD={solver.OPTIMIZING_METHOD!r}, expected 'adamw' or 'sgd'")
