"""The fused attention against the plain formula with its relative-position matrices written out."""

import pytest
import torch

from mvidx.layers import kept_attention
from mvidx.layers.attention import attention, grid_attention
from mvidx.layers.position import RelativePosition, relative_distance


def plain_attention(q, k, v, relative, tokens, scale):
    """softmax(scale * q k^T + sum over axes of q . R) v, with the (Nq x Nk) bias of every head in memory."""
    q_size, k_size = q.shape[1:-2], k.shape[1:-2]
    bias = 0
    for axis, table in enumerate(relative):
        if table is None:
            continue
        rows = torch.arange(q_size[axis]).view([-1 if a == axis else 1 for a in range(len(q_size))]).expand(q_size)
        columns = torch.arange(k_size[axis]).view([-1 if a == axis else 1 for a in range(len(k_size))]).expand(k_size)
        vectors = table[rows.flatten()[:, None], columns.flatten()[None, :]]  # (Nq, Nk, C)
        bias = bias + torch.einsum("bqhc,qkc->bhqk", q.flatten(1, -3), vectors)
    flat_q, flat_k, flat_v = (x.flatten(1, -3) for x in (q, k, v))
    logits = scale * torch.einsum("bqhc,bkhc->bhqk", flat_q, flat_k) + bias
    if tokens is None:
        out = torch.einsum("bhqk,bkhc->bqhc", logits.softmax(-1), flat_v)
        return out.view_as(q), None
    q_token, k_token, v_token = tokens
    to_token = scale * torch.einsum("bqhc,bhc->bhq", flat_q, k_token).unsqueeze(-1)
    values = torch.cat((v_token.unsqueeze(1), flat_v), 1)
    out = torch.einsum("bhqk,bkhc->bqhc", torch.cat((to_token, logits), -1).softmax(-1), values)
    keys = torch.cat((k_token.unsqueeze(1), flat_k), 1)
    weights = (scale * torch.einsum("bhc,bkhc->bhk", q_token, keys)).softmax(-1)
    return out.view_as(q), torch.einsum("bhk,bkhc->bhc", weights, values)


def graph_of(x):
    """Names of the nodes of the autograd graph that made a tensor."""
    todo, names = [x.grad_fn], ""
    while todo:
        node = todo.pop()
        names += node.name()
        todo += [below for below, _ in node.next_functions if below is not None]
    return names


CASES = [
    # query size, key size, axes with relative positions
    ((4, 4), (4, 4), (True, True)),
    ((6, 4), (3, 2), (True, True)),
    ((2, 3), (4, 6), (True, True)),
    ((7, 5), (4, 3), (True, False)),
    ((3, 4, 5), (3, 2, 3), (True, True, True)),
    ((5, 4, 2), (5, 2, 1), (False, True, True)),
    ((1, 4, 4), (1, 4, 4), (True, True, True)),
    ((3, 2, 2), (3, 2, 2), (False, False, False)),
    ((2, 9, 1), (2, 3, 1), (True, False, False)),
]


