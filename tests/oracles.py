"""The reference outputs in ../shared/oracles, and a model loaded from one in the file format of its source."""

import functools
import importlib.util
import json
import pickle
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

import mvidx
from tests.shared import shared_file

TOLERANCE = 1e-4  # absolute, on logits with a standard deviation of 0.6 to 1.1


@functools.cache
def fill():
    """The module that rebuilds parameters and inputs."""
    spec = importlib.util.spec_from_file_location("oracle_fill", shared_file("oracles/fill.py"))
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def oracle(name: str) -> dict:
    return json.loads(shared_file(f"oracles/{name}.json").read_text())


def write_checkpoint(oracle: dict, folder: Path) -> Path:
    """The oracle's parameters as its project would store them."""
    state = fill().state_dict(oracle)
    if "pdparams" in oracle["format"]:
        path = folder / "published.pdparams"
        names = {name: f"layer_{index}" for index, name in enumerate(state)}
        with open(path, "wb") as file:
            pickle.dump({**state, "StructuredToParameterName@@": names}, file, protocol=4)
        return path
    tensors = {name: torch.from_numpy(np.ascontiguousarray(value)) for name, value in state.items()}
    if "model_state" in oracle["format"]:
        path = folder / "published.pyth"
        torch.save({"epoch": 200, "model_state": tensors, "cfg": "TRAIN:\n"}, path)
    else:
        path = folder / "published.pth"
        torch.save(tensors, path)
    return path


def loaded_model(oracle: dict, folder: Path, **overrides) -> nn.Module:
    model = mvidx.create_model(oracle["model"], **overrides).eval()
    report = mvidx.load_checkpoint(model, write_checkpoint(oracle, folder))
    assert report.missing == report.unexpected == []
    return model


def check_oracle(name: str, folder: Path) -> None:
    """Parameter count and logits of every case of an oracle."""
    reference = oracle(name)
    model = loaded_model(reference, folder)
    assert sum(p.numel() for p in model.parameters() if p.requires_grad) == reference["params"]
    for case, golden in reference["golden"].items():
        with torch.no_grad():
            logits = model(torch.from_numpy(fill().image(golden["shape"])))[0]
        worst = (logits - torch.tensor(golden["logits"])).abs().max().item()
        assert worst < TOLERANCE, f"{name} {case}: differs by {worst}"


@torch.no_grad()
def randomise(model: nn.Module, seed: int = 0) -> nn.Module:
    """Draw all parameters and running statistics so that no term vanishes; returns the model in eval mode.

    Initial values hide mistakes: tables, biases and layer scales start at zero or nearly so.
    """
    generator = torch.Generator().manual_seed(seed)
    statistics = [(name, buffer) for name, buffer in model.named_buffers() if ".running_" in name]
    for name, tensor in (*model.named_parameters(), *statistics):
        normal = torch.randn(tensor.shape, generator=generator)
        leaf = name.rsplit(".", 1)[-1]
        if leaf == "running_var":
            value = 1 + 0.1 * normal.abs()
        elif leaf == "running_mean":
            value = 0.1 * normal
        elif any(part in name for part in ("pos", "token", "table", "relative")):
            value = 0.2 * normal
        elif tensor.ndim < 2:
            middle = 0.5 if "scale" in name or "gamma" in name else float(leaf == "weight")
            value = middle + 0.1 * normal
        else:
            value = normal / tensor[0].numel() ** 0.5
        tensor.copy_(value)
    return model.eval()


@torch.no_grad()
def difference(left: nn.Module, right: nn.Module, x: Tensor) -> float:
    """Largest absolute difference of two models' logits; fails for logits that say nothing."""
    ours, theirs = left(x), right(x)
    assert theirs.std() > 0.1
    return (ours - theirs).abs().max().item()
