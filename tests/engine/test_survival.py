"""Runs that are killed, signalled and starved, as real processes."""

import json
import os
import random
import signal
import subprocess
import sys
import time

import pytest
import submitit
import torch

from mvidx.checkpoint.files import read_file
from mvidx.errors import STOPPED, TROUBLE
from mvidx.launch import SubmittedRun
from tests.runs import CONFIG, ROOT, SMALL, records, run_net

# Everything that a resumed run must draw again: dropout, stochastic depth, augmentation, erasing, mixing, averages.
ALIVE = [
    *(*SMALL, "MOTION.NUM_TRAIN", 16, "SOLVER.MAX_EPOCH", 3, "TRAIN.CHECKPOINT_STEPS", 1, "LOG_PERIOD", 1),
    *("MVIT.DROPPATH_RATE", 0.3, "MODEL.DROPOUT_RATE", 0.3, "EMA.ENABLE", True, "EMA.DECAY", 0.9),
    *("MIXUP.ENABLE", True, "AUG.ENABLE", True, "AUG.RE_PROB", 0.5, "AUG.NUM_SAMPLE", 2),
    *("SOLVER.ACCUMULATION_STEPS", 2, "TRAIN.BATCH_SIZE", 2, "DATA_LOADER.NUM_WORKERS", 2),
    *("TEST.ENABLE", False, "TENSORBOARD.ENABLE", False),
]
LAST = "step_00000012.pyth"


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """An uninterrupted run: its folder and what it was given."""
    folder = tmp_path_factory.mktemp("survival")
    data = ("DATA.PATH_TO_DATA_DIR", folder / "motion")
    done = run_net(*ALIVE, *data, "OUTPUT_DIR", folder / "whole", cwd=folder)
    assert done.returncode == 0, done.stderr
    return folder, data


def begin(folder, *arguments, options=()):
    """The same run as a process that goes on by itself."""
    words = [sys.executable, ROOT / "tools" / "run_net.py", "--cfg", CONFIG, *options, *ALIVE, *arguments]
    return subprocess.Popen(
        list(map(str, words)), cwd=folder, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )


def wait_for_lines(folder, count, process=None):
    """Wait until a run has written so many lines of metrics.jsonl."""
    deadline = time.time() + 120
    while time.time() < deadline and (process is None or process.poll() is None):
        path = folder / "metrics.jsonl"
        if path.exists() and path.read_text().count("\n") >= count:
            return
        time.sleep(0.01)
    assert process is None or process.poll() is None, process.communicate()[1]
    raise AssertionError(f"{folder} never had {count} lines")


def without_timing(folder):
    return [{key: value for key, value in line.items() if key != "timing"} for line in records(folder)]


def assert_same(folder, other):
    """Equal lines and equal weights, averaged ones and optimizer included, bit for bit."""
    assert without_timing(folder) == without_timing(other)
    ours, theirs = (read_file(path / "checkpoints" / LAST) for path in (folder, other))
    for part in ("model", "ema"):
        assert all(torch.equal(value, theirs[part][name]) for name, value in ours[part].items()), part
    for index, entry in ours["optimizer"]["state"].items():
        assert all(torch.equal(value, theirs["optimizer"]["state"][index][key]) for key, value in entry.items())


def test_killed_at_three_random_points(whole):
    folder, data = whole
    out = folder / "killed"
    draw = random.Random(os.urandom(8))
    points = sorted(draw.sample(range(2, 18), 3))  # of the 19 lines
    print("killed after lines", points)
    for point in points:
        process = begin(folder, *data, "OUTPUT_DIR", out)
        wait_for_lines(out, point, process)
        time.sleep(draw.uniform(0, 0.1))
        process.kill()
        process.communicate()
    done = run_net(*ALIVE, *data, "OUTPUT_DIR", out, cwd=folder)
    assert done.returncode == 0, done.stderr
    assert_same(out, folder / "whole")


