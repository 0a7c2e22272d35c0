"""A run as a config describes it: train, test, and leave the results in OUTPUT_DIR."""

import os
import platform
import socket
import subprocess
import warnings

import torch
from fvcore.common.config import CfgNode
from torch import nn
from torch.optim.swa_utils import AveragedModel

from mvidx import __version__, distributed
from mvidx.checkpoint.files import CheckpointError
from mvidx.checkpoint.paths import join, make_folder, write_text
from mvidx.checkpoint.sources import load_checkpoint
from mvidx.checkpoint.store import CheckpointStore
from mvidx.config import build, data
from mvidx.config.card import card_of_config
from mvidx.config.load import ConfigError
from mvidx.config.weights import start_from_checkpoint
from mvidx.data.annotations import VideoList, check_files, find_bad_files
from mvidx.data.images import ImageList
from mvidx.distributed import Place
from mvidx.engine.hooks import BatchNormHook, CheckpointHook, EvaluateHook, MetricsHook
from mvidx.engine.log import logger, set_up_logging
from mvidx.engine.results import write_results
from mvidx.engine.sharding import shard, whole
from mvidx.engine.sinks import Sink, TensorBoard, WeightsAndBiases
from mvidx.engine.stop import Stopped, StopRequest
from mvidx.engine.tester import ACTIVATIONS, ENSEMBLES, Predictions, evaluate
from mvidx.engine.trainer import PRECISIONS, Trainer, seed_everything
from mvidx.errors import RunTrouble, tell
from mvidx.optim.ema import averaged_model


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


KNOWN = {
    "TRAIN.PRECISION": PRECISIONS,
    "MODEL.HEAD_ACT": ACTIVATIONS,
    "MODEL.SHARDING": ("ddp", "fsdp"),
    "DATA.ENSEMBLE_METHOD": ENSEMBLES,
    "BN.NORM_TYPE": ("batchnorm", "sync_batchnorm"),
    "WANDB.MODE": ("online", "offline", "disabled"),
}
"""Keys with few values."""
AT_LEAST_ONE = (
    "SOLVER.ACCUMULATION_STEPS",
    "SOLVER.MAX_NONFINITE_STEPS",
    "TRAIN.CHECKPOINTS_KEPT",
    "TRAIN.CHECKPOINT_PERIOD",
    "TRAIN.EVAL_PERIOD",
    "BN.NUM_BATCHES_PRECISE",
    "LOG_PERIOD",
)


def _value(cfg: CfgNode, key: str):
    for part in key.split("."):
        cfg = cfg[part]
    return cfg


def check(cfg: CfgNode) -> None:
    """Raise ConfigError for values that no run can have, before anything is read or made."""
    if not cfg.TRAIN.ENABLE and not cfg.TEST.ENABLE:
        raise ConfigError("TRAIN.ENABLE and TEST.ENABLE are both False: nothing to do")
    for key, known in KNOWN.items():
        if (value := _value(cfg, key)) not in known:
            raise ConfigError(f"{key}={value!r}, expected one of {', '.join(known)}")
    for key in AT_LEAST_ONE:
        if (value := _value(cfg, key)) < 1:
            raise ConfigError(f"{key}={value}, expected at least 1")
    if not 0 <= cfg.EMA.DECAY < 1:
        raise ConfigError(f"EMA.DECAY={cfg.EMA.DECAY}, expected at least 0 and below 1")
    if cfg.SOLVER.BACKBONE_LR_SCALE <= 0:
        raise ConfigError(
            f"SOLVER.BACKBONE_LR_SCALE={cfg.SOLVER.BACKBONE_LR_SCALE}, expected above 0 (MODEL.FROZEN_PARTS freezes)"
        )
    if cfg.DATA.MULTI_LABEL and cfg.MODEL.HEAD_ACT != "sigmoid":
        raise ConfigError(f"MODEL.HEAD_ACT={cfg.MODEL.HEAD_ACT!r}, expected 'sigmoid' with DATA.MULTI_LABEL")
    if cfg.MODEL.COMPILE and cfg.MODEL.COMPILE_BACKEND not in (known := torch.compiler.list_backends(None)):
        raise ConfigError(f"MODEL.COMPILE_BACKEND={cfg.MODEL.COMPILE_BACKEND!r}, expected one of {', '.join(known)}")
    if cfg.MODEL.SHARDING == "fsdp":
        for key, wrong, why in (
            ("TRAIN.PRECISION", "float16", "its loss scaling is not for split gradients, bfloat16 needs none"),
            ("BN.NORM_TYPE", "sync_batchnorm", "the two are not to be had together"),
        ):
            if _value(cfg, key) == wrong:
                raise ConfigError(f"{key}={wrong} with MODEL.SHARDING fsdp: {why}")


