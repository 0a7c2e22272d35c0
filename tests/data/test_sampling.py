import json

import numpy as np
import pytest
import torch

from mvidx.data import sampling
from tests.shared import shared_file


def test_uniform_views_equal_the_reference():
    cases = json.loads(shared_file("oracles/clip_indices_uniform.json").read_text())
    assert cases
    for case in cases:
        got = sampling.uniform_view_indices(
            case["frames"],
            case["fps"],
            num_frames=case["num_frames"],
            sampling_rate=case["sampling_rate"],
            num_views=case["views"],
            use_offset=case["use_offset"],
        )
        assert got.dtype == np.int64
        assert got.tolist() == case["indices"], case


def test_segments_equal_the_reference():
    for case in json.loads(shared_file("oracles/clip_indices_segments.json").read_text()):
        assert sampling.segment_indices(case["frames"], case["num_frames"]).tolist() == case["indices"]


def test_spread_is_linspace_for_many_videos():
    rng = np.random.default_rng(0)
    for _ in range(3000):
        frames, count = int(rng.integers(1, 400)), int(rng.integers(1, 65))
        start, span = rng.uniform(0, frames), rng.uniform(1, frames + 50)
        expected = torch.clamp(torch.linspace(start, start + span - 1, count), 0, frames - 1).long()
        assert sampling._spread(start, span, count, frames).tolist() == expected.tolist()


def test_short_video_is_clamped():
    views = sampling.uniform_view_indices(3, 30, num_frames=8, sampling_rate=4, num_views=2)
    assert views.tolist() == [[0, 2, 2, 2, 2, 2, 2, 2]] * 2
    assert sampling.uniform_view_indices(1, 25, num_frames=4, sampling_rate=2, num_views=1).tolist() == [[0] * 4]


def test_random_clips_stay_inside_and_cover_the_video():
    rng = np.random.default_rng(0)
    clips = [sampling.random_clip_indices(100, 30, num_frames=8, sampling_rate=4, rng=rng) for _ in range(200)]
    steps = {tuple(np.diff(clip).tolist()) for clip in clips}
    assert all(set(step) <= {4, 5} for step in steps)  # spans 31 frames in 7 steps
    assert min(clip[0] for clip in clips) == 0 and max(clip[-1] for clip in clips) == 98  # of a span to 99


def test_random_segments_stay_in_their_segment():
    rng = np.random.default_rng(0)
    draws = np.stack([sampling.random_segment_indices(41, 8, rng=rng) for _ in range(300)])
    assert (draws.min(0) == np.arange(8) * 5).all() and (draws.max(0) == np.arange(1, 9) * 5).all()


def test_impossible_lengths_are_named():
    with pytest.raises(ValueError, match="num_video_frames=0"):
        sampling.uniform_view_indices(0, 30, num_frames=8, sampling_rate=4, num_views=1)
