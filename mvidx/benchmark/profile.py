"""Where the time of a function goes, by kind of operation, from torch.profiler."""

import re
from collections.abc import Callable

import torch
from torch.profiler import ProfilerActivity, profile

# Kinds of operations by patterns of the names of PyTorch's operators; the first that matches counts.
KINDS = (
    ("attention", r"scaled_dot_product|flash_attention|efficient_attention"),
    ("convolutions", r"conv"),
    ("matrix products", r"addmm|aten::mm|bmm|aten::linear|aten::matmul|mkldnn_linear|einsum|aten::dot"),
    ("copies", r"copy|clone|contiguous|aten::cat$|aten::_cat|constant_pad|aten::pad|repeat|aten::stack|to_dense|roll"),
    ("norms", r"norm"),
    ("activations", r"gelu|relu|hardswish|silu|sigmoid|softmax"),
    ("pools and interpolation", r"pool|upsample|interpolate"),
    ("optimizer", r"adam|optimizer"),
    ("arithmetic", r"aten::(_foreach_)?(add|sub|mul|div|addcmul|lerp|pow|neg|rsub|sqrt|rsqrt|mean|sum|var|std)"),
)


def kind(operator: str) -> str:
    """The kind of an operator of PyTorch, 'other' for one that no pattern knows."""
    return next((name for name, pattern in KINDS if re.search(pattern, operator, re.IGNORECASE)), "other")


def operation_shares(function: Callable[[], object], device: str = "cpu", calls: int = 3) -> dict[str, float]:
    """Share of each kind of operation in the time of a function, largest first; they sum to 1.

    Counted is the time that an operator spends in itself and not in operators that it calls: on the processor, or on
    the GPU.
    """
    activities = [ProfilerActivity.CPU] + ([ProfilerActivity.CUDA] if device == "cuda" else [])
    function()
    with profile(activities=activities) as recorded:
        for _ in range(calls):
            function()
        if device == "cuda":
            torch.cuda.synchronize()
    shares: dict[str, float] = {}
    for event in recorded.key_averages():
        spent = event.self_device_time_total if device == "cuda" else event.self_cpu_time_total
        shares[kind(event.key)] = shares.get(kind(event.key), 0.0) + spent
    total = sum(shares.values())
    return {name: spent / total for name, spent in sorted(shares.items(), key=lambda item: -item[1])}