def run(cfg: CfgNode) -> None:
    """Train and/or test, as TRAIN.ENABLE and TEST.ENABLE say.

    Raises:
        UserError: a mistake, or trouble (RunTrouble) in one of the processes; each raises one that says what it was.
        Stopped: a signal asked for the end, and everything is saved.
    """
    check(cfg)
    set_up_logging()
    device = choose_device(cfg.NUM_GPUS, distributed.place_from_environment().local_rank)
    if device.type == "cuda":
        torch.cuda.set_device(device)
    stop = StopRequest()
    with stop.listening():
        place = distributed.initialize(device)
        distributed.watch(tell=tell, stop=stop)
        set_up_logging()
        if device.type == "cpu":
            set_threads(cfg.DATA_LOADER.NUM_WORKERS, place.local_world_size)
        try:
            seed_everything(cfg.RNG_SEED + place.rank)
            model = build.build_model(cfg).to(device)
            models = train(cfg, model, place, device, stop) if cfg.TRAIN.ENABLE else {"": model}
            if cfg.TEST.ENABLE:
                test(cfg, models, place, device, stop, trained=cfg.TRAIN.ENABLE)
            distributed.shutdown()
        except Stopped:
            distributed.shutdown()
            raise
        except BaseException as error:
            explained = distributed.explain(error)
            distributed.shutdown(failed=True)
            if explained is error:
                raise
            raise explained from None


def _prepare_output(cfg: CfgNode) -> str:
    """Make OUTPUT_DIR and write config.yaml into it."""
    folder = cfg.OUTPUT_DIR
    if distributed.is_main():
        try:
            make_folder(folder)
            write_text(join(folder, "config.yaml"), cfg.dump())
        except OSError as error:
            raise ConfigError(f"OUTPUT_DIR={folder}: {error.strerror or error}") from None
    distributed.barrier()
    return folder


def _store(cfg: CfgNode) -> CheckpointStore:
    folder = join(cfg.OUTPUT_DIR, "checkpoints")
    return CheckpointStore(folder, keep=cfg.TRAIN.CHECKPOINTS_KEPT, background=cfg.TRAIN.CHECKPOINT_BACKGROUND)


def _sinks(cfg: CfgNode, folder: str, first_step: int) -> list[Sink]:
    sinks: list[Sink] = []
    if cfg.TENSORBOARD.ENABLE:
        sinks.append(TensorBoard(folder, first_step=first_step))
    if cfg.WANDB.ENABLE:
        project, name, mode = cfg.WANDB.PROJECT, cfg.WANDB.NAME, cfg.WANDB.MODE
        sinks.append(WeightsAndBiases(folder, project=project, name=name, mode=mode, config={"cfg": cfg.dump()}))
    return sinks


def best_metric(cfg: CfgNode) -> str:
    """Name of the value by which the best checkpoint is chosen; empty for none."""
    if cfg.TRAIN.BEST_METRIC != "auto":
        return cfg.TRAIN.BEST_METRIC
    return "map" if cfg.DATA.MULTI_LABEL else "top1"


