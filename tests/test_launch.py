"""Runs of several processes: their results are those of one, and mistakes are told once."""

import subprocess
import sys
import time

import numpy as np
import pytest
import torch

from mvidx import distributed
from mvidx.checkpoint.files import read_file
from mvidx.launch import choose_launcher
from tests.runs import CONFIG, ROOT, SMALL, records, run_net

# Numbers that two processes do not divide. SGD, whose steps are the gradients: Adam blows the rounding errors of
# gradients that are zero (a bias of all keys) up to full steps.
UNEVEN = [
    *(*SMALL, "MOTION.NUM_TRAIN", 13, "MOTION.NUM_VAL", 5, "MOTION.NUM_TEST", 7),
    *("SOLVER.OPTIMIZING_METHOD", "sgd", "SOLVER.BASE_LR", 0.1, "EMA.ENABLE", True, "EMA.DECAY", 0.5),
    *("SOLVER.CLIP_GRAD_L2NORM", 1.0),
]


@pytest.fixture(scope="module")
def one_process(tmp_path_factory):
    folder = tmp_path_factory.mktemp("launch")
    done = run_net(*UNEVEN, "DATA.PATH_TO_DATA_DIR", folder / "motion", "OUTPUT_DIR", folder / "one", cwd=folder)
    assert done.returncode == 0, done.stderr
    return folder


def assert_same_run(a, b):
    for ours, theirs in zip(records(a), records(b), strict=True):
        assert ours.keys() == theirs.keys()
        for key in ours.keys() - {"timing", "kind"}:
            assert ours[key] == pytest.approx(theirs[key], abs=1e-4), key
    ours, theirs = (read_file(folder / "checkpoints" / "step_00000006.pyth") for folder in (a, b))
    for part in ("model", "ema"):
        for name, weight in ours[part].items():
            assert torch.allclose(weight, theirs[part][name], atol=1e-4), name
    ours, theirs = (np.load(folder / "predictions.npz") for folder in (a, b))
    assert ours["id"].tolist() == theirs["id"].tolist() and len(ours["id"]) == 7
    assert np.allclose(ours["scores"], theirs["scores"], atol=1e-4)


def test_two_processes_give_the_run_of_one(one_process):
    """The same batch over two processes: same gradients, metrics and test results."""
    folder = one_process
    done = run_net(
        *UNEVEN, "DATA.PATH_TO_DATA_DIR", folder / "motion", "OUTPUT_DIR", folder / "two",
        cwd=folder, options=("--launcher", "local", "--processes", 2),
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert "with 2 process(es)" in done.stderr and done.stdout.count("\n") == 1
    assert_same_run(folder / "one", folder / "two")


def test_torchrun_with_split_weights_gives_the_run_of_one(one_process):
    """FSDP2 under torchrun: the same gradients, averages, metrics and results, and checkpoints of whole tensors."""
    folder = one_process
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", 2]
    command += [ROOT / "tools" / "run_net.py", "--cfg", CONFIG, *UNEVEN, "MODEL.SHARDING", "fsdp"]
    command += ["DATA.PATH_TO_DATA_DIR", folder / "motion", "OUTPUT_DIR", folder / "split"]
    done = subprocess.run(list(map(str, command)), cwd=folder, capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, done.stderr
    assert "with 2 process(es) sharing the weights" in done.stderr
    assert_same_run(folder / "one", folder / "split")
    # it goes on in one process, which takes over what the two had
    last = folder / "split" / "checkpoints" / "step_00000006.pyth"
    expected = read_file(last)["model"]
    last.unlink()
    (folder / "split" / "checkpoints" / "best.pyth").unlink()
    done = run_net(
        *UNEVEN, "TEST.ENABLE", False, "DATA.PATH_TO_DATA_DIR", folder / "motion", "OUTPUT_DIR", folder / "split",
        cwd=folder,
    )  # fmt: skip
    assert done.returncode == 0 and "the checkpoint is of 2 process(es), these are 1" in done.stderr
    assert all(torch.allclose(value, expected[name], atol=1e-4) for name, value in read_file(last)["model"].items())


def test_a_process_finds_its_place(monkeypatch):
    """Under srun, over two nodes: from what SLURM says."""
    for name in ("RANK", "WORLD_SIZE", "LOCAL_RANK", "MASTER_ADDR", "MASTER_PORT"):
        monkeypatch.delenv(name, raising=False)
    slurm = {
        "SLURM_JOB_ID": "100123", "SLURM_STEP_NUM_TASKS": "8", "SLURM_STEP_NUM_NODES": "2", "SLURM_PROCID": "5",
        "SLURM_LOCALID": "1", "SLURM_JOB_NODELIST": "gpu[07-08]",
    }  # fmt: skip
    for name, value in slurm.items():
        monkeypatch.setenv(name, value)
    assert distributed.place_from_environment() == distributed.Place(5, 8, 1, 4)
    assert distributed._meeting_point() == {"MASTER_ADDR": "gpu07", "MASTER_PORT": "20123"}


@pytest.mark.long
def test_submitit_runs_the_same(one_process):
    folder = one_process
    done = run_net(
        *UNEVEN, "DATA.PATH_TO_DATA_DIR", folder / "motion", "OUTPUT_DIR", folder / "job",
        cwd=folder, options=("--launcher", "submitit", "--cluster", "local"),
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert "submitted job" in done.stdout
    deadline = time.time() + 200
    while not (folder / "job" / "confusion.csv").exists() and time.time() < deadline:
        time.sleep(0.5)
    assert_same_run(folder / "one", folder / "job")


@pytest.mark.long
def test_a_mistake_in_every_process_is_told_once(tmp_path):
    nowhere = ("DATA.PATH_TO_DATA_DIR", tmp_path / "nowhere", "TRAIN.DATASET", "kinetics")
    options = ("--launcher", "local", "--processes", 2)
    done = run_net(*SMALL, *nowhere, "OUTPUT_DIR", tmp_path / "out", cwd=tmp_path, options=options)
    assert done.returncode == 2
    assert done.stderr.count("train.csv does not exist") == 1
    done = run_net("SOLVER.BASE_LRR", 1, cwd=tmp_path, options=options)
    assert done.returncode == 2 and done.stderr.count("\n") == 1
    done = run_net(cwd=tmp_path, options=("--launcher", "local", "--processes", 0))
    assert done.returncode == 2 and "--processes 0" in done.stderr


def test_without_slurm_submitit_says_so(tmp_path):
    done = run_net("OUTPUT_DIR", tmp_path / "out", cwd=tmp_path, options=("--launcher", "submitit"))
    assert done.returncode == 2 and "srun" in done.stderr and done.stderr.count("\n") == 1


def test_several_gpus_start_their_processes(monkeypatch):
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 4)
    assert [choose_launcher(n) for n in (-1, 0, 1, 2, 4, 8)] == ["none"] * 3 + ["local"] * 2 + ["none"]
    monkeypatch.setenv("RANK", "0")
    assert choose_launcher(4) == "none"
