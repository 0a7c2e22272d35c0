"""Image mode on real pictures: scikit-learn's 1,797 handwritten digits, as a folder of images per class."""

import json
import sys

import numpy as np
from PIL import Image
from sklearn.datasets import load_digits

from tests import elsewhere
from tests.runs import records

RECIPE = """
TRAIN: {DATASET: imagenet, BATCH_SIZE: 32, EVAL_PERIOD: 12, CHECKPOINT_PERIOD: 12}
TEST: {DATASET: imagenet, BATCH_SIZE: 120}
DATA: {TRAIN_CROP_SIZE: 32, TEST_CROP_SIZE: 32, RANDOM_FLIP: false, IN_VAL_CROP_RATIO: 1.0, MEAN: [0.3, 0.3, 0.3],
  STD: [0.37, 0.37, 0.37], TRAIN_JITTER_SCALES_RELATIVE: [0.7, 1.0], TRAIN_JITTER_ASPECT_RELATIVE: [0.85, 1.18]}
MODEL: {MODEL_NAME: poolformer_s12, NUM_CLASSES: 10, DROPOUT_RATE: 0.0,
  ARGUMENTS: {depths: [1, 1, 1, 1], widths: [32, 64, 64, 64], layer_scale: 1.0}}
SOLVER: {OPTIMIZING_METHOD: adamw, BASE_LR: 0.003, WEIGHT_DECAY: 0.05, ZERO_WD_1D_PARAM: true, MAX_EPOCH: 12,
  WARMUP_EPOCHS: 1, WARMUP_START_LR: 0.0001}
DATA_LOADER: {NUM_WORKERS: 1}
LOG_PERIOD: 44
NUM_GPUS: 0
"""


def write_digits(folder):
    """360 digits for validation and testing, the others for training."""
    digits = load_digits()
    order = np.random.default_rng(0).permutation(len(digits.images))
    for place, index in enumerate(order):
        path = folder / ("val" if place < 360 else "train") / str(digits.target[index]) / f"{index:04d}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray((digits.images[index] * 255 / 16).round().astype(np.uint8)).save(path)


def test_digits_and_paths_of_iopath(tmp_path, monkeypatch, capsys):
    """At least 97%; the config comes from elsewhere, and everything that the run makes goes there."""
    from mvidx import launch

    write_digits(tmp_path / "data")
    monkeypatch.setenv("ELSEWHERE", str(tmp_path / "elsewhere"))
    elsewhere.register()
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "elsewhere" / "digits.yaml").write_text(RECIPE)
    words = ["--cfg", "elsewhere://digits.yaml", "DATA.PATH_TO_DATA_DIR", str(tmp_path / "data")]
    assert launch.main([*words, "OUTPUT_DIR", "elsewhere://runs/digits"]) == 0
    out = tmp_path / "elsewhere" / "runs" / "digits"
    results = json.loads((out / "results.json").read_text())
    assert results["top1"] >= 97 and results["num_videos"] == 360
    assert "everything lies in elsewhere://runs/digits" in capsys.readouterr().out
    start, *lines = records(out)
    assert (start["kind"], start["batch_size"], start["steps"], start["num_train"]) == ("start", 32, 12 * 44, 1437)
    assert start["parameters"] == start["parameters_learned"] > 0 and start["gflops"] > 0
    assert [line["kind"] for line in lines].count("train_epoch") == 12
    assert sorted(path.name for path in (out / "checkpoints").iterdir()) == ["best.pyth", "step_00000528.pyth"]
    assert list((out / "tensorboard").glob("events*")) and (out / "config.yaml").exists()
    assert "wandb" not in sys.modules
