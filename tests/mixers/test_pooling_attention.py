import pytest
import torch

from mvidx.layers.nd import depthwise_conv
from mvidx.mixers.pooling_attention import GridPool, PoolingAttention


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


@pytest.mark.parametrize("with_token", [False, True])
@pytest.mark.parametrize(
    ("size", "q_pool", "kv_pool"),
    [
        ((6, 7), ((3, 3), (1, 1)), ((3, 3), (1, 1))),  # all three pooled alike
        ((6, 8), ((3, 3), (2, 2)), ((3, 3), (4, 4))),
        ((3, 6, 8), None, ((3, 3, 3), (1, 2, 2))),
        ((3, 6, 8), ((3, 3, 3), (1, 2, 2)), ((3, 3, 3), (1, 2, 2))),
    ],
)
def test_pools_as_one_are_pools_one_by_one(size, q_pool, kv_pool, with_token):
    torch.manual_seed(0)
    attention = PoolingAttention(
        12, 12, input_size=size, num_heads=3, q_pool=q_pool, kv_pool=kv_pool, relative="space", residual_pooling=True
    ).double()
    for parameter in attention.parameters():  # norms differ from one another
        torch.nn.init.normal_(parameter)
    grid = torch.randn(2, *size, 12, dtype=torch.float64, requires_grad=True)
    token = torch.randn(2, 12, dtype=torch.float64, requires_grad=True) if with_token else None
    leaves = [grid, *([token] if with_token else []), *attention.parameters()]

    def everything():
        out, out_token = attention(grid, token)
        upstream = torch.Generator().manual_seed(1)
        outs = [out] if out_token is None else [out, out_token]
        loss = sum((o * torch.randn(o.shape, generator=upstream, dtype=o.dtype)).sum() for o in outs)
        with torch.no_grad():
            assert torch.allclose(attention(grid, token)[0], out, atol=1e-10)
        return [*outs, *torch.autograd.grad(loss, leaves)]

    together = everything()
    heard = []
    for pool in (attention.pool_k, attention.pool_v):  # who listens to a module gets its call
        pool.norm.register_forward_hook(lambda *call: heard.append(call))
    alone = everything()
    assert heard
    for one, other in zip(together, alone, strict=True):
        assert torch.allclose(one, other, atol=1e-9)
