"""Runs of several processes: their results are those of one, and mistakes are told once."""

import time

import numpy as np
import pytest
import torch

from mvidx.checkpoint.files import read_file
from mvidx.launch import choose_launcher
from tests.runs import SMALL, records, run_net

# Numbers that two processes do not divide. SGD, whose steps are the gradients: Adam blows the rounding errors of
# gradients that are zero (a bias of all keys) up to full steps.
UNEVEN = [
    *(*SMALL, "MOTION.NUM_TRAIN", 13, "MOTION.NUM_VAL", 5, "MOTION.NUM_TEST", 7),
    *("SOLVER.OPTIMIZING_METHOD", "sgd", "SOLVER.BASE_LR", 0.1),
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
    weights, others = (read_file(folder / "checkpoints" / "step_00000006.pyth")["model"] for folder in (a, b))
    for name, weight in weights.items():
        assert torch.allclose(weight, others[name], atol=1e-4), name
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
    assert "with 2 process(es)" in done.stderr and done.stdout.count("top-1") == 1
    assert_same_run(folder / "one", folder / "two")


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
