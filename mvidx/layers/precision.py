"""bfloat16 on a CPU that has no instructions for it: float32 is faster there, and no less exact."""

import torch
from torch import Tensor


def _has_bfloat16() -> bool:
    try:
        return torch.ops.mkldnn._is_mkldnn_bf16_supported()
    except (AttributeError, RuntimeError):
        return True  # not known to be slow


# Without support in oneDNN, bfloat16 takes ten to a hundred times as long as float32 (docs/benchmarks.md).
CPU_HAS_BFLOAT16 = _has_bfloat16()


def computes_in_float32(x: Tensor) -> bool:
    """Whether autocast to bfloat16 is on for an input on a CPU that is slow at it."""
    return (
        not CPU_HAS_BFLOAT16
        and x.device.type == "cpu"
        and torch.is_autocast_enabled("cpu")
        and torch.get_autocast_dtype("cpu") == torch.bfloat16
        and not torch.compiler.is_exporting()
    )