def distribute(cfg: CfgNode, model: nn.Module, average: AveragedModel | None, device: torch.device) -> nn.Module:
    """What trains in this process: the model itself, wrapped, or split in place; its average is split with it."""
    if cfg.MODEL.COMPILE:
        model.compile(backend=cfg.MODEL.COMPILE_BACKEND)
    if distributed.world_size() == 1:
        return model
    if cfg.MODEL.SHARDING == "fsdp":
        mesh = torch.distributed.device_mesh.init_device_mesh(device.type, (distributed.world_size(),))
        for part in (model, *([] if average is None else [average.module])):
            shard(part, mesh)
        return model
    return nn.parallel.DistributedDataParallel(model, device_ids=[device] if device.type == "cuda" else None)


def train(
    cfg: CfgNode, model: nn.Module, place: Place, device: torch.device, stop: StopRequest
) -> dict[str, nn.Module]:
    """Train `model` in place, from the newest checkpoint in OUTPUT_DIR if there is one.

    Returns:
        What is to be tested: "" -> the model, and "ema" -> its moving average where there is one.
    """
    videos, val_videos = data.read_videos(cfg, "train"), data.read_videos(cfg, "val")
    for split in (videos, val_videos):
        check_files(split, limit=cfg.DATA.CHECK_FILES)
    batches, schedule = data.train_batches(cfg, videos, place), build.build_schedule(cfg)
    if cfg.BN.NORM_TYPE == "sync_batchnorm" and place.world_size > 1:
        model = build.synchronize_batch_norms(model, device)
    frozen = build.freeze_parts(model, cfg.MODEL.FROZEN_PARTS)
    start = start_record(cfg, model, frozen, batches, schedule.base_lr, videos, val_videos, place, device)
    average = averaged_model(model, cfg.EMA.DECAY) if cfg.EMA.ENABLE else None
    wrapped = distribute(cfg, model, average, device)
    split = cfg.MODEL.SHARDING == "fsdp" and place.world_size > 1
    plain = build.build_model(cfg).to(device) if split else None  # evaluations have no collective operations

    def whole_model(module: nn.Module) -> nn.Module:
        if plain is None:
            return module
        plain.load_state_dict(whole(module.state_dict()))
        return plain

    optimizer = build.build_optimizer(cfg, model)
    val_loader = data.build_test_loader(cfg, val_videos, place, split="val", num_views=1, num_crops=1)
    folder, store = _prepare_output(cfg), _store(cfg)

    def evaluate_on_val(averaged: bool) -> Predictions:
        evaluated = whole_model(average.module if averaged else model)
        return _evaluate(cfg, evaluated, val_loader, val_videos, place, device, stop, split="val")

    metrics = MetricsHook(
        folder,
        log_period=cfg.LOG_PERIOD,
        sinks=lambda step: _sinks(cfg, folder, step),
        start=start,
    )
    evaluation = EvaluateHook(evaluate_on_val, metrics, period=cfg.TRAIN.EVAL_PERIOD, best=best_metric(cfg))
    precise, num_precise = None, 0
    if cfg.BN.USE_PRECISE_STATS:
        precise, num_precise = data.precise_batches(cfg, videos, place, device)
    checkpoints = CheckpointHook(
        store,
        epochs=cfg.TRAIN.CHECKPOINT_PERIOD,
        steps=cfg.TRAIN.CHECKPOINT_STEPS,
        evaluation=evaluation,
        extra={"cfg": cfg.dump(), "version": __version__, "card": card_of_config(cfg).to_dict()},
    )
    trainer = Trainer(
        model=wrapped,
        raw_model=model,
        optimizer=optimizer,
        schedule=schedule,
        loader=data.build_train_loader(cfg, videos, batches, device),
        batches=batches,
        loss=build.build_loss(cfg),
        prepare=data.batch_transform(cfg, place, videos),
        device=device,
        precision=precision(cfg, device),
        clip_value=cfg.SOLVER.CLIP_GRAD_VAL or 0.0,
        freeze_batch_norm=cfg.MODEL.FROZEN_BN,
        clip_norm=cfg.SOLVER.CLIP_GRAD_L2NORM or 0.0,
        average=average,
        max_nonfinite_steps=cfg.SOLVER.MAX_NONFINITE_STEPS,
        dump_folder=folder,
        path_of=videos.path,
        stop=stop,
        max_epochs=cfg.SOLVER.MAX_EPOCH,
        hooks=[
            metrics,
            BatchNormHook(precise, num_batches=num_precise, period=cfg.TRAIN.EVAL_PERIOD),
            evaluation,
            checkpoints,
        ],
    )
    if not _resume(cfg, trainer, store) and cfg.TRAIN.CHECKPOINT_FILE_PATH:
        start_from_checkpoint(cfg, model, trainer)
    _announce(start)
    trainer.train()
    if plain is None:
        return {"": model} if average is None else {"": model, "ema": average.module}
    models = {"": whole_model(model)}
    if average is not None:
        models["ema"] = build.build_model(cfg).to(device)
        models["ema"].load_state_dict(whole(average.module.state_dict()))
    return models


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


