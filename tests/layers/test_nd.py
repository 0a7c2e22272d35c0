"""Convolutions and pools of grids."""

import torch
import torch.nn.functional as F

from mvidx.layers.nd import conv_nd


def test_kernels_of_one_frame_are_convolutions_of_frames():
    layer = conv_nd(3, 5, (1, 3, 3), stride=(1, 2, 2))
    x = torch.randn(2, 3, 4, 9, 8, requires_grad=True)
    weight, bias = layer.weight, layer.bias
    wanted = F.conv3d(x, weight, bias, (1, 2, 2), (0, 1, 1))
    got = layer(x)
    torch.testing.assert_close(got, wanted)
    leaves, upstream = (x, weight, bias), torch.randn_like(wanted)
    for ours, theirs in zip(
        torch.autograd.grad(got, leaves, upstream), torch.autograd.grad(wanted, leaves, upstream), strict=True
    ):
        torch.testing.assert_close(ours, theirs, atol=1e-4, rtol=1e-4)
    grid = torch.randn(2, 4, 9, 8, 3)
    assert layer(grid.movedim(-1, 1)).movedim(1, -1).is_contiguous()  # no copy after it
    assert type(conv_nd(4, 4, (1, 3, 3), groups=4)) is torch.nn.Conv3d
