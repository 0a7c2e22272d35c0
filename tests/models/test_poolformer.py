import pytest
import torch
import torch.nn.functional as F

import mvidx
from tests.models.small import small_model
from tests.oracles import check_oracle, randomise


def test_oracle(tmp_path):
    check_oracle("poolformer_s12", tmp_path)


# Trainable parameters of the published code.
@pytest.mark.parametrize(
    ("size", "params"),
    [("s12", 11915176), ("s24", 21388968), ("s36", 30862760), ("m36", 56172520), ("m48", 73473448)],
)
def test_parameter_counts(size, params):
    with torch.device("meta"):
        model = mvidx.create_model(f"poolformer_{size}")
    assert sum(p.numel() for p in model.parameters()) == params


def test_block_is_the_formula_of_the_paper():
    """x + s1 * (pool(norm(x)) - norm(x)), then x + s2 * mlp(norm(x)), with channels first."""
    model = randomise(small_model("poolformer_s12"))
    block = model.stages[1].blocks[0]
    grid = torch.randn(2, 7, 5, 64)
    x = grid.movedim(-1, 1)
    normed = F.group_norm(x, 1, block.norm1.weight, block.norm1.bias, 1e-5)
    mixed = F.avg_pool2d(normed, 3, 1, 1, count_include_pad=False) - normed
    x = x + block.scale1[:, None, None] * mixed
    normed = F.group_norm(x, 1, block.norm2.weight, block.norm2.bias, 1e-5)
    hidden = F.gelu(F.conv2d(normed, block.mlp.fc1.weight[:, :, None, None], block.mlp.fc1.bias))
    x = x + block.scale2[:, None, None] * F.conv2d(hidden, block.mlp.fc2.weight[:, :, None, None], block.mlp.fc2.bias)
    with torch.no_grad():
        assert torch.allclose(block(grid), x.movedim(1, -1), atol=1e-5)


def test_layer_scale_starts_smaller_in_deep_models():
    for name, start in (("poolformer_s24", 1e-5), ("poolformer_s36", 1e-6)):
        model = small_model(name)
        assert torch.all(model.stages[3].blocks[0].scale2 == start)


def test_final_norm_after_the_mean():
    """timm's variant: a LayerNorm of the mean. Its norm has another name, so that a checkpoint says which it is."""
    model = randomise(small_model("poolformer_s12", final_norm="mean"))
    x = torch.randn(2, 3, 64, 64)
    with torch.no_grad():
        mean = model.forward_pyramid(x)[-1].mean((1, 2))
        norm = model.mean_norm
        wanted = model.head(F.layer_norm(mean, mean.shape[1:], norm.weight, norm.bias, 1e-6))
        assert torch.allclose(model(x), wanted, atol=1e-5)
    assert "mean_norm.weight" in model.state_dict() and "norm.weight" not in model.state_dict()
    with pytest.raises(ValueError, match="final_norm='middle'"):
        small_model("poolformer_s12", final_norm="middle")
