import csv
import json

import numpy as np
import pytest

from mvidx.data.annotations import VideoList
from mvidx.engine.results import write_results
from mvidx.engine.tester import Predictions


@pytest.fixture
def predictions():
    scores = np.array([[0.6, 0.3, 0.1], [0.2, 0.5, 0.3], [0.7, 0.2, 0.1]], np.float32)
    return Predictions(np.array([0, 2, 3]), np.array([0, 1, 2]), scores, {1: ("b.mp4", "cut short")})


def test_files_by_hand(tmp_path, predictions):
    videos = VideoList(["a.mp4", "b.mp4", "c.mp4", "d.mp4"], [0, 0, 1, 2], source="test.csv")
    written = write_results(
        tmp_path, predictions, videos, class_names=["x", "y", "z"], num_temporal_views=5, num_spatial_crops=3
    )
    results = json.loads((tmp_path / "results.json").read_text())
    assert results == written
    assert results["top1"] == pytest.approx(200 / 3) and results["top5"] == 100
    assert (results["num_videos"], results["num_failed"], results["views"]) == (4, 1, 15)
    assert results["failures"] == [{"row": "test.csv, row 2", "path": "b.mp4", "reason": "cut short"}]

    arrays = np.load(tmp_path / "predictions.npz")
    assert arrays["id"].tolist() == ["a.mp4", "c.mp4", "d.mp4"] and arrays["label"].tolist() == [0, 1, 2]
    assert np.array_equal(arrays["scores"], predictions.scores)

    per_class = list(csv.DictReader((tmp_path / "per_class.csv").open()))
    assert [(row["name"], row["num_videos"], row["top1"]) for row in per_class] == [
        ("x", "1", "100.00"), ("y", "1", "100.00"), ("z", "1", "0.00"),
    ]  # fmt: skip
    confusion = list(csv.reader((tmp_path / "confusion.csv").open()))
    assert confusion[0][1:] == ["x", "y", "z"]
    assert [row[1:] for row in confusion[1:]] == [["1", "0", "0"], ["0", "1", "0"], ["1", "0", "0"]]
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        "confusion.csv", "per_class.csv", "predictions.npz", "results.json",
    ]  # fmt: skip


def test_decoders_are_counted_and_stand_beside_their_videos(tmp_path, predictions):
    predictions.decoders = np.array(["decord", "pyav", "decord"])
    videos = VideoList(["a.mp4", "b.mp4", "c.mp4", "d.mp4"], [0, 0, 1, 2], source="test.csv")
    written = write_results(
        tmp_path, predictions, videos, class_names=["x", "y", "z"], num_temporal_views=1, num_spatial_crops=1
    )
    assert written["decoders"] == {"decord": 2, "pyav": 1}
    assert np.load(tmp_path / "predictions.npz")["decoder"].tolist() == ["decord", "pyav", "decord"]


def test_nothing_readable():
    empty = Predictions(np.zeros(0, np.int64), np.zeros(0, np.int64), np.zeros((0, 3), np.float32))
    assert empty.accuracy() == {"top1": 0.0, "top5": 0.0}
