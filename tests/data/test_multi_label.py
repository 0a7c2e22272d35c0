"""Videos with several labels: their lists, their targets, and what is computed from them."""

import csv

import numpy as np
import pytest
import torch
from sklearn.metrics import average_precision_score

from mvidx.data.annotations import DataError, VideoList, read_multi_label_list
from mvidx.data.batch import BatchTransform, Normalization
from mvidx.data.mix import Mix
from mvidx.engine.metrics import average_precision, topk_correct
from mvidx.engine.results import write_results
from mvidx.engine.tester import Predictions


def test_rows(tmp_path):
    file = tmp_path / "train.csv"
    file.write_text('a b.mp4 2\n\nc.mp4 0,2\nd.mp4 -\ne.mp4 ""\nf.mp4 "1,0"\n')
    videos = read_multi_label_list(file, num_classes=3)
    assert [videos.path(i) for i in range(5)] == ["a b.mp4", "c.mp4", "d.mp4", "e.mp4", "f.mp4"]
    assert videos.targets(videos.labels).tolist() == [[0, 0, 1], [1, 0, 1], [0, 0, 0], [0, 0, 0], [1, 1, 0]]
    assert videos.targets([4, 0]).tolist() == [[1, 1, 0], [0, 0, 1]]
    assert videos.where(1).endswith("train.csv, row 3")
    file.write_text("a.mp4\t0,1\nb.mp4\t1\n")
    assert read_multi_label_list(file, num_classes=2, separator=",").targets([0, 1]).tolist() == [[1, 1], [0, 1]]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a.mp4 0\nb.mp4\n", "row 2: 'b.mp4' has no label, expected 'path label,label,...'"),
        ("a.mp4 0,x\n", "row 1"),
        ("a.mp4 0,3\n", "row 1: label 3 is outside the 3 classes"),
        ("\n", "is empty"),
    ],
)
def test_bad_rows_are_named(tmp_path, text, message):
    (tmp_path / "train.csv").write_text(text)
    with pytest.raises(DataError, match=r"train\.csv") as caught:
        read_multi_label_list(tmp_path / "train.csv", num_classes=3)
    assert message in str(caught.value)


def test_average_precision_agrees_with_sklearn():
    """With ties, with a class that is never right and one that always is."""
    rng = np.random.default_rng(0)
    scores = rng.integers(0, 12, (60, 5)).astype(np.float32) / 12
    targets = (rng.random((60, 5)) < 0.3).astype(np.uint8)
    targets[:, 3], targets[:, 4] = 0, 1
    ours = average_precision(scores, targets)
    assert np.isnan(ours[3]) and ours[4] == pytest.approx(1)
    for label in (0, 1, 2):
        assert ours[label] == pytest.approx(average_precision_score(targets[:, label], scores[:, label]))
    predictions = Predictions(np.arange(60), targets, scores)
    expected = average_precision_score(targets[:, [0, 1, 2, 4]], scores[:, [0, 1, 2, 4]], average="macro")
    assert predictions.accuracy()["map"] == pytest.approx(100 * expected)


def test_any_label_is_a_hit_and_none_is_not():
    scores = torch.tensor([[0.9, 0.5, 0.1], [0.9, 0.5, 0.1], [0.9, 0.5, 0.1]])
    targets = torch.tensor([[1, 0, 1], [0, 1, 1], [0, 0, 0]])
    assert [int(n) for n in topk_correct(scores, targets, (1, 2))] == [1, 2]


def test_targets_on_their_way_to_the_loss():
    rows = np.array([[1, 0, 1], [0, 0, 0]], np.uint8)
    plain = Normalization(mean=(0,) * 3, std=(1,) * 3)
    clips, labels = torch.zeros(2, 3, 4, 4, dtype=torch.uint8), torch.tensor([1, 0])
    where = {"indices": [0, 1], "epoch": 0, "step": 0}
    _, targets = BatchTransform(plain, targets_of=lambda labels: rows[labels])(clips, labels, **where)
    assert targets.tolist() == [[0, 0, 0], [1, 0, 1]] and targets.dtype == torch.float32
    mix = Mix(3, smoothing=0.3)
    _, mixed = mix.apply(torch.zeros(2, 3, 4, 4), targets, 0.75, None)
    assert torch.allclose(mixed, torch.tensor([[0.275, 0.1, 0.275], [0.625, 0.1, 0.625]]))


def test_result_files(tmp_path):
    scores = np.array([[0.9, 0.2], [0.6, 0.7], [0.1, 0.4]], np.float32)
    predictions = Predictions(np.arange(3), np.array([[1, 0], [0, 1], [0, 0]], np.uint8), scores)
    videos = VideoList(["a.mp4", "b.mp4", "c.mp4"], [0, 1, 2])
    results = write_results(
        tmp_path, predictions, videos, class_names=["x", "y"], num_temporal_views=1, num_spatial_crops=1
    )
    assert results["map"] == 100 and results["top1"] == pytest.approx(200 / 3)
    assert np.load(tmp_path / "predictions.npz")["label"].tolist() == [[1, 0], [0, 1], [0, 0]]
    per_class = list(csv.DictReader((tmp_path / "per_class.csv").open()))
    assert [(row["num_videos"], row["average_precision"]) for row in per_class] == [("1", "100.00"), ("1", "100.00")]
    confusion = list(csv.reader((tmp_path / "confusion.csv").open()))
    assert confusion[1:] == [["x", "1", "1", "0", "1"], ["y", "1", "0", "0", "2"]]
