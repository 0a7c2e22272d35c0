import importlib.util
import json

import numpy as np
import pytest
import torch
from torchvision.transforms import v2

from mvidx.data import transforms
from tests.shared import shared_file


def shared_fill():
    spec = importlib.util.spec_from_file_location("fill", shared_file("oracles/fill.py"))
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_test_views_agree_with_the_reference():
    fill = shared_fill()
    for case in json.loads(shared_file("oracles/spatial_views.json").read_text()):
        view = transforms.test_view(
            fill.frames(2, case["H"], case["W"]),
            short_side=case["short_side"],
            crop=case["crop"],
            spatial_idx=case["spatial_idx"],
            mean=(0.45,) * 3,
            std=(0.225,) * 3,
        )
        assert view.shape == (3, 2, case["crop"], case["crop"]) and view.dtype == torch.float32
        got = view[tuple(np.array(case["points"]).T)]
        assert (got - torch.tensor(case["values"])).abs().max() < 0.02, case["H"]


def test_crops_share_a_resize_and_match_single_views():
    frames = np.random.default_rng(0).integers(0, 256, (3, 50, 80, 3), np.uint8)
    crops = transforms.test_crops(frames, short_side=40, crop=32, spatial_idx=(0, 1, 2))
    for index in range(3):
        single = transforms.test_view(frames, short_side=40, crop=32, spatial_idx=index, mean=(0,) * 3, std=(1,) * 3)
        assert torch.allclose(single * 255, crops[index].float(), atol=1e-3)


def test_portrait_crops_move_down():
    assert [transforms.crop_offset(100, 60, 50, index) for index in range(3)] == [(0, 5), (25, 5), (50, 5)]
    assert [transforms.crop_offset(60, 101, 50, index) for index in range(3)] == [(5, 0), (5, 26), (5, 51)]
    with pytest.raises(ValueError, match="does not fit"):
        transforms.crop_offset(40, 80, 50, 1)
    with pytest.raises(ValueError, match="spatial_idx=3"):
        transforms.crop_offset(80, 80, 50, 3)


def test_normalize_by_hand_and_on_batches():
    clips = torch.tensor([0, 255, 51], dtype=torch.uint8).view(1, 3, 1, 1, 1).expand(2, 3, 4, 5, 5)
    out = transforms.normalize(clips, mean=(0.0, 0.5, 0.1), std=(1.0, 0.25, 0.1))
    assert torch.allclose(out[:, :, 0, 0, 0], torch.tensor([[0.0, 2.0, 1.0]] * 2), atol=1e-5)
    images = transforms.normalize(clips[:, :, 0], mean=(0.0, 0.5, 0.1), std=(1.0, 0.25, 0.1))
    assert torch.equal(images, out[:, :, 0])


def test_one_draw_for_all_frames():
    frame = np.random.default_rng(0).integers(0, 256, (1, 40, 60, 3), np.uint8)
    still = np.repeat(frame, 6, axis=0)
    for scale in ((0.2, 1.0), ()):
        transform = transforms.TrainTransform(crop=24, scale=scale, short_sides=(26, 40))
        clip = transform(still, np.random.default_rng(3))
        assert clip.shape == (3, 6, 24, 24) and clip.is_contiguous()
        assert (clip == clip[:, :1]).all()
        assert torch.equal(clip, transform(still, np.random.default_rng(3)))
        assert not torch.equal(clip, transform(still, np.random.default_rng(4)))


def test_regions_are_distributed_as_torchvisions():
    rng = np.random.default_rng(0)
    ours = np.array(
        [transforms.random_resized_region(90, 120, scale=(0.1, 0.9), aspect=(0.5, 2), rng=rng) for _ in range(4000)]
    )
    crop = v2.RandomResizedCrop(10, scale=(0.1, 0.9), ratio=(0.5, 2))
    blank = torch.zeros(3, 90, 120)
    theirs = [crop.make_params([blank]) for _ in range(4000)]
    theirs = np.array([[p["top"], p["left"], p["height"], p["width"]] for p in theirs])
    assert np.abs(ours.mean(0) - theirs.mean(0)).max() < 2.0
    assert np.abs(ours.std(0) - theirs.std(0)).max() < 2.0


def test_flip_mirrors_half_of_the_clips():
    frames = np.zeros((1, 8, 8, 3), np.uint8)
    frames[:, :, 0] = 255
    transform = transforms.TrainTransform(crop=8, scale=(1.0, 1.0), aspect=(1.0, 1.0))
    left = [bool(transform(frames, np.random.default_rng(i))[0, 0, 0, 0] == 255) for i in range(200)]
    assert 70 < sum(left) < 130


def test_wrong_frames_are_named():
    with pytest.raises(ValueError, match=r"float32 \(2, 3, 4, 4\)"):
        transforms.as_clip(torch.zeros(2, 3, 4, 4))
