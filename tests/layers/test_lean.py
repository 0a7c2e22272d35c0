"""The MLP half of a block in pieces against its plain composition, forward and backward."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from mvidx.layers import lean
from mvidx.layers.lean import residual_mlp


def plain(x, kind, gamma, beta, eps, fc1, fc2, scale, skip, keep):
    if kind == "group":
        normed = F.group_norm(x.movedim(-1, 1), 1, gamma, beta, eps).movedim(1, -1)
    else:
        normed = F.layer_norm(x, x.shape[-1:], gamma, beta, eps)
    branch = fc2(F.gelu(fc1(normed)))
    branch = branch if scale is None else branch * scale
    branch = branch if keep is None else branch * keep.view(-1, 1, 1, 1)
    return (x if skip is None else skip(normed)) + branch


@pytest.mark.parametrize("kind", ["layer", "group"])
@pytest.mark.parametrize("scaled", [False, True])
@pytest.mark.parametrize("projects", [False, True])
@pytest.mark.parametrize("factors", [None, (0.0, 1.25, 1.25)])
@pytest.mark.parametrize("width", [16, 64])  # more and fewer than the 60 rows: the scale goes to weights or output
@pytest.mark.parametrize("piece_rows", [7, None])  # seven rows at once, of twenty
@pytest.mark.parametrize("kept_bytes", [0, lean.KEPT_BYTES])
def test_is_the_plain_composition(kind, scaled, projects, factors, width, piece_rows, kept_bytes, monkeypatch):
    if piece_rows:
        monkeypatch.setattr(lean, "HIDDEN_BYTES", piece_rows * width * 8)
    monkeypatch.setattr(lean, "KEPT_BYTES", kept_bytes)
    torch.manual_seed(0)
    fc1, fc2, skip = nn.Linear(6, width).double(), nn.Linear(width, 6).double(), nn.Linear(6, 6).double()
    skip = skip if projects else None
    x = torch.randn(3, 4, 5, 6, dtype=torch.float64, requires_grad=True)
    gamma, beta, scale = (torch.randn(6, dtype=torch.float64, requires_grad=True) for _ in range(3))
    scale = scale if scaled else None
    keep = None if factors is None else torch.tensor(factors, dtype=torch.float64).view(3, 1)
    modules = [fc1, fc2] + ([skip] if projects else [])
    leaves = [x, gamma, beta, *(p for m in modules for p in m.parameters())] + ([scale] if scaled else [])

    wanted = plain(x, kind, gamma, beta, 1e-5, fc1, fc2, scale, skip, keep)
    arguments = {"norm": (kind, gamma, beta, 1e-5), "fc1": fc1, "fc2": fc2, "scale": scale, "skip": skip, "keep": keep}
    got = residual_mlp(x, **arguments)
    assert torch.allclose(got, wanted, atol=1e-12)
    upstream = torch.randn_like(wanted)
    for ours, theirs in zip(
        torch.autograd.grad(got, leaves, upstream), torch.autograd.grad(wanted, leaves, upstream), strict=True
    ):
        assert torch.allclose(ours, theirs, atol=1e-11)
    with torch.no_grad():
        kept = x.detach().clone()
        assert torch.allclose(residual_mlp(kept, **arguments), wanted, atol=1e-12)
        assert torch.equal(kept, x)
        owned = residual_mlp(kept, owned=True, **arguments)
        assert torch.allclose(owned, wanted, atol=1e-12) and (projects or owned.data_ptr() == kept.data_ptr())
