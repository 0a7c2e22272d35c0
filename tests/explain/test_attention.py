import numpy as np
import pytest
import torch
import torch.nn.functional as F

import mvidx
from mvidx.errors import UserError
from mvidx.explain import attention
from mvidx.explain.attention import attention_maps, attention_rows
from mvidx.explain.draw import _as_heat
from mvidx.mixers.pooling_attention import PoolingAttention
from tests.models.small import input_shape, small_model

ATTENDING = ["mvitv2_s", "mvitv2_s_video", "mvit_b_video", "iformer_s", "iformer_s_video", "mixformer_b1_video"]


def clips_for(name: str) -> torch.Tensor:
    torch.manual_seed(0)
    return torch.randn(input_shape(name))


@pytest.mark.parametrize("mask", [None, "float", "bool"])
def test_rows_are_what_the_kernel_computes(mask):
    """With one-hot values the kernel gives its weights."""
    torch.manual_seed(0)
    query, key = torch.randn(2, 3, 5, 8), torch.randn(2, 3, 7, 8)
    given = {None: None, "float": torch.randn(3, 5, 7), "bool": torch.rand(5, 7) > 0.3}[mask]
    if mask == "bool":
        given[:, 0] = True
    wanted = F.scaled_dot_product_attention(query, key, torch.eye(7).expand(2, 3, 7, 7), attn_mask=given, scale=0.7)
    torch.testing.assert_close(attention_rows(query, key, given, 0.7), wanted)


@pytest.mark.parametrize("name", ATTENDING)
def test_what_the_maps_say_the_mixer_computes(name, monkeypatch):
    """With values that count positions, the last mixer's kernel gives the mean position by the map of one query."""
    model, clips = small_model(name).eval(), clips_for(name)
    whole = attention_maps(model, clips, where=(0.9,) * model.ndim)
    seen = {}
    kernel = F.scaled_dot_product_attention

    def spy(query, key, value, **named):
        seen.setdefault("weights", []).append(
            kernel(query, key, torch.eye(key.shape[-2]).expand(*key.shape[:2], -1, -1), **named)
        )
        return kernel(query, key, value, **named)

    monkeypatch.setattr(F, "scaled_dot_product_attention", spy)
    with torch.no_grad():
        model(clips)
    monkeypatch.undo()
    last = whole[-1]
    calls = seen["weights"]
    token = last.token is not None
    weights = calls[-2] if token else calls[-1]
    if name.startswith("mixformer"):
        assert last.received.flatten(2).sum(-1).min() <= 1.0 + 1e-5
        return  # windows have a test of their own
    received = weights.mean(2)[..., 1:] if token else weights.mean(2)
    torch.testing.assert_close(last.received.flatten(2), received, atol=1e-6, rtol=1e-4)
    number = 0
    for index, length in zip(last.where, last.query_size, strict=True):
        number = number * length + index
    torch.testing.assert_close(last.point.flatten(2), weights[:, :, number, 1 if token else 0 :], atol=1e-6, rtol=1e-4)
    if token:
        torch.testing.assert_close(last.token.flatten(2), calls[-1][:, :, 0, 1:], atol=1e-6, rtol=1e-4)


@pytest.mark.parametrize("name", ATTENDING)
def test_a_few_queries_at_a_time_are_the_same(name, monkeypatch):
    model, clips = small_model(name), clips_for(name)
    maps = attention_maps(model, clips)
    monkeypatch.setattr(attention, "QUERIES_AT_ONCE", 5)
    assert len(maps) == 4 and maps[0].block in ("blocks.0", "stages.0.blocks.0")
    for one, other in zip(maps, attention_maps(model, clips), strict=True):
        for field in ("received", "point", "token"):
            first, second = getattr(one, field), getattr(other, field)
            assert (first is None) == (second is None)
            if first is not None:
                torch.testing.assert_close(first, second, atol=1e-6, rtol=1e-4)


