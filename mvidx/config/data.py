"""From a config to its data: lists, transforms, loaders, and what a batch goes through on the device."""

import os
from pathlib import Path

import torch
from fvcore.common.config import CfgNode

from mvidx.config.build import takes_images
from mvidx.config.load import ConfigError
from mvidx.data import annotations, loader
from mvidx.data.annotations import VideoList
from mvidx.data.augment import INTERPOLATIONS, color_jitter, parse_policy
from mvidx.data.batch import BatchTransform, Normalization
from mvidx.data.datasets import TestImages, TestVideos, TrainVideos
from mvidx.data.erase import RandomErasing
from mvidx.data.folders import class_folders, read_class_folders
from mvidx.data.images import ImageList
from mvidx.data.mix import Mix
from mvidx.data.read import ClipSampling
from mvidx.data.ssv2 import NAME as SSV2
from mvidx.data.ssv2 import label_names, read_ssv2
from mvidx.data.transforms import TrainImageTransform, TrainTransform
from mvidx.distributed import Place
from mvidx.engine.loading import batches_of

DATASETS = ("kinetics", "ssv2", "folder", "imagenet", "motion")


def dataset_name(cfg: CfgNode, split: str) -> str:
    """Name of the dataset of a split. Raises ConfigError for an unknown one."""
    key = "TEST.DATASET" if split == "test" else "TRAIN.DATASET"
    name = (cfg.TEST.DATASET if split == "test" else cfg.TRAIN.DATASET).lower()
    if name not in DATASETS:
        raise ConfigError(f"{key}={name!r}, expected one of {', '.join(DATASETS)}")
    return name


def read_videos(cfg: CfgNode, split: str) -> VideoList:
    """The list of a split ("train", "val", "test"); makes the motion dataset when it is missing.

    Raises:
        ConfigError: an unknown dataset, no PATH_TO_DATA_DIR, or images for a video model and the reverse.
        DataError: the annotation can't be used; names file and row.
    """
    dataset = dataset_name(cfg, split)
    if not cfg.DATA.PATH_TO_DATA_DIR:
        raise ConfigError("DATA.PATH_TO_DATA_DIR is empty, expected the dataset's folder, see docs/datasets.md")
    root = Path(cfg.DATA.PATH_TO_DATA_DIR)
    num_classes = cfg.MODEL.NUM_CLASSES
    if cfg.DATA.MULTI_LABEL and dataset != "kinetics":
        raise ConfigError(f"DATA.MULTI_LABEL is for lists of videos ('kinetics'), and the dataset is {dataset!r}")
    if dataset == "motion":
        make_motion_dataset(cfg, root)
    if dataset in ("folder", "imagenet"):
        videos = read_class_folders(root, split, num_classes=num_classes)
    elif dataset == "ssv2":
        videos = read_ssv2(
            root,
            split,
            num_classes=num_classes,
            prefix=cfg.DATA.PATH_PREFIX,
            separator=cfg.DATA.PATH_LABEL_SEPARATOR,
        )
    else:
        read = annotations.read_multi_label_list if cfg.DATA.MULTI_LABEL else annotations.read_video_list
        videos = read(
            os.path.join(cfg.DATA.PATH_TO_DATA_DIR, f"{split}.csv"),
            num_classes=num_classes,
            prefix=cfg.DATA.PATH_PREFIX,
            separator=cfg.DATA.PATH_LABEL_SEPARATOR,
            root=cfg.DATA.PATH_TO_DATA_DIR,
        )
    if isinstance(videos, ImageList) != takes_images(cfg):
        has, takes = ("images", "clips") if isinstance(videos, ImageList) else ("videos", "images")
        raise ConfigError(f"{videos.source} holds {has}, but the model {cfg.MODEL.MODEL_NAME} takes {takes}")
    return videos


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
    """Names of the classes.

    From DATA.CLASS_NAMES, else from classes.txt beside the annotations, else from what the dataset says
    (Something-Something's labels, folders); the classes that have no name are numbers.
    """
    if cfg.DATA.CLASS_NAMES:
        return annotations.read_class_names(cfg.DATA.CLASS_NAMES, cfg.MODEL.NUM_CLASSES)
    root = Path(cfg.DATA.PATH_TO_DATA_DIR)
    if os.path.exists(root / "classes.txt"):
        return annotations.read_class_names(root / "classes.txt", cfg.MODEL.NUM_CLASSES)
    names: list[str] = []
    dataset = dataset_name(cfg, "test")
    if dataset in ("folder", "imagenet"):
        names = class_folders(root)
    elif dataset == "ssv2" and os.path.exists(root / f"{SSV2}-labels.json"):
        names = label_names(root)
    return [*names, *annotations.numbered_names(cfg.MODEL.NUM_CLASSES)[len(names) :]]


