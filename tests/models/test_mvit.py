import pytest
import torch

import mvidx
from tests.models.small import small_model
from tests.oracles import check_oracle, randomise


@pytest.mark.parametrize("name", ["mvit_v2_t_in1k", "slowfast_mvitv2_s_16x4_k400", "slowfast_mvit_b_16x4_k400"])
def test_oracle(name, tmp_path):
    check_oracle(name, tmp_path)


# Millions of parameters in the papers (arXiv 2112.01526, tables 1, 7 and 8; arXiv 2104.11227, tables 4 and 11).
@pytest.mark.parametrize(
    ("name", "millions"),
    [
        ("mvitv2_t", 24),
        ("mvitv2_s", 35),
        ("mvitv2_b", 52),
        ("mvitv2_l", 218),
        ("mvitv2_h", 667),
        ("mvit_b", 37),
        ("mvitv2_s_video", 34.5),
        ("mvitv2_b_video", 51.2),
        ("mvitv2_l_video", 217.6),
        ("mvit_b_video", 36.6),
    ],
)
def test_parameter_counts(name, millions):
    with torch.device("meta"):
        model = mvidx.create_model(name)
    assert abs(sum(p.numel() for p in model.parameters()) / 1e6 / millions - 1) < 0.02


def test_the_token_alone_feels_its_residual():
    """timm adds the class token's query to what it attends to; the published code does not."""
    published = randomise(small_model("mvitv2_s", class_token=True))
    timms = randomise(small_model("mvitv2_s", class_token=True, token_residual=True))
    assert "token_residual" in timms.state_dict() and "token_residual" not in published.state_dict()
    x = torch.randn(1, 3, 64, 64)
    with torch.no_grad():
        assert (published(x) - timms(x)).abs().max() > 1e-3
        first = published.blocks[0]
        grid, token = torch.randn(1, 16, 16, 16), torch.randn(1, 16)
        left, left_token = first(grid, token)
        right, right_token = timms.blocks[0](grid, token)
    assert torch.equal(left, right) and not torch.equal(left_token, right_token)


def test_mean_pooling_norms_after_the_mean():
    model = randomise(small_model("mvitv2_s", mean_pooling=True))
    x = torch.randn(1, 3, 64, 64)
    with torch.no_grad():
        mean = model.forward_pyramid(x)[-1].mean((1, 2))
        assert torch.allclose(model(x), model.head(model.norm(mean)), atol=1e-6)


def test_output_size_is_what_comes_out():
    for name, side, frames in (("mvitv2_s_video", (72, 100), 5), ("mvit_b_video", (64, 64), 1)):
        model = small_model(name).eval()
        with torch.no_grad():
            grid = model.forward_features(torch.randn(1, 3, frames, *side))
        assert grid.shape[1:-1] == model.output_size((frames, *side))


def test_bad_numbers_are_refused():
    with pytest.raises(ValueError, match="q_stride names block 9, but the model has blocks 0 to 3"):
        small_model("mvitv2_s", q_stride={9: (2, 2)})
    with pytest.raises(ValueError, match=r"kv_stride=\(4, 4\) has 2 entries, expected 3"):
        small_model("mvitv2_s_video", kv_stride=(4, 4))
    with pytest.raises(ValueError, match="absolute_position='both'"):
        small_model("mvitv2_s", absolute_position="both")
    with pytest.raises(ValueError, match="num_heads=5 does not divide the 16 channels"):
        small_model("mvitv2_s", num_heads=5, head_mul={}, dim_mul={})
