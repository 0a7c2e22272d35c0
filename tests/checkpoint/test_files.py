"""Files that are no checkpoints, and files that would run code."""

import os
import pickle

import numpy as np
import pytest
import torch

import mvidx
from mvidx.checkpoint.files import CheckpointError, find_state, read_file
from mvidx.checkpoint.paths import write_atomically
from tests.models.small import small_model


class RunsCode:
    """Unpickling this makes a folder."""

    def __init__(self, path):
        self.path = str(path)

    def __reduce__(self):
        return os.mkdir, (self.path,)


def write_zip(content, path):
    torch.save(content, path)


def write_legacy(content, path):
    torch.save(content, path, _use_new_zipfile_serialization=False)


def write_pickle(content, path):
    with open(path, "wb") as file:
        pickle.dump(content, file, protocol=4)


@pytest.mark.parametrize(
    ("name", "write"),
    [
        ("evil.pth", write_zip),
        ("evil.pyth", write_legacy),
        ("evil.pth.tar", write_pickle),
        ("evil.pdparams", write_pickle),
        ("evil.pkl", write_pickle),
    ],
)
def test_a_file_that_would_run_code_is_refused(name, write, tmp_path):
    sentinel, path = tmp_path / "code-was-run", tmp_path / name
    weight = np.zeros(3) if write is write_pickle else torch.zeros(3)
    write({"model": {"weight": weight}, "x": RunsCode(sentinel)}, path)
    with pytest.raises(CheckpointError, match=f"{name}: refused, because loading it could run code .*mkdir"):
        mvidx.load_checkpoint(small_model("poolformer_s12"), path)
    assert not sentinel.exists()
    with open(path, "rb") as file:  # the file is as evil as this test says
        if write is write_pickle:
            pickle.load(file)
            assert sentinel.exists()


@pytest.mark.parametrize("name", ["x.pth", "x.pdparams", "x.safetensors"])
@pytest.mark.parametrize("content", [b"", b"hello, this is no checkpoint", b"\x80\x04\x95"])
def test_files_that_are_no_checkpoints_are_refused(name, content, tmp_path):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(CheckpointError, match=f"{name}: not a readable checkpoint"):
        read_file(tmp_path / name)


def test_missing_and_empty_files(tmp_path):
    with pytest.raises(CheckpointError, match=r"nothing\.pth: no such file"):
        read_file(tmp_path / "nothing.pth")
    torch.save([1, 2], tmp_path / "list.pth")
    with pytest.raises(CheckpointError, match="holds a list, expected a dict"):
        read_file(tmp_path / "list.pth")
    with pytest.raises(CheckpointError, match=r"x\.pth: holds no tensors \(its keys: epoch\)"):
        find_state({"epoch": 3}, "x.pth")


def test_a_cut_file_is_refused(tmp_path):
    torch.save({"weight": torch.randn(1000)}, tmp_path / "whole.pth")
    (tmp_path / "cut.pth").write_bytes((tmp_path / "whole.pth").read_bytes()[:2000])
    with pytest.raises(CheckpointError, match=r"cut\.pth"):
        read_file(tmp_path / "cut.pth")


@pytest.mark.parametrize("protocol", [2, 4])
def test_pickles_of_arrays_are_read(protocol, tmp_path):
    """As Paddle writes them, old protocols and NumPy scalars too."""
    arrays = {"a": np.arange(6, dtype=np.float32).reshape(2, 3).T, "n": np.int64(3), "names@@": {"a": "b"}}
    with open(tmp_path / "x.pdparams", "wb") as file:
        pickle.dump(arrays, file, protocol=protocol)
    state = find_state(read_file(tmp_path / "x.pdparams"), "x.pdparams")
    assert list(state) == ["a"] and state["a"].tolist() == [[0.0, 3.0], [1.0, 4.0], [2.0, 5.0]]


def test_a_failed_write_leaves_what_was_there(tmp_path):
    path = tmp_path / "x.pth"
    path.write_text("before")

    def fail(name):
        with open(name, "w") as file:
            file.write("half")
        raise RuntimeError("the disk is full")

    with pytest.raises(RuntimeError, match="disk is full"):
        write_atomically(path, fail)
    assert path.read_text() == "before" and list(tmp_path.iterdir()) == [path]
    write_atomically(path, lambda name: torch.save({"a": torch.ones(2)}, name))
    assert torch.equal(read_file(path)["a"], torch.ones(2)) and list(tmp_path.iterdir()) == [path]
