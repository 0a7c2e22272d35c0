"""Depthwise convolutions of videos with a backward pass that is fast on a CPU.

PyTorch computes the gradients of a depthwise Conv3d on a CPU by a slow general kernel, while those of a
depthwise Conv2d run in oneDNN. A kernel with a temporal stride of 1 is a sum over its temporal taps of 2-D
convolutions of shifted frames, so both gradients can be computed tap by tap in 2-D. The forward pass is
PyTorch's own; `tools/benchmark.py` measures the effect in a training step.
"""

import torch
import torch.nn.functional as F
from torch import Tensor


class DepthwiseConv3d(torch.autograd.Function):
    """Depthwise convolution of (B, C, T, H, W) with temporal stride 1: Conv3d forward, Conv2d backward."""

    @staticmethod
    def forward(ctx, x: Tensor, weight: Tensor, stride: tuple[int, int], padding: tuple[int, int, int]) -> Tensor:
        ctx.save_for_backward(x, weight)
        ctx.stride, ctx.padding = stride, padding
        return F.conv3d(x, weight, None, (1, *stride), padding, groups=x.shape[1])

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx, grad: Tensor):
        x, weight = ctx.saved_tensors
        need_x, need_weight = ctx.needs_input_grad[:2]
        grad_x = None  # (B, T, H, W, C)
        grad_weight = torch.zeros_like(weight) if need_weight else None
        batch, channels, frames = x.shape[:3]
        frames_out = grad.shape[2]
        # The tap in the middle reads every frame: what it gives is what the others are added to.
        for tap in sorted(range(weight.shape[2]), key=lambda tap: abs(tap - ctx.padding[0])):
            # Output frame t reads input frame t + shift through this tap.
            shift = tap - ctx.padding[0]
            first, last = max(0, -shift), min(frames_out, frames - shift)
            if first >= last:
                continue
            inputs = x[:, :, first + shift : last + shift]
            tap_x, tap_weight, _ = torch.ops.aten.convolution_backward(
                _frames(grad[:, :, first:last]),
                _frames(inputs),
                weight[:, :, tap].contiguous(),
                None,
                ctx.stride,
                ctx.padding[1:],
                (1, 1),
                False,
                (0, 0),
                channels,
                (need_x, need_weight, False),
            )
            if need_x:
                tap_x = tap_x.movedim(1, -1).unflatten(0, (batch, last - first))  # (B, T', H, W, C)
                if grad_x is None and last - first == frames:
                    grad_x = tap_x
                else:
                    if grad_x is None:
                        grad_x = tap_x.new_zeros(batch, frames, *tap_x.shape[2:])
                    grad_x[:, first + shift : last + shift].add_(tap_x)
            if need_weight:
                grad_weight[:, :, tap] = tap_weight
        if need_x:
            grad_x = torch.zeros_like(x) if grad_x is None else grad_x.movedim(-1, 1)
        return grad_x, grad_weight, None, None


def _frames(x: Tensor) -> Tensor:
    """(B, C, T, H, W) -> (B * T, C, H, W) in the channels-last layout."""
    return x.movedim(1, -1).flatten(0, 1).contiguous().movedim(-1, 1)


def depthwise_conv3d(
    x: Tensor, weight: Tensor, stride: tuple[int, int, int], padding: tuple[int, int, int], bias: Tensor | None = None
) -> Tensor:
    """Depthwise convolution of (B, C, T, H, W), by whichever way is fast where `x` lies.

    Args:
        x: channels-last (3-D) for speed.
        weight: (C, 1, kt, kh, kw).
        bias: (C,) or None.
    """
    differentiates = torch.is_grad_enabled() and (x.requires_grad or weight.requires_grad)
    if x.device.type != "cpu" or stride[0] != 1 or not differentiates or torch.compiler.is_exporting():
        return F.conv3d(x, weight, bias, stride, padding, groups=x.shape[1])
    if torch.is_autocast_enabled("cpu"):
        dtype = torch.get_autocast_dtype("cpu")
        x, weight = x.to(dtype), weight.to(dtype)
    out = DepthwiseConv3d.apply(x, weight, tuple(stride[1:]), tuple(padding))
    return out if bias is None else out + bias.to(out.dtype).view(-1, 1, 1, 1)
