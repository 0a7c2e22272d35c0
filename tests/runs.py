"""Small runs of the main job, as commands."""

import json
import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
CONFIG = ROOT / "configs" / "Motion" / "MVITv2_tiny.yaml"

# Two classes of the motion dataset, and a model of two blocks.
SMALL = [
    *("MODEL.NUM_CLASSES", 2, "MOTION.CLASSES", "['left', 'right']"),
    *("MOTION.NUM_TRAIN", 12, "MOTION.NUM_VAL", 4, "MOTION.NUM_TEST", 6),
    *("MVIT.DEPTH", 2, "MVIT.DIM_MUL", "[[1, 2.0]]", "MVIT.HEAD_MUL", "[[1, 2.0]]", "MVIT.EMBED_DIM", 16),
    *("MVIT.POOL_Q_STRIDE", "[[0, 1, 1, 1], [1, 1, 2, 2]]", "DATA.NUM_FRAMES", 4),
    *("TRAIN.BATCH_SIZE", 4, "TRAIN.EVAL_PERIOD", 1, "TRAIN.CHECKPOINT_PERIOD", 1, "LOG_PERIOD", 2),
    *("SOLVER.MAX_EPOCH", 2, "SOLVER.WARMUP_EPOCHS", 1, "NUM_GPUS", 0, "DATA_LOADER.NUM_WORKERS", 1),
]


def run_net(*arguments, cwd, options=(), path=None):
    """Run tools/run_net.py with the main job's config; fails on a traceback. `path` is searched for packages first."""
    command = [sys.executable, ROOT / "tools" / "run_net.py", "--cfg", CONFIG, *options, *arguments]
    search = [str(path), *filter(None, [os.environ.get("PYTHONPATH")])] if path else None
    env = {**os.environ, "PYTHONPATH": os.pathsep.join(search)} if search else None
    done = subprocess.run(
        list(map(str, command)), cwd=cwd, env=env, capture_output=True, text=True, timeout=300, check=False
    )
    assert "Traceback" not in done.stderr, done.stderr
    return done


def records(folder: Path) -> list[dict]:
    """The lines of a run's metrics.jsonl."""
    return [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