def test_windows_of_the_mixing_block():
    """A query attends to its own window alone; all windows together give a weight of 1 each."""
    model = mvidx.create_model(
        "mixformer_b1_video", img_size=64, frames=8, num_classes=3, depths=(1, 1, 1, 1), window=(3, 4, 4)
    )
    first = attention_maps(model, torch.randn(1, 3, 8, 64, 64), where=(0.99, 0.3, 0.3))[0]
    assert first.query_size == (4, 16, 16) and first.where == (3, 4, 4)
    assert first.received.shape == (1, 2, 4, 16, 16)
    # 4 frames in windows of at most 3: 2 and 2; 16 = 4 windows of 4 along both sides
    torch.testing.assert_close(first.received.sum((2, 3, 4)), torch.full((1, 2), 2.0 * 4 * 4))
    inside = torch.zeros(4, 16, 16, dtype=torch.bool)
    inside[2:, 4:8, 4:8] = True
    assert (first.point[:, :, inside] > 0).all() and (first.point[:, :, ~inside] == 0).all()
    torch.testing.assert_close(first.point.sum((2, 3, 4)), torch.ones(1, 2))


def test_padded_windows_are_cut_to_the_grid():
    model = mvidx.create_model("mixformer_b1", img_size=96, num_classes=3, depths=(1, 1, 1, 1))
    maps = attention_maps(model, torch.randn(2, 3, 80, 96), where=(1.0, 1.0))
    assert [tuple(one.received.shape[2:]) for one in maps] == [(20, 24), (10, 12), (5, 6), (3, 3)]
    assert maps[0].where == (19, 23) and float(maps[0].point[..., -1, -1].min()) > 0


def test_metaformer_with_plain_attention_and_pools():
    model = mvidx.create_model(
        "metaformer_s12",
        mixers=("pooling", "pooling", "attention", "attention"),
        img_size=64,
        num_classes=3,
        depths=(1, 1, 1, 1),
        widths=(32, 64, 64, 96),
    )
    maps = attention_maps(model, torch.randn(1, 3, 64, 64))
    assert [one.block for one in maps] == ["stages.2.blocks.0", "stages.3.blocks.0"]
    torch.testing.assert_close(maps[0].received.flatten(2).sum(-1), torch.ones(1, maps[0].received.shape[1]))


def test_wanted_blocks_and_bad_arguments():
    model, clips = small_model("iformer_s"), clips_for("iformer_s")
    assert [one.block for one in attention_maps(model, clips, blocks=["stages.1.blocks.0"])] == ["stages.1.blocks.0"]
    with pytest.raises(UserError, match=r"block 'x' does not attend, expected one of stages\.0\.blocks\.0"):
        attention_maps(model, clips, blocks=["x"])
    with pytest.raises(UserError, match="expected 2 fractions from 0 to 1"):
        attention_maps(model, clips, where=(0.5, 0.5, 0.5))
    with pytest.raises(UserError, match="no attention to show"):
        attention_maps(small_model("poolformer_s12"), clips)


def test_a_mixer_that_leaves_the_kernel_is_noticed(monkeypatch):
    monkeypatch.setattr(PoolingAttention, "forward", lambda self, grid, token=None: (grid, token))
    with pytest.raises(RuntimeError, match=r"blocks\.0: PoolingAttention did not call PyTorch's attention kernel"):
        attention_maps(small_model("mvitv2_s"), clips_for("mvitv2_s"))


def test_even_attention_looks_cool_and_a_single_place_hot():
    even = _as_heat(np.full((2, 3, 3), 1 / 18), (4, 6, 6))
    np.testing.assert_allclose(even, 0.25)
    single = np.full((1, 4, 4), 1e-9)
    single[0, 1, 2] = 0.7
    heat = _as_heat(single, (1, 4, 4))
    assert heat[0, 1, 2] == 1 and heat.sum() == pytest.approx(1)
    assert _as_heat(np.zeros((4, 4)), (8, 8)).max() == 0