def start_record(
    cfg: CfgNode,
    model: nn.Module,
    frozen: int,
    batches,
    lr: float,
    videos: VideoList,
    val_videos: VideoList,
    place: Place,
    device: torch.device,
) -> dict:
    """What a run is, for the log and metrics.jsonl; what depends on the machine stands under "timing"."""
    gflops = gflops_of(model) if distributed.is_main() else None
    parameters = sum(parameter.numel() for parameter in model.parameters())
    return {
        "model": cfg.MODEL.MODEL_NAME,
        "parameters": parameters,
        "parameters_learned": parameters - frozen,
        "gflops": gflops and round(gflops, 4),
        "input": [*model.input_size],
        "precision": precision(cfg, device),
        "batch_size": batches.batch_size * place.world_size * batches.accumulate,
        "accumulation_steps": batches.accumulate,
        "optimizer": cfg.SOLVER.OPTIMIZING_METHOD,
        "lr": lr,
        "epochs": cfg.SOLVER.MAX_EPOCH,
        "steps_per_epoch": len(batches),
        "steps": cfg.SOLVER.MAX_EPOCH * len(batches),
        "num_train": len(videos),
        "num_val": len(val_videos),
        "timing": {
            "processes": place.world_size,
            "sharding": cfg.MODEL.SHARDING if place.world_size > 1 else "none",
            "device": device_name(device),
            "host": socket.gethostname(),
            "versions": {"mvidx": __version__, "torch": torch.__version__, "python": platform.python_version()},
        },
    }


