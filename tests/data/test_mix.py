import numpy as np
import pytest
import torch
from timm.data import mixup as timm_mixup

from mvidx.data.mix import Mix, cutmix_box, smooth_one_hot


def batch(count=6):
    generator = torch.Generator().manual_seed(0)
    return torch.randn(count, 3, 2, 10, 14, generator=generator), torch.arange(count) % 5


@pytest.mark.parametrize("kind", ["mixup", "cutmix"])
def test_agrees_with_timm_given_the_same_draw(kind, monkeypatch):
    clips, labels = batch()
    share, box = (0.3, None) if kind == "mixup" else (1 - 24 / 140, (2, 6, 3, 9))
    theirs = timm_mixup.Mixup(mixup_alpha=0.8, cutmix_alpha=1.0, label_smoothing=0.1, num_classes=5)
    monkeypatch.setattr(theirs, "_params_per_batch", lambda: (share, kind == "cutmix"))
    monkeypatch.setattr(timm_mixup, "cutmix_bbox_and_lam", lambda *a, **k: (box, share))
    monkeypatch.setattr(timm_mixup, "mixup_target", timm_mixup.mixup_target)
    expected = clips[:, :, 0].clone()
    expected, targets = theirs(expected, labels)
    got, got_targets = Mix(5).apply(clips, labels, share, box)
    assert torch.allclose(got[:, :, 0], expected, atol=1e-6)
    assert torch.allclose(got_targets, targets, atol=1e-6)
    assert torch.allclose(got_targets.sum(1), torch.ones(6))


def test_smoothing_by_hand():
    targets = smooth_one_hot(torch.tensor([2]), 4, 0.2)
    assert torch.allclose(targets, torch.tensor([[0.05, 0.05, 0.85, 0.05]]))


def test_probability_zero_smooths_alone():
    clips, labels = batch()
    got, targets = Mix(5, probability=0.0)(clips, labels, np.random.default_rng(0))
    assert torch.equal(got, clips) and torch.equal(targets, smooth_one_hot(labels, 5, 0.1))


def test_draws_have_the_distributions():
    rng = np.random.default_rng(0)
    draws = [Mix(5, probability=0.8, switch_probability=0.25).draw(40, 60, rng) for _ in range(4000)]
    assert np.mean([box is not None for _, box in draws]) == pytest.approx(0.2, abs=0.03)
    mixed = np.array([share for share, box in draws if box is None and share < 1])
    assert len(mixed) / 4000 == pytest.approx(0.6, abs=0.03)
    assert mixed.mean() == pytest.approx(0.5, abs=0.03)
    assert mixed.var() == pytest.approx(0.25 / (2 * 0.8 + 1), abs=0.01)  # of Beta(0.8, 0.8)
    assert all((box is None) for _, box in [Mix(5, cutmix_alpha=0).draw(8, 8, rng) for _ in range(50)])
    assert all(box for _, box in [Mix(5, mixup_alpha=0).draw(8, 8, rng) for _ in range(50)])


def test_the_share_is_that_of_the_clipped_box():
    rng = np.random.default_rng(1)
    for _ in range(200):
        share, (top, bottom, left, right) = Mix(5, mixup_alpha=0).draw(20, 30, rng)
        assert share == pytest.approx(1 - (bottom - top) * (right - left) / 600)
        assert 0 <= top <= bottom <= 20 and 0 <= left <= right <= 30
    areas = [np.subtract(*cutmix_box(100, 100, 0.75, rng)[1::-1]) for _ in range(200)]
    assert max(areas) == 50  # half the height for a quarter of the area
