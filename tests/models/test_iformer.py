import pytest
import torch

import mvidx
from tests.models.small import small_model
from tests.oracles import check_oracle, randomise


def test_oracle(tmp_path):
    check_oracle("iformer_s", tmp_path)


# Trainable parameters of the published code.
@pytest.mark.parametrize(("size", "params"), [("s", 19866344), ("b", 47866216), ("l", 86637096)])
def test_parameter_counts(size, params):
    with torch.device("meta"):
        model = mvidx.create_model(f"iformer_{size}")
    assert sum(p.numel() for p in model.parameters()) == params


def test_tables_follow_the_image_size():
    with torch.device("meta"):
        model = mvidx.create_model("iformer_s", img_size=384)
        video = mvidx.create_model("iformer_s_video", img_size=(224, 160))
    assert [tuple(s.position.space.shape) for s in model.stages] == [
        (1, 96, 96, 96),
        (1, 48, 48, 192),
        (1, 24, 24, 320),
        (1, 12, 12, 384),
    ]
    assert tuple(video.stages[1].position.space.shape) == (1, 28, 20, 192)
    assert tuple(video.stages[1].position.time.shape) == (1, 8, 192)


def test_tables_are_interpolated_as_published():
    """A table at another size is interpolated bilinearly, corners not aligned; at its own size it is left alone."""
    model = randomise(small_model("iformer_s"))
    table = model.stages[0].position.space  # (1, 16, 16, C)
    zeros = torch.zeros(1, 24, 16, table.shape[-1])
    wanted = torch.nn.functional.interpolate(table.movedim(-1, 1), size=(24, 16), mode="bilinear").movedim(1, -1)
    with torch.no_grad():
        assert torch.allclose(model.stages[0].position(zeros), wanted, atol=1e-6)
        assert torch.equal(model.stages[0].position(zeros[:, :16]), table)


def test_an_upright_image_is_the_transposed_flat_one():
    """Non-square grids: with symmetric kernels and tables, turning the input turns the features."""
    model = randomise(small_model("iformer_s"))
    with torch.no_grad():
        for module in model.modules():
            if isinstance(module, torch.nn.Conv2d):
                module.weight.copy_((module.weight + module.weight.transpose(-1, -2)) / 2)
        for stage in model.stages:
            stage.position.space.copy_((stage.position.space + stage.position.space.transpose(1, 2)) / 2)
        x = torch.randn(1, 3, 64, 104)
        features, turned = model.forward_features(x), model.forward_features(x.transpose(-1, -2))
    assert torch.allclose(features.transpose(1, 2), turned, atol=1e-5)


def test_layer_scale_in_the_last_two_stages():
    stages = small_model("iformer_s").stages
    assert [s.blocks[0].scale1 is None for s in stages] == [True, True, False, False]
    assert torch.all(stages[2].blocks[0].scale1 == 1e-6)


def test_bad_numbers_are_refused():
    with pytest.raises(ValueError, match="expected 4"):
        small_model("iformer_s", attention_heads=(1, 3, 7))
    with pytest.raises(ValueError, match=r"depths=\(1, 1\) has 2 entries, expected 4"):
        small_model("iformer_s", depths=(1, 1))
    with pytest.raises(ValueError, match="num_heads=5 does not divide the 24 channels"):
        small_model("iformer_s", num_heads=(5, 6, 10, 12))
    with pytest.raises(ValueError, match="attention_heads=3, expected 1 to num_heads - 1 = 2"):
        small_model("iformer_s", attention_heads=(3, 3, 7, 11))