def gflops_of(model: nn.Module) -> float | None:
    """Billions of multiply-adds for one input; None where the model has an operator that nobody knows how to count."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # importing fvcore.nn is deprecated torch
        from mvidx.models.flops import complexity
    try:
        return complexity(model).gflops
    except (ValueError, RuntimeError):
        return None


def device_name(device: torch.device) -> str:
    """The device in words: the GPU's name, or the processor's with the threads that are used."""
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    try:
        lines = subprocess.run(["lscpu"], capture_output=True, text=True, check=True).stdout.splitlines()
        name = next(line.partition(":")[2].strip() for line in lines if line.startswith("Model name"))
    except (OSError, subprocess.CalledProcessError, StopIteration):
        name = platform.processor() or platform.machine()
    return f"CPU ({name}, {torch.get_num_threads()} thread(s))"


def _announce(start: dict) -> None:
    timing = start["timing"]
    gflops = "unknown" if start["gflops"] is None else f"{start['gflops']:.2f}"
    learned = start["parameters_learned"]
    frozen = "" if learned == start["parameters"] else f", {learned / 1e6:.2f} M of them learn"
    logger.info(
        "training %s: %.2f M parameters%s, %s GFLOPs for an input of %s, %s",
        *(start["model"], start["parameters"] / 1e6, frozen, gflops, "x".join(map(str, start["input"]))),
        start["precision"],
    )
    logger.info(
        "on %s with %d process(es)%s; %s",
        *(timing["device"], timing["processes"], " sharing the weights" if timing["sharding"] == "fsdp" else ""),
        ", ".join(f"{name} {version}" for name, version in timing["versions"].items()),
    )
    accumulated = f" ({start['accumulation_steps']} accumulated)" if start["accumulation_steps"] > 1 else ""
    logger.info(
        "%d training and %d validation videos, effective batches of %d%s, %d epochs of %d steps (%d in all), %s with "
        "learning rate %g",
        *(start["num_train"], start["num_val"], start["batch_size"], accumulated, start["epochs"]),
        *(start["steps_per_epoch"], start["steps"], start["optimizer"], start["lr"]),
    )


def _evaluate(
    cfg: CfgNode,
    model: nn.Module,
    loader,
    videos: VideoList,
    place: Place,
    device: torch.device,
    stop: StopRequest,
    *,
    split: str,
) -> Predictions:
    return evaluate(
        model,
        loader,
        num_classes=cfg.MODEL.NUM_CLASSES,
        prepare=data.normalization(cfg, split),
        device=device,
        views_per_batch=data.views_per_batch(cfg, place),
        precision=precision(cfg, device),
        activation=cfg.MODEL.HEAD_ACT,
        ensemble=cfg.DATA.ENSEMBLE_METHOD,
        targets_of=data.targets_of(videos),
        stop=stop,
        progress=distributed.is_main(),
    )


def _load_for_test(cfg: CfgNode, models: dict[str, nn.Module]) -> str:
    """Load the weights that a test without training is about; returns where they came from.

    With EMA.ENABLE the moving average that the file holds becomes models["ema"].
    """
    path = cfg.TEST.CHECKPOINT_FILE_PATH
    if not path:
        _, path, problems = _store(cfg).load_newest()
        for problem in problems:
            logger.warning("%s; trying the one before", problem)
    path = path or cfg.TRAIN.CHECKPOINT_FILE_PATH
    if not path:
        raise ConfigError(
            "nothing to test: TEST.CHECKPOINT_FILE_PATH is empty, and there is no checkpoint in "
            f"{join(cfg.OUTPUT_DIR, 'checkpoints')}"
        )
    load_checkpoint(models[""], path)
    if cfg.EMA.ENABLE:
        models["ema"] = build.build_model(cfg).to(next(models[""].parameters()).device)
        load_checkpoint(models["ema"], path, average=True)
    return str(path)


def test(
    cfg: CfgNode,
    models: dict[str, nn.Module],
    place: Place,
    device: torch.device,
    stop: StopRequest,
    *,
    trained: bool,
) -> None:
    """Test the model, loaded from a checkpoint unless it was `trained` just now, and write the results.

    The moving average of its weights, models["ema"], is tested too; its results lie in OUTPUT_DIR/ema.
    """
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
    source = "the model just trained" if trained else _load_for_test(cfg, models)
    folder = _prepare_output(cfg)
    logger.info("testing %s on %d videos, %d views x %d crops", source, len(videos), views, crops)
    told = []
    for kind, model in models.items():
        predictions = _evaluate(cfg, model, loader, videos, place, device, stop, split="test")
        if not distributed.is_main():
            continue
        try:
            results = write_results(
                join(folder, kind) if kind else folder,
                predictions,
                videos,
                class_names=names,
                num_temporal_views=views,
                num_spatial_crops=crops,
                shuffled_frames=cfg.TEST.SHUFFLE_FRAMES,
            )
        except OSError as error:
            raise RunTrouble(f"the results could not be written into {folder}: {error.strerror or error}") from None
        told.append(f"{f'{kind}: ' if kind else ''}{_in_percent(predictions.accuracy())}")
        for failure in results["failures"] if not kind else ():
            logger.warning("unreadable test video left out: %s (%s): %s", *map(failure.get, ("path", "row", "reason")))
    if not distributed.is_main():
        return
    failed = f", {len(predictions.failures)} unreadable" if predictions.failures else ""
    tested = f"({len(videos)} videos{failed}, {views} views x {crops} crops)"
    print(f"{'; '.join(told)}  {tested}; everything lies in {folder}", flush=True)


def _in_percent(accuracy: dict[str, float]) -> str:
    names = {"map": "mAP", "top1": "top-1", "top5": "top-5"}
    return "  ".join(f"{names[key]} {value:.2f}%" for key, value in accuracy.items())


test.__test__ = False  # not a pytest test
