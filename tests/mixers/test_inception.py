import pytest
import torch
import torch.nn.functional as F

from mvidx.mixers.inception import Inception
from tests.oracles import randomise


def published_formula(mixer: Inception, grid):
    """The mixer for an image in the paper's terms: channels first, 1x1 convolutions, explicit softmax."""
    x = grid.movedim(-1, 1)
    conv_part, pool_part, low = x.split((mixer.half, mixer.half, mixer.low_channels), dim=1)
    conv_part = F.conv2d(conv_part, mixer.conv_in.weight[:, :, None, None])
    conv_part = F.gelu(F.conv2d(conv_part, mixer.conv.weight, padding=1, groups=conv_part.shape[1]))
    pool_part = F.max_pool2d(pool_part, 3, 1, 1)
    pool_part = F.gelu(F.conv2d(pool_part, mixer.pool_out.weight[:, :, None, None], mixer.pool_out.bias))
    height, width = low.shape[-2:]
    if mixer.pool[0] > 1:
        low = F.avg_pool2d(low, mixer.pool)
    batch, channels, *pooled = low.shape
    tokens = low.flatten(2).transpose(1, 2)
    qkv = F.linear(tokens, mixer.qkv.weight, mixer.qkv.bias)
    q, k, v = qkv.view(batch, -1, 3, mixer.attention_heads, channels // mixer.attention_heads).permute(2, 0, 3, 1, 4)
    weights = (q @ k.transpose(-1, -2) / q.shape[-1] ** 0.5).softmax(-1)
    low = (weights @ v).transpose(2, 3).reshape(batch, channels, *pooled)
    low = F.interpolate(low, size=(height, width), mode="nearest")
    joined = torch.cat((conv_part, pool_part, low), dim=1)
    joined = joined + F.conv2d(joined, mixer.fuse.weight, padding=1, groups=joined.shape[1])
    return F.conv2d(joined, mixer.proj.weight[:, :, None, None], mixer.proj.bias).movedim(1, -1)


@pytest.mark.parametrize("pool", [1, 2])
def test_is_the_published_formula_on_any_shape(pool):
    mixer = randomise(Inception(24, num_heads=6, attention_heads=4, pool=pool))
    grid = torch.randn(2, 6, 8, 24)
    with torch.no_grad():
        assert torch.allclose(mixer(grid), published_formula(mixer, grid), atol=1e-5)


def test_odd_grids_under_a_pool():
    mixer = randomise(Inception(24, num_heads=6, attention_heads=4, pool=2, kernel=(3, 3, 3)))
    assert mixer(torch.randn(1, 3, 5, 7, 24)).shape == (1, 3, 5, 7, 24)


def test_bad_numbers_are_refused():
    with pytest.raises(ValueError, match="num_heads=5 does not divide the 24 channels"):
        Inception(24, num_heads=5, attention_heads=2)
    with pytest.raises(ValueError, match="attention_heads=6, expected 1 to num_heads - 1 = 5"):
        Inception(24, num_heads=6, attention_heads=6)
    with pytest.raises(ValueError, match=r"gets 3 of 6 channels .* expected an even number"):
        Inception(6, num_heads=2, attention_heads=1)
    with pytest.raises(ValueError, match=r"pool=\(2, 2\) has 2 entries, expected 3"):
        Inception(24, num_heads=6, attention_heads=4, kernel=(3, 3, 3), pool=(2, 2))
    with pytest.raises(ValueError, match=r"pool=\(0, 0\)"):
        Inception(24, num_heads=6, attention_heads=4, pool=0)
