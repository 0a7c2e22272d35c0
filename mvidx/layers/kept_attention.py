"""Attention that keeps its weights for the backward pass: for small grids in eager mode on a CPU.

A fused kernel computes the weights softmax(scale * q k^T) a second time in its backward pass: its memory grows with the
tokens and not with their square. Where the weights of a sample are no larger than what else is kept of it, keeping them
costs little, and saves a matrix product and the exponentials. Nor need v be as wide as q and k, and products of a
whole sample run nearer to the rate of the machine than those of a kernel's small blocks.
"""

import torch
from torch import Tensor

from mvidx.layers.eager import eager_on_cpu

WEIGHT_BYTES = (2**18, 5 * 2**20)  # of a sample: below, calls take longer than what they compute

aten = torch.ops.aten


def keeps_weights(q: Tensor, k: Tensor, v: Tensor) -> bool:
    """Whether `kept_attention` is the faster way for these (B, N, heads, C), and nobody wants to see a fused kernel.

    Only with v narrower than q and k: without, a fused kernel's forward pass wins what its backward pass loses.
    """
    if not (torch.is_grad_enabled() and q.requires_grad) or v.shape[-1] == q.shape[-1] or not eager_on_cpu(q):
        return False
    if torch.overrides.has_torch_function((q, k, v)):
        return False
    least, most = WEIGHT_BYTES
    return least <= q.shape[1] * k.shape[1] * q.shape[2] * q.element_size() <= most


def _heads(*tensors: Tensor) -> list[Tensor]:
    """(N, heads, C) of a sample -> (heads, N, C), as the same memory."""
    return [tensor.transpose(0, 1) for tensor in tensors]


class KeptAttention(torch.autograd.Function):
    """softmax(scale * q k^T) v, and its gradients from the weights that it kept."""

    @staticmethod
    def forward(ctx, q, k, v, scale):
        samples, queries, heads, _ = q.shape
        out = q.new_empty(samples, queries, heads, v.shape[-1])
        weights = q.new_empty(samples, heads, queries, k.shape[1])
        for sample, probability in enumerate(weights):
            of_q, of_k, of_v, of_out = _heads(q[sample], k[sample], v[sample], out[sample])
            torch.baddbmm(probability, of_q, of_k.mT, beta=0, alpha=scale, out=probability)
            torch.softmax(probability, -1, out=probability)
            torch.bmm(probability, of_v, out=of_out)
        ctx.save_for_backward(q, k, v, weights)
        ctx.scale = scale
        return out

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx, grad):
        q, k, v, weights = ctx.saved_tensors
        grad_q, grad_k, grad_v = (torch.empty(t.shape, dtype=t.dtype) for t in (q, k, v))
        for sample, probability in enumerate(weights):
            of_q, of_k, of_v, of_grad = _heads(q[sample], k[sample], v[sample], grad[sample])
            to_q, to_k, to_v = _heads(grad_q[sample], grad_k[sample], grad_v[sample])
            torch.bmm(probability.mT, of_grad, out=to_v)
            logits = of_grad @ of_v.mT
            aten._softmax_backward_data(logits, probability, -1, q.dtype, grad_input=logits)
            torch.baddbmm(to_q, logits, of_k, beta=0, alpha=ctx.scale, out=to_q)
            torch.baddbmm(to_k, logits.mT, of_q, beta=0, alpha=ctx.scale, out=to_k)
        return grad_q, grad_k, grad_v, None


def kept_attention(q: Tensor, k: Tensor, v: Tensor, scale: float) -> Tensor:
    """softmax(scale * q k^T) v, see this module.

    Args:
        q: (B, Nq, heads, C).
        k: (B, Nk, heads, C).
        v: (B, Nk, heads, Cv).
        scale: of the logits.

    Returns:
        (B, Nq, heads, Cv), contiguous.
    """
    return KeptAttention.apply(q, k, v, scale)