def clip_sampling(cfg: CfgNode, split: str) -> ClipSampling:
    images = takes_images(cfg)
    return ClipSampling(
        num_frames=1 if images else cfg.DATA.NUM_FRAMES,
        sampling_rate=1 if images else cfg.DATA.SAMPLING_RATE,
        target_fps=cfg.DATA.TARGET_FPS,
        segments=dataset_name(cfg, split) == "ssv2",
        use_offset=cfg.DATA.USE_OFFSET_SAMPLING,
        jitter_fps=cfg.DATA.TRAIN_JITTER_FPS,
    )


def backend(cfg: CfgNode) -> str:
    """The decoder; PySlowFast's "torchvision" no longer exists in torchvision."""
    return {"torchvision": "decord"}.get(cfg.DATA.DECODING_BACKEND, cfg.DATA.DECODING_BACKEND)


def timeout_seconds(cfg: CfgNode) -> float:
    """Seconds that reading a video may take; 0 for no limit."""
    if cfg.DATA.DECODE_TIMEOUT_SECONDS < 0:
        raise ConfigError(f"DATA.DECODE_TIMEOUT_SECONDS={cfg.DATA.DECODE_TIMEOUT_SECONDS}, expected at least 0")
    return cfg.DATA.DECODE_TIMEOUT_SECONDS


def random_augmentation(cfg: CfgNode):
    """What changes training frames beside crop and flip; None for nothing."""
    aug = cfg.AUG
    if not aug.ENABLE:
        return None
    if aug.INTERPOLATION not in INTERPOLATIONS:
        raise ConfigError(f"AUG.INTERPOLATION={aug.INTERPOLATION!r}, expected one of {', '.join(INTERPOLATIONS)}")
    images = takes_images(cfg)
    if aug.AA_TYPE:
        fill = {"fill": tuple(min(255, round(255 * m)) for m in cfg.DATA.MEAN)} if images else {}
        return parse_policy(aug.AA_TYPE, interpolation=aug.INTERPOLATION, **fill)
    if aug.COLOR_JITTER:
        return lambda frames, rng: color_jitter(frames, aug.COLOR_JITTER, rng)
    return None


def train_transform(cfg: CfgNode) -> TrainTransform | TrainImageTransform:
    data = cfg.DATA
    scale, aspect = tuple(data.TRAIN_JITTER_SCALES_RELATIVE), tuple(data.TRAIN_JITTER_ASPECT_RELATIVE)
    if takes_images(cfg):
        return TrainImageTransform(
            crop=data.TRAIN_CROP_SIZE,
            scale=scale or (0.08, 1.0),
            aspect=aspect or (3 / 4, 4 / 3),
            interpolation=cfg.AUG.INTERPOLATION,
            flip=data.RANDOM_FLIP,
            augment=random_augmentation(cfg),
        )
    return TrainTransform(
        crop=data.TRAIN_CROP_SIZE,
        scale=scale,
        aspect=aspect or (3 / 4, 4 / 3),
        short_sides=tuple(data.TRAIN_JITTER_SCALES),
        uniform_sides=not data.INV_UNIFORM_SAMPLE,
        flip=data.RANDOM_FLIP,
        antialias=data.ANTIALIAS,
        augment=random_augmentation(cfg),
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
            accumulate=cfg.SOLVER.ACCUMULATION_STEPS,
        )
    except ValueError as error:
        raise ConfigError(f"TRAIN.BATCH_SIZE={cfg.TRAIN.BATCH_SIZE}: {error}") from None


def build_train_loader(cfg: CfgNode, videos: VideoList, batches: loader.EpochBatches, device: torch.device):
    """Loader of training batches."""
    dataset = TrainVideos(
        videos,
        clip=clip_sampling(cfg, "train"),
        transform=train_transform(cfg),
        backend=backend(cfg),
        seed=cfg.RNG_SEED,
        num_augmentations=cfg.AUG.NUM_SAMPLE if cfg.AUG.ENABLE else 1,
        timeout_seconds=timeout_seconds(cfg),
    )
    return loader.train_loader(
        dataset,
        batches,
        num_workers=cfg.DATA_LOADER.NUM_WORKERS,
        pin_memory=cfg.DATA_LOADER.PIN_MEMORY and device.type == "cuda",
    )


