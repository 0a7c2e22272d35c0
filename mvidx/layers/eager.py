"""When a faster way than the plain modules may be taken: eager mode on a CPU, and nobody listening."""

import torch
from torch import Tensor, nn


def is_plain(module: nn.Module, kind: type) -> bool:
    """Whether a module is exactly of this class and nobody listens to its calls: then it may be bypassed."""
    listeners = (
        module._forward_hooks,
        module._forward_pre_hooks,
        module._backward_hooks,
        module._backward_pre_hooks,
    )
    return type(module) is kind and not any(listeners)


def eager_on_cpu(x: Tensor) -> bool:
    """Whether this is plain eager computing on a CPU: not compiled, exported, traced or under autocast."""
    return (
        x.device.type == "cpu"
        and x.dtype in (torch.float32, torch.float64)
        and not torch.compiler.is_compiling()
        and not torch.jit.is_tracing()
        and not torch.is_autocast_enabled("cpu")
    )
