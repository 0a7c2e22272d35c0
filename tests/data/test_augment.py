import random

import numpy as np
import pytest
from PIL import Image
from timm.data import auto_augment as timm_augment

from mvidx.data import augment


@pytest.fixture(scope="module")
def frames():
    """Two frames with smooth areas, edges and some noise."""
    rng = np.random.default_rng(0)
    y, x = np.mgrid[0:120, 0:160]
    smooth = 110 + 70 * np.sin(x / 17 + np.arange(3)[:, None, None]) * np.cos(y / 23)
    smooth[:, 30:70, 40:90] += 60
    frame = np.clip(smooth.transpose(1, 2, 0) + rng.normal(0, 3, (120, 160, 3)), 5, 240).astype(np.uint8)
    return np.stack([frame, frame[::-1, ::-1] // 2 + 20])


@pytest.mark.parametrize("method", ["bilinear", "bicubic"])
@pytest.mark.parametrize("name", sorted({*augment.OPERATIONS, *augment.INCREASING_OPERATIONS}))
def test_operations_agree_with_timm(name, method, frames, monkeypatch):
    """The levels' arguments are timm's, and the pixels differ by less than 1/255 on average."""
    resample = getattr(Image.Resampling, method.upper())
    for level in (0.0, 2.3, 7.0, 10.0):
        for sign in (1, -1):
            monkeypatch.setattr(random, "random", lambda sign=sign: 1.0 if sign < 0 else 0.0)
            argument = augment.argument_of(name, level, sign)
            level_to_argument = timm_augment.LEVEL_TO_ARG[name]
            theirs = level_to_argument(level, {}) if level_to_argument else ()
            assert theirs == pytest.approx((argument,) * len(theirs))
            ours = augment.apply(name, frames, argument, interpolation=method)
            for frame, got in zip(frames, ours, strict=True):
                settings = {"fillcolor": (128, 128, 128), "resample": resample}
                if name.startswith("Posterize") and argument == 0:  # PIL refuses to keep no bits since version 12
                    assert not got.any()
                    continue
                expected = np.asarray(timm_augment.NAME_TO_OP[name](Image.fromarray(frame), *theirs, **settings))
                difference = np.abs(got.astype(float) - expected)
                assert difference.mean() < 1.0, (name, level, sign, difference.mean())
                assert (difference > 30).mean() < 0.02


def test_policies_are_read_as_timm_reads_them():
    for policy in ("rand-m7-n4-mstd0.5-inc1", "rand-m9-n6-mstd0.5-inc1", "rand-n3-p0.7", "rand-mstd101-mmax20-m15"):
        ours, theirs = augment.parse_policy(policy), timm_augment.rand_augment_transform(policy, {})
        assert list(ours.operations) == [op.name for op in theirs.ops]
        first = theirs.ops[0]
        assert (ours.num_operations, ours.level) == (theirs.num_layers, first.magnitude)
        assert (ours.probability, ours.level_std) == (first.prob, first.magnitude_std)
        assert ours.level_max == (first.magnitude_max or 10)


@pytest.mark.parametrize("policy", ["original", "rand-m7-x3", "rand-m", "augmix-m3"])
def test_other_policies_are_named(policy):
    with pytest.raises(augment.AugmentError, match=policy):
        augment.parse_policy(policy)


def test_one_draw_for_all_frames_from_the_generator(frames):
    policy = augment.parse_policy("rand-m9-n3-p1.0-mstd0.5-inc1")
    still = np.repeat(frames[:1], 3, axis=0)
    for seed in range(10):
        out = policy(still, np.random.default_rng(seed))
        assert out.dtype == np.uint8 and (out == out[:1]).all()
        assert np.array_equal(out, policy(still, np.random.default_rng(seed)))
    assert not np.array_equal(out, policy(still, np.random.default_rng(99)))


def test_draws_have_the_policys_frequencies():
    policy = augment.parse_policy("rand-m7-n4-mstd0.5-inc1")
    rng = np.random.default_rng(0)
    drawn = [op for _ in range(4000) for op in policy.draw(rng)]
    assert len(drawn) / 4000 == pytest.approx(2.0, abs=0.05)  # 4 with probability one half
    angles = np.array([argument for name, argument, _ in drawn if name == "Rotate"])
    assert len(angles) == pytest.approx(8000 / 15, rel=0.15)
    assert np.abs(angles).mean() == pytest.approx(21, abs=0.3) and abs(np.sign(angles).mean()) < 0.15
    assert np.abs(angles).std() == pytest.approx(1.5, abs=0.2)


def test_color_jitter_keeps_the_mean_over_many_draws(frames):
    rng = np.random.default_rng(0)
    means = [augment.color_jitter(frames[:1], 0.4, rng).mean() for _ in range(200)]
    assert np.mean(means) == pytest.approx(frames[:1].mean(), rel=0.06) and np.std(means) > 10
