"""Small tensors that follow from sizes alone, such as indices and one-hot positions: made once and kept."""

import functools
from collections.abc import Callable

import torch
from torch import Tensor
from torch.utils._python_dispatch import is_in_torch_dispatch_mode

KEPT = 64  # results a function keeps


def kept(make: Callable[..., Tensor]) -> Callable[..., Tensor]:
    """Keep what a function of hashable arguments returns; nobody may write to it.

    Making such a tensor takes a dozen small operations, which is a good part of the time of one image. It is made anew
    while a graph is recorded (compiling, export, tracing, fake tensors): a recorded tensor is none.
    """

    @functools.lru_cache(maxsize=KEPT)
    def look_up(*args, **kwargs) -> Tensor:
        with torch.inference_mode(False), torch.no_grad():  # autograd may save it later
            return make(*args, **kwargs)

    @functools.wraps(make)
    def get(*args, **kwargs) -> Tensor:
        records = torch.compiler.is_compiling() or torch.jit.is_tracing() or is_in_torch_dispatch_mode()
        return make(*args, **kwargs) if records else look_up(*args, **kwargs)

    return get