def test_sigterm_saves_and_the_same_command_goes_on(whole):
    folder, data = whole
    out = folder / "terminated"
    process = begin(folder, *data, "OUTPUT_DIR", out, "TRAIN.CHECKPOINT_STEPS", 0, "TRAIN.CHECKPOINT_PERIOD", 9)
    wait_for_lines(out, 3, process)
    process.terminate()
    _, said = process.communicate(timeout=120)
    assert process.returncode == STOPPED, said
    assert "stopped by SIGTERM" in said and "Traceback" not in said
    assert len(list((out / "checkpoints").glob("step_*"))) == 1
    done = run_net(*ALIVE, *data, "OUTPUT_DIR", out, cwd=folder)
    assert done.returncode == 0 and "resumed" in done.stderr
    assert_same(out, folder / "whole")


def test_submitit_requeues_what_is_preempted(whole):
    """Half way through, the job gets what SLURM sends; submitit's protocol starts it again, and it goes on."""
    folder, data = whole
    out = folder / "requeued"
    executor = submitit.AutoExecutor(folder=folder / "jobs", cluster="local")
    executor.update_parameters(timeout_min=30, tasks_per_node=1)
    job = executor.submit(SubmittedRun(str(CONFIG), tuple(map(str, [*ALIVE, *data, "OUTPUT_DIR", out]))))
    wait_for_lines(out, 8)
    tasks = subprocess.run(["pgrep", "-P", job.job_id], capture_output=True, text=True, check=True).stdout.split()
    os.kill(int(tasks[0]), signal.SIGUSR1)
    job.wait()
    assert "asked to stop" in job.stderr() and "Requeued job" in job.stdout() + job.stderr()
    assert job.stderr().count("resumed") == 1
    assert_same(out, folder / "whole")


def test_a_dead_loader_worker_is_named(whole):
    folder, data = whole
    process = begin(folder, *data, "OUTPUT_DIR", folder / "starved", "SOLVER.MAX_EPOCH", 300)
    wait_for_lines(folder / "starved", 3, process)
    found = subprocess.run(["pgrep", "-P", str(process.pid)], capture_output=True, text=True, check=True).stdout
    os.kill(int(found.split()[0]), signal.SIGKILL)
    _, said = process.communicate(timeout=60)
    assert process.returncode == TROUBLE, said
    assert "error: a loader worker died" in said and "Traceback" not in said


def test_a_lost_process_ends_all(whole):
    """One of two processes is killed: the other says so within a minute, in one line, and does not hang."""
    folder, data = whole
    out = folder / "lost"
    options = ("--launcher", "local", "--processes", 2)
    process = begin(folder, *data, "OUTPUT_DIR", out, "SOLVER.MAX_EPOCH", 300, options=options)
    wait_for_lines(out, 4, process)
    found = subprocess.run(["pgrep", "-P", str(process.pid)], capture_output=True, text=True, check=True).stdout
    os.kill(int(found.split()[1]), signal.SIGKILL)
    _, said = process.communicate(timeout=75)
    errors = [line for line in said.splitlines() if line.startswith("error:")]
    assert errors[0] == "error: process 1 was ended by SIGKILL"
    assert len(errors) == 2 and errors[1].startswith("error: lost process 1 of 2"), said
    assert process.returncode == 128 + signal.SIGKILL and "Traceback" not in said


def test_a_loss_that_is_not_finite_ends_the_run(whole):
    folder, data = whole
    out = folder / "infinite"
    lr = ("SOLVER.BASE_LR", 1e30, "SOLVER.WARMUP_EPOCHS", 0, "SOLVER.OPTIMIZING_METHOD", "sgd")
    done = run_net(*ALIVE, *data, *lr, "SOLVER.MAX_NONFINITE_STEPS", 2, "OUTPUT_DIR", out, cwd=folder)
    assert done.returncode == TROUBLE, done.stderr
    message = done.stderr.splitlines()[-1]
    assert "after 2 skipped step(s)" in message
    (file,) = out.glob("nonfinite_step_*.pyth")
    assert str(file) in message and "global step" in message
    dumped = read_file(file)
    assert {path for paths in dumped["paths"] for path in paths} <= set(message.replace(",", " ").split())
    assert len(dumped["clips"]) == 2 and f"learning rate {dumped['lr']:g}, " in message
    assert all(torch.isfinite(value).all() for value in dumped["model"].values())  # no step was taken with it
    json.loads((out / "metrics.jsonl").read_text().splitlines()[-1], parse_constant=pytest.fail)
