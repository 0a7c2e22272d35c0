import pytest
import torch
import torch.nn.functional as F

import mvidx
from tests.models.small import small_model
from tests.oracles import check_oracle, randomise


def test_oracle(tmp_path):
    check_oracle("mixformer_b1", tmp_path)


# B1 is the oracle's count; the others are what the same structure gives, and the paper's 5, 10, 17, 35, 62, 119 M.
@pytest.mark.parametrize(
    ("size", "millions"), [("b0", 5), ("b1", 8), ("b2", 10), ("b3", 17), ("b4", 35), ("b5", 62), ("b6", 119)]
)
def test_parameter_counts(size, millions):
    with torch.device("meta"):
        model = mvidx.create_model(f"mixformer_{size}")
    assert abs(sum(p.numel() for p in model.parameters()) / 1e6 - millions) < 0.6
    widths = [info["channels"] for info in model.feature_info]
    heads = [stage.blocks[0].mixer.num_heads for stage in model.stages]
    head_width = 4 if size == "b0" else 8
    assert [w // 2 // h for w, h in zip(widths, heads, strict=True)] == [head_width] * 4


def test_inputs_are_padded_to_whole_patches():
    model = randomise(small_model("mixformer_b0"))
    x = torch.randn(1, 3, 61, 90)
    with torch.no_grad():
        assert torch.allclose(model(x), model(F.pad(x, (0, 2, 0, 3))), atol=1e-6)


def test_the_head_reads_the_mean_of_the_last_projection():
    model = randomise(small_model("mixformer_b0"))
    x = torch.randn(2, 3, 64, 64)
    with torch.no_grad():
        last = model.norm(model.forward_pyramid(x)[-1])
        wanted = model.head(F.gelu(model.last_proj(last)).mean((1, 2)))
        assert torch.allclose(model(x), wanted, atol=1e-6)
    assert model.num_features == 1280


def test_window_and_kernel_take_one_entry_an_axis():
    with pytest.raises(ValueError, match=r"window=\(7, 7\) has 2 entries, expected 3"):
        small_model("mixformer_b0_video", window=(7, 7))
    with pytest.raises(ValueError, match=r"kernel=\(2, 2\), expected odd"):
        small_model("mixformer_b0", kernel=(2, 2))
    with pytest.raises(ValueError, match="num_heads=5 does not divide the 12 channels"):
        small_model("mixformer_b0", num_heads=(5, 6, 12, 24))
