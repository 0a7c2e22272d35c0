import pytest
import torch
import torch.nn.functional as F

from mvidx.layers.depthwise import depthwise_conv3d
from mvidx.layers.nd import depthwise_conv


@pytest.mark.parametrize(
    ("frames", "kernel", "stride", "padding"),
    [
        (4, (3, 3, 3), (1, 1, 1), (1, 1, 1)),
        (4, (3, 3, 3), (1, 2, 2), (1, 1, 1)),
        (1, (3, 3, 3), (1, 1, 1), (1, 1, 1)),
        (2, (3, 5, 3), (1, 4, 1), (1, 2, 1)),
        (5, (1, 3, 3), (1, 1, 1), (0, 1, 1)),
        (5, (2, 3, 3), (1, 1, 1), (0, 1, 1)),
        (6, (3, 3, 3), (2, 2, 2), (1, 1, 1)),
    ],
)
@pytest.mark.parametrize("with_bias", [False, True])
def test_equals_conv3d_forward_and_backward(frames, kernel, stride, padding, with_bias):
    torch.manual_seed(0)
    leaves = [torch.randn(2, frames, 7, 9, 6), torch.randn(6, 1, *kernel), torch.randn(6) if with_bias else None]
    got_leaves, want_leaves = ([None if t is None else t.clone().requires_grad_() for t in leaves] for _ in range(2))
    x, weight, bias = got_leaves
    got = depthwise_conv3d(x.movedim(-1, 1), weight, stride, padding, bias)
    x, weight, bias = want_leaves
    want = F.conv3d(x.movedim(-1, 1), weight, bias, stride, padding, groups=6)
    upstream = torch.randn_like(want)
    got.backward(upstream)
    want.backward(upstream)
    assert torch.allclose(got, want, atol=1e-5)
    for a, b in zip(got_leaves, want_leaves, strict=True):
        assert a is None or torch.allclose(a.grad, b.grad, atol=1e-4)


def test_a_shared_kernel_is_that_of_heads_in_the_batch():
    torch.manual_seed(0)
    grid, weight = torch.randn(2, 3, 6, 5, 3 * 4), torch.randn(4, 1, 3, 3, 3)
    got = depthwise_conv(grid, weight, stride=(1, 2, 2), padding=(1, 1, 1))
    heads = grid.unflatten(-1, (3, 4)).movedim(-2, 1).flatten(0, 1).movedim(-1, 1)  # (B * heads, C, T, H, W)
    want = F.conv3d(heads, weight, None, (1, 2, 2), 1, groups=4).movedim(1, -1)
    want = want.unflatten(0, (2, 3)).movedim(1, -2).flatten(-2)
    assert torch.allclose(got, want, atol=1e-5) and got.is_contiguous()


def test_under_autocast():
    x = torch.randn(1, 4, 3, 6, 6, requires_grad=True)
    weight = torch.randn(4, 1, 3, 3, 3, requires_grad=True)
    with torch.autocast("cpu", torch.bfloat16):
        out = depthwise_conv3d(x, weight, (1, 1, 1), (1, 1, 1))
    assert out.dtype == torch.bfloat16
    out.float().sum().backward()
    assert x.grad.dtype == weight.grad.dtype == torch.float32 and x.grad.abs().sum() > 0
