"""A run as a config describes it: train, test, and leave the results in OUTPUT_DIR."""

import os
from pathlib import Path

import torch
from fvcore.common.config import CfgNode
from torch import nn

from mvidx import __version__, distributed
from mvidx.checkpoint.files import CheckpointError, write_atomically
from mvidx.checkpoint.sources import load_checkpoint
from mvidx.checkpoint.store import CheckpointStore
from mvidx.config import build, data
from mvidx.config.card import card_of_config
from mvidx.config.load import ConfigError
from mvidx.config.weights import start_from_checkpoint
from mvidx.data.annotations import VideoList, check_files, find_bad_files
from mvidx.data.images import ImageList
from mvidx.distributed import Place
from mvidx.engine.hooks import CheckpointHook, EvaluateHook, MetricsHook
from mvidx.engine.log import logger, set_up_logging
from mvidx.engine.results import write_results
from mvidx.engine.tester import ACTIVATIONS, ENSEMBLES, Predictions, evaluate
from mvidx.engine.trainer import PRECISIONS, Trainer, seed_everything


def choose_device(num_gpus: int, local_rank: int) -> torch.device:
    """The device of this process: a GPU unless there is none or `num_gpus` is 0."""
    available = torch.cuda.device_count()
    if num_gpus > available:
        logger.warning("NUM_GPUS is %d, but this machine has %d GPUs", num_gpus, available)
    if num_gpus == 0 or available == 0:
        return torch.device("cpu")
    return torch.device("cuda", local_rank % available)


def precision(cfg: CfgNode, device: torch.device) -> str:
    """What is computed in: TRAIN.PRECISION, or float16 on a GPU where MIXED_PRECISION asks for it."""
    mixed = cfg.TRAIN.MIXED_PRECISION and cfg.TRAIN.PRECISION == "float32" and device.type == "cuda"
    return "float16" if mixed else cfg.TRAIN.PRECISION