def build_test_loader(
    cfg: CfgNode, videos: VideoList, place: Place, *, split: str, num_views: int, num_crops: int, shuffle: bool = False
):
    """Loader of the videos of a split with all their views, or of images with their centre crop."""
    data = cfg.DATA
    if isinstance(videos, ImageList):
        num_views = num_crops = 1
        dataset = TestImages(
            videos, crop=data.TEST_CROP_SIZE, crop_ratio=data.IN_VAL_CROP_RATIO, interpolation=image_interpolation(cfg)
        )
    else:
        dataset = TestVideos(
            videos,
            clip=clip_sampling(cfg, split),
            num_views=num_views,
            spatial_idx=spatial_crops(num_crops),
            short_side=test_short_side(cfg, split, num_crops),
            crop=data.TEST_CROP_SIZE,
            antialias=data.ANTIALIAS,
            backend=backend(cfg),
            shuffle_seed=cfg.RNG_SEED if shuffle else None,
            timeout_seconds=timeout_seconds(cfg),
        )
    return loader.test_loader(
        dataset,
        videos_per_batch=max(1, views_per_batch(cfg, place) // (num_views * num_crops)),
        num_workers=cfg.DATA_LOADER.NUM_WORKERS,
        rank=place.rank,
        world_size=place.world_size,
    )


def image_interpolation(cfg: CfgNode) -> str:
    """How test images are resized."""
    return "bilinear" if cfg.AUG.INTERPOLATION == "bilinear" else "bicubic"


def spatial_crops(num_crops: int) -> tuple[int, ...]:
    """Which crops `num_crops` are, see `transforms.crop_offset`."""
    if num_crops not in (1, 3):
        raise ConfigError(f"TEST.NUM_SPATIAL_CROPS={num_crops}, expected 1 or 3")
    return (1,) if num_crops == 1 else (0, 1, 2)


def test_short_side(cfg: CfgNode, split: str, num_crops: int) -> int:
    """Short side of test frames: that of the crop for three crops and for "ssv2", else TRAIN_JITTER_SCALES[0]."""
    data = cfg.DATA
    if num_crops > 1 or dataset_name(cfg, split) == "ssv2":
        return data.TEST_CROP_SIZE
    short_side = data.TRAIN_JITTER_SCALES[0]
    if short_side < data.TEST_CROP_SIZE:
        raise ConfigError(
            f"DATA.TEST_CROP_SIZE={data.TEST_CROP_SIZE} does not fit into a short side of "
            f"DATA.TRAIN_JITTER_SCALES[0]={short_side}"
        )
    return short_side


test_short_side.__test__ = False  # not a pytest test


def views_per_batch(cfg: CfgNode, place: Place) -> int:
    """The most views that a process puts through the model at once."""
    return max(1, cfg.TEST.BATCH_SIZE // place.local_world_size)


def normalization(cfg: CfgNode, split: str) -> Normalization:
    """uint8 clips on the device -> normalised float32, in the order of colours that PySlowFast gives its models.

    PySlowFast reads the frames of "ssv2" with blue first, normalises, and then reverses them if asked to.
    Frames here have red first, so that reversing twice is leaving them, with MEAN and STD the other way round.
    """
    blue_first = dataset_name(cfg, split) == "ssv2"
    order = -1 if blue_first else 1
    return Normalization(
        mean=tuple(cfg.DATA.MEAN[::order]),
        std=tuple(cfg.DATA.STD[::order]),
        reverse=blue_first != cfg.DATA.REVERSE_INPUT_CHANNEL,
    )


def targets_of(videos: VideoList | None):
    """What gives targets by labels in samples; None where each video has one label."""
    return videos.targets if isinstance(videos, annotations.MultiLabelList) else None


def precise_batches(cfg: CfgNode, videos: VideoList, place: Place, device: torch.device):
    """(function of the epoch that gives normalised training clips on the device, how many batches of them)."""
    batches = train_batches(cfg, videos, place)
    loading, prepare = build_train_loader(cfg, videos, batches, device), normalization(cfg, "train")

    def clips_of(epoch: int):
        batches.set_position(epoch)
        return (prepare(batch.clips.to(device, non_blocking=True)) for batch in batches_of(loading))

    return clips_of, min(cfg.BN.NUM_BATCHES_PRECISE, len(batches) * batches.accumulate)


def batch_transform(cfg: CfgNode, place: Place, videos: VideoList | None = None) -> BatchTransform:
    """What training batches go through on the device."""
    aug, mixup = cfg.AUG, cfg.MIXUP
    erasing = mix = None
    if aug.ENABLE and aug.RE_PROB > 0:
        try:
            erasing = RandomErasing(
                aug.RE_PROB,
                mode=aug.RE_MODE or "const",
                max_boxes=max(1, aug.RE_COUNT),
                per_frame=aug.RE_PER_FRAME,
            )
        except ValueError as error:
            raise ConfigError(f"AUG.RE_MODE: {error}") from None
    if mixup.ENABLE:
        mix = Mix(
            cfg.MODEL.NUM_CLASSES,
            mixup_alpha=mixup.ALPHA,
            cutmix_alpha=mixup.CUTMIX_ALPHA,
            probability=mixup.PROB,
            switch_probability=mixup.SWITCH_PROB,
            smoothing=mixup.LABEL_SMOOTH_VALUE,
        )
    return BatchTransform(
        normalization(cfg, "train"), erasing, mix, seed=cfg.RNG_SEED, rank=place.rank, targets_of=targets_of(videos)
    )
