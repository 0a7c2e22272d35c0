"""Multiply-accumulates of a model, by fvcore's flop counter.

Convention, that of the papers: one multiply-add of a matrix product or a convolution counts as one, and whatever
works element by element (norms, activations, sums, softmax) or moves data counts as nothing. Attention counts q·k
and attn·v at the width of a head, and every product of a query with a relative position vector. The one-hot places
by which `mvidx.layers.attention` lengthens heads stand for additions of the published code, and count as nothing.

Nothing is left out in silence: an operator is counted by a handle, is free by a reason in `FREE`, or is an error.

The model runs on the meta device, where tensors have shapes and no values: the largest models take seconds and no
memory.
"""

import copy
import warnings
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from math import prod

import torch
from fvcore.nn import FlopCountAnalysis
from fvcore.nn.jit_handles import (
    addmm_flop_jit,
    bmm_flop_jit,
    conv_flop_jit,
    einsum_flop_jit,
    get_shape,
    linear_flop_jit,
    matmul_flop_jit,
)
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

# Operators that count as nothing, beside those that fvcore itself passes over (shapes, copies, integers), by reason.
FREE = {
    "a norm: some operations an element": "layer_norm native_layer_norm group_norm batch_norm instance_norm",
    "an activation: some operations an element": "gelu relu relu_ relu6 relu6_ silu silu_ sigmoid sigmoid_ "
    "hardtanh hardtanh_ hardswish hardswish_ hardsigmoid softmax prim::PythonOp.SwishFunction",
    "arithmetic element by element": "add add_ sub rsub mul mul_ div div_ neg addcmul pow sqrt rsqrt exp log",
    "a comparison or logic element by element": "ne lt le logical_not logical_and where masked_fill_",
    "a sum, mean or extreme: one operation an element": "sum mean var cumsum amax amin",
    "a pool: additions or comparisons in a window": "max_pool1d max_pool2d max_pool3d avg_pool1d avg_pool2d avg_pool3d "
    "adaptive_avg_pool1d adaptive_avg_pool2d adaptive_avg_pool3d adaptive_max_pool2d adaptive_max_pool3d",
    "interpolation of a grid or table": "upsample_nearest1d upsample_nearest2d upsample_nearest3d upsample_linear1d "
    "upsample_bilinear2d upsample_bicubic2d upsample_trilinear3d grid_sampler",
    "a look-up or a copy": "embedding index_select repeat repeat_interleave expand_as view_as alias clone movedim "
    "unflatten reshape_as pad tile swapaxes new_ones ones_like zeros_like empty_like eye feature_dropout fill_ "
    "numpy_T unfold linspace tensor_split dropout_ lift_fresh bernoulli_ index_add_ meshgrid",
}

ATTENTION = (
    "scaled_dot_product_attention",
    "_scaled_dot_product_attention_math",
    "_scaled_dot_product_flash_attention",
    "_scaled_dot_product_flash_attention_for_cpu",
    "_scaled_dot_product_efficient_attention",
    "_scaled_dot_product_cudnn_attention",
)


@dataclass(frozen=True)
class Complexity:
    """What a model costs on one input.

    Attributes:
        parameters: number of learned numbers.
        multiply_adds: of one forward pass.
        by_operator: multiply-adds by operator, largest first.
        free: operators of the pass that count as nothing, with the reason.
    """

    parameters: int
    multiply_adds: int
    by_operator: dict[str, int]
    free: dict[str, str]

    @property
    def gflops(self) -> float:
        """Multiply-adds in billions, which papers call FLOPs."""
        return self.multiply_adds / 1e9


class RecordedConvolutions(TorchFunctionMode):
    """Calls every convolution by the name under which a trace records it: on the meta device it would record none."""

    def __torch_function__(self, func, types, args=(), kwargs=None):
        if func in (torch.conv1d, torch.conv2d, torch.conv3d):
            return _recorded_convolution(*args, **(kwargs or {}))
        return func(*args, **(kwargs or {}))


def _recorded_convolution(input, weight, bias=None, stride=1, padding=0, dilation=1, groups=1):
    """The signature is that of torch.conv2d."""
    geometry = [[value] if isinstance(value, int) else list(value) for value in (stride, padding, dilation)]
    return torch._convolution(input, weight, bias, *geometry, False, [0], groups, False, False, False, False)


class ValuelessOperators(TorchDispatchMode):
    """Lets PyTorch trace a model on the meta device.

    While a trace is recorded, sizes of tensors are tensors, which meta kernels that are written in Python refuse.
    Recording belongs to a thread: another thread runs the kernels.
    """

    def __init__(self):
        super().__init__()
        self.elsewhere = ThreadPoolExecutor(1, initializer=torch.set_grad_enabled, initargs=(False,))

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        if func.is_view:  # views are C++, and belong to the thread of what they view
            return func(*args, **kwargs)
        if func is torch.ops.aten.convolution.default:
            raise ValueError("a convolution that a trace does not record: it can't be counted")
        if func is torch.ops.aten._convolution.default:
            func, args = torch.ops.aten.convolution.default, args[:9]
        return self.elsewhere.submit(func, *args, **kwargs).result()

    def __exit__(self, *exception):
        self.elsewhere.shutdown()
        return super().__exit__(*exception)