@pytest.mark.parametrize("with_token", [False, True])
@pytest.mark.parametrize(("q_size", "k_size", "axes"), CASES)
@pytest.mark.parametrize("scale", [None, 0.3])
@pytest.mark.parametrize("kept", [False, True])
def test_is_the_plain_formula_forward_and_backward(q_size, k_size, axes, with_token, scale, kept, monkeypatch):
    monkeypatch.setattr(kept_attention, "WEIGHT_BYTES", (0, 2**30 if kept else 0))
    generator = torch.Generator().manual_seed(0)
    heads, channels = 2, 6

    def draw(*shape):
        return torch.randn(*shape, generator=generator, dtype=torch.float64).requires_grad_()

    leaves = {"q": draw(2, *q_size, heads, channels)}
    leaves |= {name: draw(2, *k_size, heads, channels) for name in "kv"}
    relative = [draw(q, k, channels) if on else None for q, k, on in zip(q_size, k_size, axes, strict=True)]
    leaves |= {f"relative{a}": table for a, table in enumerate(relative) if table is not None}
    tokens = None
    if with_token:
        tokens = tuple(draw(2, heads, channels) for _ in range(3))
        leaves |= {f"token{i}": token for i, token in enumerate(tokens)}

    got = grid_attention(leaves["q"], leaves["k"], leaves["v"], relative=relative, tokens=tokens, scale=scale)
    wanted = plain_attention(
        leaves["q"], leaves["k"], leaves["v"], relative, tokens, channels**-0.5 if scale is None else scale
    )
    assert (got[1] is None) == (not with_token)
    assert ("KeptAttention" in graph_of(got[0])) == (kept and any(axes))
    loss_got, loss_wanted = 0, 0
    for ours, plain in zip(got, wanted, strict=True):
        if ours is None:
            continue
        assert ours.shape == plain.shape and torch.allclose(ours, plain, atol=1e-10)
        upstream = torch.randn(ours.shape, generator=generator, dtype=torch.float64)
        loss_got, loss_wanted = loss_got + (ours * upstream).sum(), loss_wanted + (plain * upstream).sum()
    ours = torch.autograd.grad(loss_got, list(leaves.values()), retain_graph=True)
    plain = torch.autograd.grad(loss_wanted, list(leaves.values()))
    for name, left, right in zip(leaves, ours, plain, strict=True):
        assert torch.allclose(left, right, atol=1e-9), name


class Watcher(torch.overrides.TorchFunctionMode):
    def __init__(self):
        super().__init__()
        self.seen = set()

    def __torch_function__(self, function, types, args=(), kwargs=None):
        self.seen.add(function)
        return function(*args, **(kwargs or {}))


def test_weights_are_kept_for_the_backward_pass_of_small_grids_alone():
    def is_kept(tokens, channels=8):
        q = torch.randn(1, tokens, 2, 16, requires_grad=True)
        return "KeptAttention" in graph_of(attention(q, q, q[..., :channels]))

    assert is_kept(256) and not is_kept(32) and not is_kept(1024)
    assert not is_kept(256, channels=16)  # v as wide as q: the fused kernel
    with torch.autocast("cpu", torch.bfloat16):
        assert not is_kept(256)
    with Watcher() as watcher:  # as mvidx.explain does
        assert not is_kept(256)
    assert torch.nn.functional.scaled_dot_product_attention in watcher.seen


def test_no_position_term_at_all():
    q, k, v = torch.randn(3, 2, 3, 4, 2, 6)
    out, token = grid_attention(q, k, v)
    wanted, _ = plain_attention(q, k, v, (), None, 6**-0.5)
    assert token is None and torch.allclose(out, wanted, atol=1e-6)


def test_distances_between_unequal_axes():
    assert relative_distance(3, 3).tolist() == [[2, 1, 0], [3, 2, 1], [4, 3, 2]]
    assert relative_distance(4, 2).tolist() == [[2, 0], [3, 1], [4, 2], [5, 3]]
    assert relative_distance(2, 4).tolist() == [[3, 2, 1, 0], [5, 4, 3, 2]]
    for q, k in ((7, 4), (4, 7), (1, 5), (5, 1)):
        rows = relative_distance(q, k)
        assert rows.min() >= 0 and rows.max() <= 2 * max(q, k) - 2


def test_tables_of_another_size_are_interpolated():
    relative = RelativePosition((None, 4, 3), 5)
    assert relative.t is None
    vectors = relative((2, 4, 3), (2, 4, 3))
    assert (
        vectors[0] is None
        and torch.equal(vectors[1][0, 3], relative.h[0])
        and torch.equal(vectors[1][3, 0], relative.h[6])
    )
    longer = relative((2, 7, 3), (2, 7, 3))[1]
    table = torch.nn.functional.interpolate(relative.h.t()[None], size=13, mode="linear")[0].t()
    assert (
        longer.shape == (7, 7, 5) and torch.allclose(longer[6, 0], table[12]) and torch.allclose(longer[2, 3], table[5])
    )
