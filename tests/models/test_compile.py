"""Compiled models compute the same, on grids whose channels stay last."""

import re
import shutil

import pytest
import torch
from torch._inductor.utils import run_and_get_code

from tests.models.small import small_model

BUFFER = re.compile(r"empty_strided_\w+\(\((\d+), (\d+), (\d+), (\d+)\), \((\d+), (\d+), (\d+), (\d+)\)")


@pytest.mark.long
@pytest.mark.skipif(shutil.which("g++") is None, reason="needs a C++ compiler")
@pytest.mark.parametrize(
    ("name", "grids", "channels"),  # shapes of grids among the buffers, and the axis of their channels
    [
        ("mvitv2_s", {(2, 16, 16, 16), (2, 8, 8, 32), (2, 4, 4, 64)}, 3),
        ("poolformer_s12", {(2, 32, 16, 16), (2, 64, 8, 8), (2, 64, 4, 4), (2, 96, 2, 2)}, 1),
    ],
)
def test_inductor_keeps_the_channels_of_grids_last(name, grids, channels):
    torch.manual_seed(0)
    model, x = small_model(name).eval(), torch.randn(2, 3, 64, 64)
    with torch.no_grad():
        expected = model(x)
        with torch._inductor.config.patch(force_disable_caches=True):
            model.compile()
            got, (code, *_) = run_and_get_code(model, x)
    torch.testing.assert_close(got, expected, atol=1e-5, rtol=1e-4)
    buffers = [tuple(map(int, found)) for found in BUFFER.findall(code)]
    found = [numbers for numbers in buffers if numbers[:4] in grids]
    assert found and all(numbers[4 + channels] == 1 for numbers in found), buffers


def test_options_of_the_caller_are_kept(monkeypatch):
    asked = {}
    monkeypatch.setattr(torch, "compile", lambda f, **kwargs: asked.update(kwargs) or f)
    model = small_model("poolformer_s12")
    model.compile(options={"layout_optimization": True, "epilogue_fusion": False}, dynamic=False)
    assert asked["options"] == {"layout_optimization": True, "epilogue_fusion": False} and asked["dynamic"] is False
    model.compile(mode="max-autotune")
    assert asked["mode"] == "max-autotune" and asked["options"] is None
    model.compile(backend="eager")
    assert asked["backend"] == "eager" and asked["options"] is None
