import numpy as np
import pytest
import torch

from mvidx.data.erase import RandomErasing


def test_noise_is_normal_in_a_box_through_all_frames():
    clip = torch.full((3, 4, 60, 80), 9.0)
    out = RandomErasing(1.0)(clip.clone(), np.random.default_rng(3))
    erased = out != 9.0
    box = erased[0, 0]
    assert (erased == box).all() and 0.01 < box.float().mean() < 0.4
    rows, columns = torch.nonzero(box.any(1)).flatten(), torch.nonzero(box.any(0)).flatten()
    assert box.sum() == len(rows) * len(columns)
    noise = out[erased]
    assert abs(noise.mean()) < 0.1 and noise.std() == pytest.approx(1.0, abs=0.05)
    assert not torch.equal(out[:, 0], out[:, 1])
    assert torch.equal(out, RandomErasing(1.0)(clip.clone(), np.random.default_rng(3)))


def test_modes_and_images():
    image = torch.ones(3, 40, 40)
    assert (RandomErasing(1.0, mode="const")(image.clone(), np.random.default_rng(0)) == 0).any()
    colours = RandomErasing(1.0, mode="rand")(image.clone(), np.random.default_rng(0))
    assert len(colours[0].unique()) == 2
    assert torch.equal(RandomErasing(0.0)(image.clone(), np.random.default_rng(0)), image)
    with pytest.raises(ValueError, match="'noise'"):
        RandomErasing(mode="noise")


def test_probability_area_and_spared_frames():
    rng = np.random.default_rng(0)
    boxes = [RandomErasing(0.25).draw(100, 100, rng) for _ in range(4000)]
    drawn = np.array([box[0] for box in boxes if box])
    assert len(drawn) / 4000 == pytest.approx(0.25, abs=0.03)
    area = drawn[:, 2] * drawn[:, 3] / 1e4
    assert area.min() > 0.018 and area.max() < 0.34 and area.mean() == pytest.approx(0.17, abs=0.02)
    assert torch.equal(
        RandomErasing(1.0, per_frame=True)(torch.ones(3, 40, 40), np.random.default_rng(0)),
        RandomErasing(1.0)(torch.ones(3, 40, 40), np.random.default_rng(0)),
    )
    several = RandomErasing(1.0, mode="const", max_boxes=2)(torch.ones(3, 8, 30, 30), rng)
    assert (several[:, :4] == 1).all() and (several[:, 4:] == 0).any()


def test_each_frame_may_have_a_box_of_its_own():
    clip = RandomErasing(0.5, mode="const", per_frame=True)(torch.ones(3, 200, 40, 40), np.random.default_rng(0))
    erased = clip == 0
    assert torch.equal(erased, erased[:1].expand_as(erased))  # all channels
    frames = erased[0]
    touched = frames.flatten(1).any(1)
    assert touched.float().mean() == pytest.approx(0.5, abs=0.1)
    boxes = {tuple(frame.nonzero().aminmax(dim=0).min.tolist()) for frame in frames[touched]}
    assert len(boxes) > 50
