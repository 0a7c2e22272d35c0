"""Kept tensors are made once, and never while a graph is recorded or for another device."""

import pytest
import torch
from torch._subclasses.fake_tensor import FakeTensorMode

from mvidx.layers.kept import kept
from mvidx.models.registry import create_model


@pytest.fixture
def counted():
    calls = []

    @kept
    def numbers(size, device, dtype=torch.float32):
        calls.append(size)
        return torch.arange(size, device=device, dtype=dtype)

    return numbers, calls


def test_is_made_once_for_the_same_arguments(counted):
    numbers, calls = counted
    assert numbers(3, "cpu") is numbers(3, "cpu")
    assert calls == [3]
    assert numbers(3, "meta").device.type == "meta" and numbers(3, "cpu", torch.int64).dtype == torch.int64
    assert numbers(4, "cpu").tolist() == [0, 1, 2, 3]
    assert len(calls) == 4


def test_what_inference_made_serves_training(counted):
    numbers, _ = counted
    with torch.inference_mode():
        numbers(3, "cpu")
    weight = torch.ones(3, requires_grad=True)
    (weight * numbers(3, "cpu")).sum().backward()
    assert weight.grad.tolist() == [0, 1, 2]


def test_fake_tensors_are_not_kept(counted):
    numbers, calls = counted
    with FakeTensorMode():
        assert type(numbers(3, "cpu")).__name__ == "FakeTensor"
    assert type(numbers(3, "cpu")) is torch.Tensor
    with FakeTensorMode():
        assert type(numbers(3, "cpu")).__name__ == "FakeTensor"
    assert len(calls) == 3


def test_compiling_makes_them_anew(counted):
    numbers, calls = counted
    numbers(3, "cpu")
    compiled = torch.compile(lambda x: x + numbers(3, "cpu"), backend="eager", fullgraph=True)
    assert compiled(torch.ones(3)).tolist() == [1, 2, 3]
    assert len(calls) == 2


def test_a_model_on_the_meta_device_leaves_nothing_behind():
    with torch.device("meta"), torch.no_grad():
        create_model("mvitv2_t", img_size=96).eval()(torch.empty(1, 3, 96, 96))
    torch.manual_seed(0)
    model, x = create_model("mvitv2_t", img_size=96).eval(), torch.randn(1, 3, 96, 96)
    with torch.no_grad():
        before = model(x)
        program = torch.export.export(model, (x,))
        assert torch.allclose(program.module()(x), before, atol=1e-5)
        assert torch.equal(model(x), before)
