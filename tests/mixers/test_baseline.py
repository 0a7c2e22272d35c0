import pytest
import torch
import torch.nn.functional as F

from mvidx.mixers.baseline import Attention, DepthwiseConv, Identity, RandomMixing, SpatialMlp
from mvidx.mixers.pooling_attention import PoolingAttention
from tests.oracles import randomise


def test_identity():
    grid = torch.randn(1, 2, 3, 4)
    assert torch.equal(Identity()(grid), grid)


def test_depthwise_convolution():
    mixer = DepthwiseConv(4, kernel=(3, 3, 3))
    grid = torch.randn(2, 3, 4, 5, 4)
    wanted = F.conv3d(grid.movedim(-1, 1), mixer.conv.weight, mixer.conv.bias, padding=1, groups=4).movedim(1, -1)
    assert torch.allclose(mixer(grid), wanted, atol=1e-6)
    with pytest.raises(ValueError, match=r"kernel=\(2, 3\), expected odd"):
        DepthwiseConv(4, kernel=(2, 3))


def test_spatial_mlp_is_a_matrix_over_positions():
    mixer = randomise(SpatialMlp((2, 3)))
    grid = torch.randn(2, 2, 3, 4)
    with torch.no_grad():
        wanted = F.linear(grid.flatten(1, 2).transpose(1, 2), mixer.space).transpose(1, 2).view_as(grid)
        assert torch.allclose(mixer(grid), wanted, atol=1e-6)


def test_on_video_one_matrix_over_space_and_one_over_time():
    mixer = randomise(SpatialMlp((3, 2, 2)))
    grid = torch.randn(2, 3, 2, 2, 5)
    with torch.no_grad():
        wanted = torch.einsum("ts,nm,bsmc->btnc", mixer.time, mixer.space, grid.flatten(2, 3)).view_as(grid)
        assert torch.allclose(mixer(grid), wanted, atol=1e-5)


def test_a_new_spatial_mlp_leaves_frames_alone():
    image, video = SpatialMlp((2, 2)), SpatialMlp((3, 2, 2))
    with torch.no_grad():
        video.space.copy_(image.space)
    grid = torch.randn(1, 3, 2, 2, 4)
    assert torch.allclose(video(grid)[0], image(grid[0]), atol=1e-6)


@pytest.mark.parametrize("size", [(4, 6), (3, 4, 6)])
def test_random_mixing_averages_at_any_size(size):
    """Rows are positive and sum to one, and stay so when the matrix is interpolated to another size."""
    mixer = RandomMixing(size)
    assert torch.allclose(mixer.space.sum(-1), torch.ones(24)) and mixer.space.min() > 0
    assert not list(mixer.parameters())
    for other in (size, (5, 9, 2)[-len(size) :], (1,) * len(size)):
        constant = torch.full((1, *other, 3), 2.5)
        assert torch.allclose(mixer(constant), constant, atol=1e-5)
        grid = torch.rand(1, *other, 3)
        mixed = mixer(grid)
        assert mixed.shape == grid.shape
        assert grid.amin() - 1e-6 <= mixed.amin() and mixed.amax() <= grid.amax() + 1e-6


def test_grid_sizes_are_checked():
    with pytest.raises(ValueError, match=r"size=\(4,\) has 1 entries, expected 2 \(h, w\) or 3 \(t, h, w\)"):
        SpatialMlp((4,))
    with pytest.raises(ValueError, match=r"\(0, 4\)"):
        RandomMixing((0, 4))


def test_attention_between_all_positions():
    mixer = randomise(Attention(8, num_heads=2))
    grid = torch.randn(2, 3, 2, 2, 8)
    with torch.no_grad():
        q, k, v = mixer.qkv(grid.flatten(1, 3)).view(2, 12, 3, 2, 4).permute(2, 0, 3, 1, 4)
        wanted = ((q @ k.transpose(-1, -2) / 2).softmax(-1) @ v).transpose(1, 2).reshape(2, 12, 8)
        assert torch.allclose(mixer(grid), mixer.proj(wanted).view_as(grid), atol=1e-6)
    with pytest.raises(ValueError, match="num_heads=3 does not divide the 8 channels"):
        Attention(8, num_heads=3)


def test_pooling_attention_checks_its_numbers():
    with pytest.raises(ValueError, match="num_heads=3 does not divide the 8 channels"):
        PoolingAttention(8, 8, input_size=(4, 4), num_heads=3)
    with pytest.raises(ValueError, match="relative='both'"):
        PoolingAttention(8, 8, input_size=(4, 4), num_heads=2, relative="both")
    with pytest.raises(ValueError, match=r"a grid of \(4, 4\) is too small for the pooling strides"):
        PoolingAttention(8, 8, input_size=(4, 4), num_heads=2, kv_pool=((3, 3), (8, 8)))
