"""Checkpoints of a run: whole or not at all, the newest and the best, and what goes wrong while one is written."""

import os
import threading
from pathlib import Path

import pytest
import torch

from mvidx.checkpoint import store as store_module
from mvidx.checkpoint.files import read_file
from mvidx.checkpoint.store import CheckpointStore, SaveError
from tests import elsewhere


def state(number):
    return {"model": {"weight": torch.full((1000,), float(number))}, "step": number}


def names(folder):
    return sorted(path.name for path in folder.iterdir())


def test_keeps_the_newest_and_the_best(tmp_path):
    store = CheckpointStore(tmp_path, keep=2)
    for step in range(1, 6):
        store.save(state(step), step, best=step == 2)
    assert names(tmp_path) == ["best.pyth", "step_00000004.pyth", "step_00000005.pyth"]
    assert read_file(tmp_path / "best.pyth")["step"] == 2
    newest, path, problems = store.load_newest()
    assert (newest["step"], path.name, problems) == (5, "step_00000005.pyth", [])


def test_a_damaged_file_falls_back_to_the_one_before(tmp_path):
    store = CheckpointStore(tmp_path, keep=3)
    for step in (1, 2, 3):
        store.save(state(step), step, best=step == 1)
    content = (tmp_path / "step_00000003.pyth").read_bytes()
    (tmp_path / "step_00000003.pyth").write_bytes(content[:-100])
    newest, path, problems = store.load_newest()
    assert newest["step"] == 2 and path.name == "step_00000002.pyth"
    assert len(problems) == 1 and "step_00000003.pyth: not a readable checkpoint" in problems[0]
    (tmp_path / "step_00000002.pyth").write_bytes(b"")
    os.unlink(tmp_path / "step_00000001.pyth")
    newest, path, problems = store.load_newest()
    assert newest["step"] == 1 and path.name == "best.pyth" and len(problems) == 2


def test_a_full_disk_leaves_the_last_good_one(tmp_path, monkeypatch):
    """/dev/full answers every write as a full disk does."""
    store = CheckpointStore(tmp_path, keep=1)
    store.save(state(1), 1)

    def to_full_disk(content, file):
        file.write(b"half of it")
        with open("/dev/full", "wb") as full:
            torch_save(content, full)

    torch_save = torch.save
    monkeypatch.setattr(store_module.torch, "save", to_full_disk)
    with pytest.raises(SaveError, match=r"step_00000002\.pyth could not be written: No space left on device"):
        store.save(state(2), 2)
    monkeypatch.undo()
    assert names(tmp_path) == ["step_00000001.pyth"]
    assert store.load_newest()[0]["step"] == 1


def test_a_crash_while_writing_leaves_the_last_good_one(tmp_path):
    """A process that dies in the middle of a write: nobody cleans up after it but the next run."""
    store = CheckpointStore(tmp_path)
    store.save(state(1), 1)
    if (child := os.fork()) == 0:
        store_module.torch.save = lambda content, file: (file.write(b"half"), file.flush(), os._exit(9))
        CheckpointStore(tmp_path).save(state(2), 2)
        os._exit(0)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 9
    assert len(names(tmp_path)) == 2  # one is the temporary file
    assert store.load_newest()[0]["step"] == 1 and store.load_newest()[2] == []
    store.tidy()
    assert names(tmp_path) == ["step_00000001.pyth"]


def test_background_saves_a_copy_and_reports_failures(tmp_path, monkeypatch):
    """The step after a save may change the weights while the file is still being written."""
    store = CheckpointStore(tmp_path / "run", background=True)
    written = threading.Event()
    torch_save = torch.save

    def slow_save(content, file):
        assert written.wait(30)
        torch_save(content, file)

    monkeypatch.setattr(store_module.torch, "save", slow_save)
    content = state(1)
    store.save(content, 1)
    content["model"]["weight"].zero_()
    store.check()  # does not wait
    written.set()
    store.finish()
    assert (read_file(tmp_path / "run" / "step_00000001.pyth")["model"]["weight"] == 1).all()

    monkeypatch.undo()
    monkeypatch.setattr(store_module, "_dump", lambda content, name: Path("/dev/full").write_bytes(b"x"))
    store.save(state(2), 2)
    with pytest.raises(SaveError, match=r"No space left.*the newest that is whole is .*step_00000001\.pyth"):
        store.finish()
    store.finish()  # told once


def test_any_path_of_iopath(tmp_path, monkeypatch):
    monkeypatch.setenv("ELSEWHERE", str(tmp_path))
    elsewhere.register()
    store = CheckpointStore("elsewhere://runs/a", keep=1, background=True)
    assert store.load_newest() == (None, None, [])
    for step in (1, 2):
        store.save(state(step), step, best=step == 1)
    store.finish()
    assert names(tmp_path / "runs" / "a") == ["best.pyth", "step_00000002.pyth"]
    newest, path, _ = store.load_newest()
    assert (newest["step"], path) == (2, "elsewhere://runs/a/step_00000002.pyth")
    assert read_file("elsewhere://runs/a/best.pyth")["step"] == 1
