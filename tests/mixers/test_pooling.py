import pytest
import torch
import torch.nn.functional as F

from mvidx.layers.nd import avg_pool, max_pool, repeat_cells
from mvidx.layers.norm import GroupNorm1
from mvidx.mixers.pooling import Pooling, pooling_residual


def brute_force_mean(grid, kernel):
    """Mean over the part of every neighbourhood that lies inside the grid, one position at a time."""
    out = torch.empty_like(grid)
    size = grid.shape[1:-1]
    for place in torch.cartesian_prod(*(torch.arange(n) for n in size)).tolist():
        box = tuple(slice(max(0, p - k // 2), p + k // 2 + 1) for p, k in zip(place, kernel, strict=True))
        out[(slice(None), *place)] = grid[(slice(None), *box)].flatten(1, -2).mean(1)
    return out


@pytest.mark.parametrize("compiled", [False, True])
@pytest.mark.parametrize(("size", "kernel"), [((5, 4), (3, 3)), ((4, 5, 3), (3, 3, 3)), ((1, 3, 4), (3, 3, 5))])
def test_mean_of_what_lies_inside_minus_the_input(size, kernel, compiled):
    pooling = Pooling(kernel)
    if compiled:  # sums of shifted grids
        pooling.compile(backend="eager", fullgraph=True)
    grid = torch.randn(2, *size, 3, requires_grad=True)
    mixed, wanted = pooling(grid), brute_force_mean(grid, kernel) - grid
    assert mixed.is_contiguous()
    assert torch.allclose(mixed, wanted, atol=1e-6)
    upstream = torch.randn_like(grid)
    gradients = [torch.autograd.grad(out, grid, upstream)[0] for out in (mixed, wanted)]
    assert torch.allclose(*gradients, atol=1e-6)


def test_image_pooling_is_the_published_one():
    grid = torch.randn(2, 6, 7, 4)
    x = grid.movedim(-1, 1)
    published = F.avg_pool2d(x, 3, 1, 1, count_include_pad=False) - x
    assert torch.allclose(Pooling((3, 3))(grid), published.movedim(1, -1), atol=1e-6)


@pytest.mark.parametrize("kernel", [(3,), (3, 3, 3, 3), (2, 3), (0, 3)])
def test_bad_kernels_are_refused(kernel):
    with pytest.raises(ValueError, match=r"kernel=\("):
        Pooling(kernel)


@pytest.mark.parametrize(
    ("kernel", "stride", "padding"),
    [((3, 3, 3), (1, 2, 2), (1, 1, 1)), ((1, 3, 3), (1, 2, 2), (0, 1, 1)), ((3, 1, 1), (2, 1, 1), (1, 0, 0))],
)
def test_max_pool_over_space_then_time_is_the_joint_one(kernel, stride, padding):
    grid = torch.randn(2, 5, 6, 7, 3)
    joint = F.max_pool3d(grid.movedim(-1, 1), kernel, stride, padding).movedim(1, -1)
    assert torch.equal(max_pool(grid, kernel, stride, padding), joint)


def test_incomplete_cells_are_means_of_what_they_have():
    grid = torch.arange(5.0).view(1, 5, 1, 1)
    pooled = avg_pool(grid, (2, 1), (2, 1), (0, 0))
    assert pooled.flatten().tolist() == [0.5, 2.5, 4.0]
    assert repeat_cells(pooled, (2, 1), (5, 1)).flatten().tolist() == [0.5, 0.5, 2.5, 2.5, 4.0]


def test_repeated_cells_are_nearest_neighbours():
    grid = torch.randn(2, 2, 3, 4, 5)
    wanted = F.interpolate(grid.movedim(-1, 1), scale_factor=(2, 1, 3), mode="nearest").movedim(1, -1)
    assert torch.equal(repeat_cells(grid, (2, 1, 3), (4, 3, 12)), wanted)


@pytest.mark.parametrize(("size", "kernel"), [((5, 4), (3, 3)), ((4, 5, 3), (3, 3, 3)), ((1, 2, 6), (3, 3, 5))])
@pytest.mark.parametrize("scaled", [False, True])
@pytest.mark.parametrize("factors", [None, (0.0, 1.25)])
def test_residual_without_the_norm_is_that_with_it(size, kernel, scaled, factors):
    torch.manual_seed(0)
    norm, mixer = GroupNorm1(3).double(), Pooling(kernel)
    scale = torch.randn(3, dtype=torch.float64, requires_grad=True) if scaled else None
    keep = None if factors is None else torch.tensor(factors, dtype=torch.float64).view(2, 1)
    x = torch.randn(2, *size, 3, dtype=torch.float64) + 5  # a mean that must go away
    x.requires_grad_()
    with torch.no_grad():
        norm.weight.normal_()
        norm.bias.normal_()
    branch = brute_force_mean(norm(x), kernel) - norm(x)
    branch = branch if scale is None else branch * scale
    wanted = x + (branch if keep is None else branch * keep.view(2, *[1] * (x.ndim - 1)))
    got = pooling_residual(x, mixer, norm, scale=scale, keep=keep)
    assert torch.allclose(got, wanted, atol=1e-12)
    leaves = [x, norm.weight, norm.bias] + ([scale] if scaled else [])
    upstream = torch.randn_like(x)
    for ours, theirs in zip(
        torch.autograd.grad(got, leaves, upstream), torch.autograd.grad(wanted, leaves, upstream), strict=True
    ):
        assert torch.allclose(ours, theirs, atol=1e-11)
    with torch.no_grad():
        assert torch.allclose(pooling_residual(x, mixer, norm, scale=scale, keep=keep), wanted, atol=1e-12)