def _count_attention(inputs, outputs) -> int:
    """(B, heads, Nq, C), (B, heads, Nk, C), (B, heads, Nk, Cv) -> B * heads * Nq * Nk * (C + Cv).

    `mvidx.layers.attention` pads v by as many places as it gives q and k beyond a head's width: the width that
    counts is that of v before it was padded.
    """
    q, k, v = (get_shape(value) for value in inputs[:3])
    padding = _channel_padding(inputs[2])
    pairs = prod(q[:-1]) * k[-2]
    return pairs * (q[-1] - padding + v[-1] - padding)


def _channel_padding(value) -> int:
    """How many channels the tensor of a trace was padded by before it was viewed in another shape."""
    node = value.node()
    while node.kind() in ("aten::transpose", "aten::contiguous"):
        node = next(node.inputs()).node()
    if node.kind() not in ("aten::constant_pad_nd", "aten::pad"):
        return 0
    before, after = get_shape(next(node.inputs())), get_shape(node.output())
    return after[-1] - before[-1]


def _count_baddbmm(inputs, outputs) -> int:
    """bias + (B, N, C) @ (B, C, M) -> B * N * C * M."""
    left, right = (get_shape(value) for value in inputs[1:3])
    return prod(left) * right[-1]


COUNTED = {
    "aten::_convolution": conv_flop_jit,
    "aten::addmm": addmm_flop_jit,
    "aten::baddbmm": _count_baddbmm,
    "aten::bmm": bmm_flop_jit,
    "aten::einsum": einsum_flop_jit,
    "aten::linear": linear_flop_jit,
    "aten::matmul": matmul_flop_jit,
    "aten::mm": matmul_flop_jit,
    **{f"aten::{name}": _count_attention for name in ATTENTION},
}


def valueless_copy(model: nn.Module) -> nn.Module:
    """A copy of a model on the meta device; costs no memory, and leaves the model as it is."""
    memo = {}
    for parameter in model.parameters():
        memo[id(parameter)] = nn.Parameter(parameter.detach().to("meta"), requires_grad=False)
    for buffer in model.buffers():
        memo[id(buffer)] = buffer.detach().to("meta")
    return copy.deepcopy(model, memo)


class AllOutputs(nn.Module):
    """Gives the outputs of every module inside a model: a trace leaves out what nobody reads.

    That is real work: after the last block of an MViT with a class token nobody reads the grid.
    """

    def __init__(self, model: nn.Module):
        super().__init__()
        self.model = model
        self.outputs: list[Tensor] = []
        for module in model.modules():
            module.register_forward_hook(self._keep)

    def _keep(self, module: nn.Module, inputs: tuple, outputs) -> None:
        self.outputs += [leaf for leaf in tree_leaves(outputs) if isinstance(leaf, Tensor)]

    def forward(self, x: Tensor) -> list[Tensor]:
        self.outputs.clear()
        self.model(x)
        return list(self.outputs)


def count_parameters(model: nn.Module) -> int:
    """Number of learned numbers; a shared parameter counts once."""
    return sum(parameter.numel() for parameter in model.parameters())


def complexity(model: nn.Module, input_size: Sequence[int] | None = None) -> Complexity:
    """Parameters and multiply-adds of a forward pass of one image or clip, in eval mode.

    Args:
        model: a model of `create_model`; stays as it is.
        input_size: ([T,] H, W); the model's default by default.

    Raises:
        ValueError: the model has an operator that is neither counted nor known to be free; names it.
    """
    size = tuple(model.input_size if input_size is None else input_size)
    traced = AllOutputs(valueless_copy(model).eval())
    x = torch.zeros(1, model.in_chans, *size, device="meta")
    analysis = FlopCountAnalysis(traced, x)
    analysis.unsupported_ops_warnings(False).uncalled_modules_warnings(False)
    analysis.clear_op_handles()  # fvcore's estimates for norms and pools are no multiply-adds
    analysis.set_op_handle(**COUNTED)
    reasons = {
        name if "::" in name else f"aten::{name}": reason for reason, names in FREE.items() for name in names.split()
    }
    with torch.no_grad(), RecordedConvolutions(), ValuelessOperators(), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # tracing is deprecated, and warns of every size that Python reads
        counts = analysis.by_operator()
    unknown = analysis.unsupported_ops()
    seen = {name: reasons[name] for name in unknown if name in reasons}
    silent = sorted(set(unknown) - set(seen))
    if silent:
        raise ValueError(
            f"{type(model).__name__} has operators that are neither counted nor known to be free: {', '.join(silent)}"
        )
    return Complexity(
        parameters=count_parameters(model),
        multiply_adds=int(sum(counts.values())),
        by_operator={name: int(count) for name, count in counts.most_common()},
        free={name.removeprefix("aten::"): reason for name, reason in seen.items()},
    )