def set_threads(num_workers: int, local_world_size: int) -> None:
    """Share a node's cores between the processes that compute on the CPU and their loader workers.

    Threads that wait for one another spin: with more of them than cores a step takes several times as long.
    OMP_NUM_THREADS, where it is set, decides instead.
    """
    if "OMP_NUM_THREADS" not in os.environ:
        cores = max(1, len(os.sched_getaffinity(0)) // local_world_size)
        torch.set_num_threads(max(1, cores - min(num_workers, cores // 2)))


def run(cfg: CfgNode) -> None:
    """Train and/or test, as TRAIN.ENABLE and TEST.ENABLE say."""
    if not cfg.TRAIN.ENABLE and not cfg.TEST.ENABLE:
        raise ConfigError("TRAIN.ENABLE and TEST.ENABLE are both False: nothing to do")
    for key, value, known in (
        ("TRAIN.PRECISION", cfg.TRAIN.PRECISION, PRECISIONS),
        ("MODEL.HEAD_ACT", cfg.MODEL.HEAD_ACT, ACTIVATIONS),
        ("DATA.ENSEMBLE_METHOD", cfg.DATA.ENSEMBLE_METHOD, ENSEMBLES),
    ):
        if value not in known:
            raise ConfigError(f"{key}={value!r}, expected one of {', '.join(known)}")
    set_up_logging()
    device = choose_device(cfg.NUM_GPUS, distributed.place_from_environment().local_rank)
    if device.type == "cuda":
        torch.cuda.set_device(device)
    place = distributed.initialize(device)
    set_up_logging()
    if device.type == "cpu":
        set_threads(cfg.DATA_LOADER.NUM_WORKERS, place.local_world_size)
    try:
        seed_everything(cfg.RNG_SEED + place.rank)
        model = build.build_model(cfg).to(device)
        if cfg.TRAIN.ENABLE:
            train(cfg, model, place, device)
        if cfg.TEST.ENABLE:
            test(cfg, model, place, device, trained=cfg.TRAIN.ENABLE)
    finally:
        distributed.shutdown()


def _prepare_output(cfg: CfgNode) -> Path:
    """Make OUTPUT_DIR and write config.yaml into it."""
    folder = Path(cfg.OUTPUT_DIR)
    if distributed.is_main():
        try:
            folder.mkdir(parents=True, exist_ok=True)
            write_atomically(folder / "config.yaml", lambda name: Path(name).write_text(cfg.dump()))
        except OSError as error:
            raise ConfigError(f"OUTPUT_DIR={folder}: {error.strerror}") from None
    distributed.barrier()
    return folder


def _store(cfg: CfgNode) -> CheckpointStore:
    return CheckpointStore(Path(cfg.OUTPUT_DIR) / "checkpoints", keep=cfg.TRAIN.CHECKPOINTS_KEPT)


def train(cfg: CfgNode, model: nn.Module, place: Place, device: torch.device) -> None:
    """Train `model` in place, from the newest checkpoint in OUTPUT_DIR if there is one."""
    videos, val_videos = data.read_videos(cfg, "train"), data.read_videos(cfg, "val")
    for split in (videos, val_videos):
        check_files(split, limit=cfg.DATA.CHECK_FILES)
    batches = data.train_batches(cfg, videos, place)
    optimizer, schedule = build.build_optimizer(cfg, model), build.build_schedule(cfg)
    val_loader = data.build_test_loader(cfg, val_videos, place, split="val", num_views=1, num_crops=1)
    folder, store = _prepare_output(cfg), _store(cfg)

    def evaluate_on_val() -> Predictions:
        return _evaluate(cfg, model, val_loader, place, device, split="val")

    metrics = MetricsHook(folder, log_period=cfg.LOG_PERIOD, tensorboard=cfg.TENSORBOARD.ENABLE)
    checkpoints = CheckpointHook(
        store,
        epochs=cfg.TRAIN.CHECKPOINT_PERIOD,
        steps=cfg.TRAIN.CHECKPOINT_STEPS,
        extra={"cfg": cfg.dump(), "version": __version__, "card": card_of_config(cfg).to_dict()},
    )
    wrapped = model
    if place.world_size > 1:
        wrapped = nn.parallel.DistributedDataParallel(model, device_ids=[device] if device.type == "cuda" else None)
    trainer = Trainer(
        model=wrapped,
        raw_model=model,
        optimizer=optimizer,
        schedule=schedule,
        loader=data.build_train_loader(cfg, videos, batches, device),
        batches=batches,
        loss=build.build_loss(cfg),
        prepare=data.batch_transform(cfg, place),
        device=device,
        precision=precision(cfg, device),
        clip_value=cfg.SOLVER.CLIP_GRAD_VAL or 0.0,
        freeze_batch_norm=cfg.MODEL.FROZEN_BN,
        clip_norm=cfg.SOLVER.CLIP_GRAD_L2NORM or 0.0,
        max_epochs=cfg.SOLVER.MAX_EPOCH,
        hooks=[metrics, EvaluateHook(evaluate_on_val, metrics, period=cfg.TRAIN.EVAL_PERIOD), checkpoints],
    )
    if not _resume(cfg, trainer, store) and cfg.TRAIN.CHECKPOINT_FILE_PATH:
        start_from_checkpoint(cfg, model, trainer)
    _announce(cfg, model, trainer, videos, val_videos, place)
    trainer.train()


def _resume(cfg: CfgNode, trainer: Trainer, store: CheckpointStore) -> bool:
    """Continue from the newest readable checkpoint; says what was found."""
    if not cfg.TRAIN.AUTO_RESUME:
        return False
    state, path, problems = store.load_newest()
    for problem in problems:
        logger.warning("%s; trying the one before", problem)
    if state is None:
        return False
    try:
        trainer.load_state_dict(state)
    except (RuntimeError, ValueError, KeyError) as error:
        reason = " ".join(str(error).split())[:300]
        raise CheckpointError(f"checkpoint {path} is of another run and can't be resumed: {reason}") from None
    logger.info("resumed %s: epoch %d, step %d", path, trainer.epoch + 1, trainer.step)
    return True


def _announce(
    cfg: CfgNode, model: nn.Module, trainer: Trainer, videos: VideoList, val_videos: VideoList, place: Place
) -> None:
    parameters = sum(p.numel() for p in model.parameters())
    logger.info(
        "training %s (%.2f M parameters) on %s with %d process(es), torch %s, mvidx %s",
        *(cfg.MODEL.MODEL_NAME, parameters / 1e6, trainer.device, place.world_size, torch.__version__, __version__),
    )
    logger.info(
        "%d training and %d validation videos, batches of %d, %d epochs of %d steps, learning rate %g",
        *(len(videos), len(val_videos), trainer.batches.batch_size * place.world_size),
        *(trainer.max_epochs, trainer.steps_per_epoch, trainer.schedule.base_lr),
    )


def _evaluate(cfg: CfgNode, model: nn.Module, loader, place: Place, device: torch.device, *, split: str) -> Predictions:
    return evaluate(
        model,
        _with_progress(loader),
        num_classes=cfg.MODEL.NUM_CLASSES,
        prepare=data.normalization(cfg, split),
        device=device,
        views_per_batch=data.views_per_batch(cfg, place),
        precision=precision(cfg, device),
        activation=cfg.MODEL.HEAD_ACT,
        ensemble=cfg.DATA.ENSEMBLE_METHOD,
    )


def _with_progress(loader):
    """A progress bar over the loader, on a terminal and on rank 0 alone."""
    from tqdm import tqdm

    return tqdm(loader, desc="evaluating", unit="batch", leave=False, disable=None if distributed.is_main() else True)


def _load_for_test(cfg: CfgNode, model: nn.Module) -> str:
    """Load the weights that a test without training is about; returns where they came from."""
    if cfg.TEST.CHECKPOINT_FILE_PATH:
        load_checkpoint(model, cfg.TEST.CHECKPOINT_FILE_PATH)
        return cfg.TEST.CHECKPOINT_FILE_PATH
    _, path, problems = _store(cfg).load_newest()
    for problem in problems:
        logger.warning("%s; trying the one before", problem)
    if path is not None:
        load_checkpoint(model, path)
        return str(path)
    if cfg.TRAIN.CHECKPOINT_FILE_PATH:
        load_checkpoint(model, cfg.TRAIN.CHECKPOINT_FILE_PATH)
        return cfg.TRAIN.CHECKPOINT_FILE_PATH
    raise ConfigError(
        "nothing to test: TEST.CHECKPOINT_FILE_PATH is empty, and there is no checkpoint in "
        f"{Path(cfg.OUTPUT_DIR) / 'checkpoints'}"
    )


def test(cfg: CfgNode, model: nn.Module, place: Place, device: torch.device, *, trained: bool) -> None:
    """Test `model`, loaded from a checkpoint unless it was `trained` just now, and write the results."""
    videos = data.read_videos(cfg, "test")
    bad = find_bad_files(videos, limit=cfg.DATA.CHECK_FILES)
    if len(bad) == len(videos):
        check_files(videos, limit=cfg.DATA.CHECK_FILES)
    names = data.class_names(cfg)
    views, crops = cfg.TEST.NUM_ENSEMBLE_VIEWS, cfg.TEST.NUM_SPATIAL_CROPS
    if isinstance(videos, ImageList):
        views, crops = 1, 1
    loader = data.build_test_loader(
        cfg, videos, place, split="test", num_views=views, num_crops=crops, shuffle=cfg.TEST.SHUFFLE_FRAMES
    )
    if trained and cfg.TEST.CHECKPOINT_FILE_PATH:
        logger.warning("TEST.CHECKPOINT_FILE_PATH is passed over: the model that was just trained is tested")
    source = "the model just trained" if trained else _load_for_test(cfg, model)
    folder = _prepare_output(cfg)
    logger.info("testing %s on %d videos, %d views x %d crops", source, len(videos), views, crops)
    predictions = _evaluate(cfg, model, loader, place, device, split="test")
    if not distributed.is_main():
        return
    results = write_results(
        folder,
        predictions,
        videos,
        class_names=names,
        num_temporal_views=views,
        num_spatial_crops=crops,
        shuffled_frames=cfg.TEST.SHUFFLE_FRAMES,
    )
    for failure in results["failures"]:
        logger.warning("unreadable test video left out: %s (%s): %s", *map(failure.get, ("path", "row", "reason")))
    failed = f", {results['num_failed']} unreadable" if results["num_failed"] else ""
    print(
        f"top-1 {results['top1']:.2f}%  top-5 {results['top5']:.2f}%  ({len(videos)} videos{failed}, "
        f"{views} views x {crops} crops); everything lies in {folder}",
        flush=True,
    )


test.__test__ = False  # not a pytest test
