"""Whole runs on images and on frame lists, with PySlowFast's own files made small."""

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from mvidx.checkpoint.files import read_file
from tests.config.slowfast_files import FILES

ROOT = Path(__file__).resolve().parents[2]
SMALL = [
    *("MVIT.DEPTH", 2, "MVIT.DIM_MUL", "[[1, 2.0]]", "MVIT.HEAD_MUL", "[[1, 2.0]]", "MVIT.EMBED_DIM", 16),
    *("MVIT.POOL_Q_STRIDE", "[[0, 1, 1, 1], [1, 1, 2, 2]]", "NUM_GPUS", 0, "DATA_LOADER.NUM_WORKERS", 0),
    *("DATA.TRAIN_CROP_SIZE", 32, "DATA.TEST_CROP_SIZE", 32, "DATA.TRAIN_JITTER_SCALES", "[36, 40]"),
    *("TRAIN.BATCH_SIZE", 4, "SOLVER.MAX_EPOCH", 2, "SOLVER.WARMUP_EPOCHS", 1, "LOG_PERIOD", 1),
    *("TRAIN.EVAL_PERIOD", 1, "TENSORBOARD.ENABLE", False),
]


def run_net(folder, name, *overrides):
    (folder / "theirs.yaml").write_text(FILES[name])
    command = [sys.executable, str(ROOT / "tools" / "run_net.py"), "--cfg", "theirs.yaml", "--opts"]
    words = [*SMALL, *overrides, "DATA.PATH_TO_DATA_DIR", "data", "OUTPUT_DIR", "out"]  # relative to where it runs
    done = subprocess.run(
        [*command, *map(str, words)], cwd=folder, capture_output=True, text=True, timeout=300, check=False
    )
    assert done.returncode == 0, done.stderr
    lines = [json.loads(line) for line in (folder / "out" / "metrics.jsonl").read_text().splitlines()]
    return done, json.loads((folder / "out" / "results.json").read_text()), lines


def save(path, pixels):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels.astype(np.uint8)).save(path)


def test_imagenet(tmp_path):
    rng = np.random.default_rng(0)
    for split, count in (("train", 5), ("val", 2)):
        for name, colour in (("n01", (220, 40, 40)), ("n02", (40, 40, 220))):
            for i in range(count):
                save(tmp_path / "data" / split / name / f"{i}.png", colour + rng.normal(0, 10, (40, 50, 3)))
    strides = "[[0, 1, 2, 2], [1, 1, 1, 1]]"
    done, results, lines = run_net(
        tmp_path, "ImageNet/MVITv2_T", "MVIT.POOL_KV_STRIDE", strides, "MODEL.NUM_CLASSES", 2
    )
    assert "keys of PySlowFast's that change nothing here: AUG.RE_SPLIT" in done.stderr
    assert (results["num_videos"], results["num_failed"], results["views"]) == (4, 0, 1)
    assert [line["kind"] for line in lines].count("val") == 2
    assert (tmp_path / "out" / "per_class.csv").read_text().splitlines()[1].startswith("0,n01,2")

    # augmentation, erasing and mixing are drawn again as they were: a resumed run is the uninterrupted one
    last = tmp_path / "out" / "checkpoints" / "step_00000004.pyth"
    whole = read_file(last)["model"]
    last.unlink()
    again, _, _ = run_net(
        *(tmp_path, "ImageNet/MVITv2_T", "MVIT.POOL_KV_STRIDE", strides, "MODEL.NUM_CLASSES", 2, "TEST.ENABLE", False)
    )
    assert "resumed" in again.stderr and "step_00000002" in again.stderr
    assert all(torch.equal(value, whole[name]) for name, value in read_file(last)["model"].items())


@pytest.fixture
def ssv2(tmp_path):
    data = tmp_path / "data"
    data.mkdir()
    labels = {"Moving something left": "0", "Moving something right": "1"}
    (data / "something-something-v2-labels.json").write_text(json.dumps(labels))
    for split, long, count in (("train", "train", 4), ("val", "validation", 2)):
        entries, rows = [], ["original_vido_id video_id frame_id path labels"]
        for i in range(count):
            video = f"{split}{i}"
            entries.append({"id": video, "template": f"Moving [something] {('left', 'right')[i % 2]}"})
            for number in range(6):
                save(data / "frames" / video / f"{number:04d}.jpg", np.full((40, 60, 3), 40 * number))
                rows.append(f'{video} {i} {number} {video}/{number:04d}.jpg ""')
        (data / f"something-something-v2-{long}.json").write_text(json.dumps(entries))
        (data / f"{split}.csv").write_text("\n".join(rows) + "\n")
    return tmp_path


def test_something_something(ssv2):
    _, results, lines = run_net(
        *(ssv2, "SSv2/MVITv2_S_16x4", "DATA.PATH_PREFIX", "data/frames", "MODEL.NUM_CLASSES", 2),
        *("DATA.NUM_FRAMES", 4, "AUG.NUM_SAMPLE", 2),
    )
    assert (results["num_videos"], results["views"], results["num_spatial_crops"]) == (2, 3, 3)
    assert all(np.isfinite(line["loss"]) for line in lines[1:])
    names = (ssv2 / "out" / "per_class.csv").read_text()
    assert "Moving something left" in names and "Moving something right" in names
