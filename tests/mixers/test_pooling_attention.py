import pytest
import torch

from mvidx.layers.nd import depthwise_conv
from mvidx.mixers.pooling_attention import GridPool


@pytest.mark.parametrize(
    ("size", "kernel", "stride"),
    [
        ((16, 16), (3, 3), (8, 8)),
        ((17, 9), (3, 3), (4, 8)),  # the last window ends outside, or before the edge
        ((20, 23), (3, 3), (8, 4)),
        ((4, 15, 11), (3, 3, 3), (1, 8, 4)),
        ((6, 12, 12), (3, 5, 5), (2, 8, 5)),
        ((3, 1, 5), (3, 3, 3), (1, 8, 8)),
        ((4, 6, 6), (3, 3, 3), (1, 2, 1)),
    ],
)
def test_what_a_strided_pool_reads_gives_the_same(size, kernel, stride):
    torch.manual_seed(0)
    pool = GridPool(3, kernel, stride).double()
    grid = torch.randn(2, *size, 6, dtype=torch.float64, requires_grad=True)
    read, steps = pool.read(grid)
    got = depthwise_conv(read, pool.conv.weight, stride=steps, padding=pool.conv.padding)
    wanted = depthwise_conv(grid, pool.conv.weight, stride=stride, padding=pool.conv.padding)
    assert torch.allclose(got, wanted, atol=1e-12)
    assert torch.allclose(pool(read, steps), pool(grid), atol=1e-12)
    upstream = torch.randn_like(wanted)
    ours, theirs = (torch.autograd.grad(out, grid, upstream)[0] for out in (got, wanted))
    assert torch.allclose(ours, theirs, atol=1e-12)
    if max(stride) > max(kernel):
        assert read.numel() < grid.numel()
