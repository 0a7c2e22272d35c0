"""OUTPUT_DIRs for tests of reports, written by what runs write them with."""

import json
from pathlib import Path

import numpy as np

from mvidx.config.defaults import get_cfg
from mvidx.data.annotations import VideoList
from mvidx.data.motion_scene import MotionScene
from mvidx.engine.results import write_results
from mvidx.engine.tester import Predictions

NASTY = '<img src=x onerror=alert(1)> & "</script>"'
NAMES = ("left", NASTY, "up")
LABELS = (0, 0, 1, 1, 2)
SCORES = ((0.9, 0.05, 0.05), (0.3, 0.6, 0.1), (0.95, 0.03, 0.02), (0.1, 0.8, 0.1), (0.2, 0.2, 0.6))


def write_run(folder: Path, *, names=NAMES, max_epoch: int = 2, speed: float = 10.0) -> Path:
    """A run of two epochs of four steps, tested on five videos (videos 1 and 2 mistaken) and an unreadable one."""
    folder.mkdir(parents=True)
    cfg = get_cfg()
    cfg.OUTPUT_DIR = str(folder)
    cfg.SOLVER.MAX_EPOCH = max_epoch
    (folder / "config.yaml").write_text(cfg.dump())
    paths = [str(folder / f"video{number}.mp4") for number in range(5)]
    for number in (1, 3):
        MotionScene(0, 0, number, "left").write(Path(paths[number]))
    paths[2] = str(folder / f"{NASTY.replace('/', '')}.mp4")  # not there
    videos = VideoList([*paths, "gone.mp4"], [*LABELS, 0], source="test.csv")
    predictions = Predictions(
        np.arange(5), np.array(LABELS), np.array(SCORES, np.float32), {5: ("gone.mp4", f"does not exist {NASTY}")}
    )
    write_results(folder, predictions, videos, class_names=names, num_temporal_views=3, num_spatial_crops=1)
    with open(folder / "metrics.jsonl", "w") as file:
        for epoch in (1, 2):
            for step in (2, 4):
                done = 4 * (epoch - 1) + step
                record = {"kind": "train_step", "epoch": epoch, "step": step, "global_step": done, "loss": 1 / done}
                timing = {"clips_per_second": speed + done, "data_share": 0.25, "memory_gib": 1.0}
                print(
                    json.dumps({**record, "top1": 10.0 * done, "lr": 0.1, "num_replaced": 1, "timing": timing}),
                    file=file,
                )
            means = {
                "epoch": epoch,
                "global_step": 4 * epoch,
                "loss": 2.0 - epoch / 2,
                "top1": 20.0 * epoch,
                "top5": 90.0,
            }
            print(json.dumps({"kind": "train_epoch", **means}), file=file)
            print(json.dumps({"kind": "val", **means, "loss": float("nan") if epoch == 1 else 0.5}), file=file)
    return folder
