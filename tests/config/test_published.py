"""Every config of the project loads, builds its model on the meta device and describes a whole run."""

from pathlib import Path

import pytest
import torch

from mvidx.config import build, build_model, data, load_config
from mvidx.data.annotations import VideoList
from mvidx.data.images import ImageList
from mvidx.distributed import Place

CONFIGS = Path(__file__).resolve().parents[2] / "configs"
NAMES = [str(path.relative_to(CONFIGS)) for path in sorted(CONFIGS.glob("*/*.yaml")) if "base" not in path.name]
CLASSES = {"K400": 400, "K600": 600, "K700": 700, "SSv2": 174, "IN1K": 1000, "Motion": 8}


def test_none_is_missing():
    own = ("POOLFORMER_S12", "POOLFORMER_S24", "IFORMER_S", "IFORMER_B", "MIXFORMER_B1", "MIXFORMER_B4")
    wanted = [f"{d}/MVITv2_{s}" for d in ("K400", "K600", "K700", "SSv2") for s in "SBL"]
    wanted += [f"{d}/{name}" for d in ("K400", "SSv2") for name in own]
    wanted += ["K400/MVIT_B_16x4", "K400/MVIT_B_32x3", "IN1K/MVIT_B", *(f"IN1K/MVITv2_{s}" for s in "TSBLH")]
    wanted += [f"IN1K/POOLFORMER_{s}" for s in ("S12", "S24", "S36", "M36", "M48")]
    wanted += [f"IN1K/IFORMER_{s}{size}" for s in "SBL" for size in ("", "_384")]
    wanted += [f"IN1K/MIXFORMER_B{s}" for s in range(7)]
    assert {f"{name}.yaml" for name in wanted} <= set(NAMES)


@pytest.mark.parametrize("name", NAMES)
def test_builds(name):
    cfg = load_config(CONFIGS / name, ["DATA_LOADER.NUM_WORKERS", "0"])
    with torch.device("meta"):
        model = build_model(cfg)
    assert model.num_classes == cfg.MODEL.NUM_CLASSES == CLASSES[name.split("/")[0]]
    side = cfg.DATA.TRAIN_CROP_SIZE
    images = data.takes_images(cfg)
    assert model.input_size == ((side, side) if images else (cfg.DATA.NUM_FRAMES, side, side))
    names = [n for group in build.parameter_groups(model, weight_decay=0.1, layer_decay=0.9) for n in group["names"]]
    assert len(names) == len(list(model.parameters()))
    build.build_schedule(cfg), build.build_loss(cfg), data.train_transform(cfg), data.batch_transform(cfg, Place())
    videos = (ImageList if images else VideoList)(["a"], [0])
    views, crops = cfg.TEST.NUM_ENSEMBLE_VIEWS, cfg.TEST.NUM_SPATIAL_CROPS
    data.build_test_loader(cfg, videos, Place(), split="test", num_views=views, num_crops=crops)


def test_recipes_by_hand():
    pool = load_config(CONFIGS / "IN1K/POOLFORMER_S12.yaml")
    solver = pool.SOLVER
    assert (pool.TRAIN.BATCH_SIZE, solver.BASE_LR, solver.MAX_EPOCH, solver.WARMUP_EPOCHS) == (4096, 4e-3, 300, 5)
    assert (solver.WEIGHT_DECAY, pool.MIXUP.LABEL_SMOOTH_VALUE, solver.OPTIMIZING_METHOD) == (0.05, 0.1, "adamw")
    mix = load_config(CONFIGS / "IN1K/MIXFORMER_B4.yaml")
    assert (mix.SOLVER.WARMUP_EPOCHS, mix.MIXUP.ALPHA, mix.MIXUP.CUTMIX_ALPHA) == (20, 0.2, 1.0)
    large = load_config(CONFIGS / "SSv2/MVITv2_L.yaml")
    assert (large.TEST.NUM_ENSEMBLE_VIEWS, large.TEST.NUM_SPATIAL_CROPS, large.DATA.NUM_FRAMES) == (1, 3, 40)
    fine = load_config(CONFIGS / "IN1K/IFORMER_B_384.yaml")
    assert (fine.DATA.TRAIN_CROP_SIZE, fine.SOLVER.MAX_EPOCH, fine.SOLVER.WEIGHT_DECAY) == (384, 30, 1e-8)
