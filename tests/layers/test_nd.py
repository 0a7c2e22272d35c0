"""Convolutions and pools of grids."""

import pytest
import torch
import torch.nn.functional as F

from mvidx.layers.nd import conv_nd


def assert_same_with_gradients(got, wanted, leaves):
    torch.testing.assert_close(got, wanted)
    upstream = torch.randn_like(wanted)
    for ours, theirs in zip(
        torch.autograd.grad(got, leaves, upstream), torch.autograd.grad(wanted, leaves, upstream), strict=True
    ):
        torch.testing.assert_close(ours, theirs, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("batch", [1, 5])  # 16 positions for 64 filters, which is a matrix product of patches, and 80
@pytest.mark.parametrize(("kernel", "stride", "padding"), [((3, 3), 2, 1), ((2, 2), 2, 0), ((3, 2), (2, 1), (1, 0))])
def test_convolutions_of_few_positions_are_convolutions(batch, kernel, stride, padding):
    layer = conv_nd(6, 64, kernel, stride=stride, padding=padding)
    height, width = (8, 4) if stride == (2, 1) else (8, 7 + (kernel == (2, 2)))
    grid = torch.randn(batch, height, width, 6)
    x = grid.movedim(-1, 1).detach().requires_grad_()
    got = layer(x)
    wanted = F.conv2d(x, layer.weight, layer.bias, layer.stride, layer.padding)
    assert_same_with_gradients(got, wanted, (x, layer.weight, layer.bias))
    assert got.movedim(1, -1).is_contiguous()  # no copy after it

    video = conv_nd(6, 64, (1, *kernel), stride=(1, *layer.stride), padding=(0, *layer.padding))
    frames = x.detach()[:, :, None].requires_grad_()
    wanted = F.conv3d(frames, video.weight, video.bias, video.stride, video.padding)
    assert_same_with_gradients(video(frames), wanted, (frames, video.weight, video.bias))


def test_kernels_of_one_frame_are_convolutions_of_frames():
    layer = conv_nd(3, 5, (1, 3, 3), stride=(1, 2, 2))
    x = torch.randn(2, 3, 4, 9, 8, requires_grad=True)
    weight, bias = layer.weight, layer.bias
    wanted = F.conv3d(x, weight, bias, (1, 2, 2), (0, 1, 1))
    assert_same_with_gradients(layer(x), wanted, (x, weight, bias))
    grid = torch.randn(2, 4, 9, 8, 3)
    assert layer(grid.movedim(-1, 1)).movedim(1, -1).is_contiguous()  # no copy after it
    assert type(conv_nd(4, 4, (1, 3, 3), groups=4)) is torch.nn.Conv3d
