"""How views become the scores of a video."""

import pytest
import torch

from mvidx.data.batch import Normalization
from mvidx.data.datasets import Views
from mvidx.engine.tester import ViewBatches, join_views

LOGITS = torch.tensor([[4.0, 0.0, 0.0], [0.0, 1.5, 0.0], [0.0, 1.5, 0.0]])


@pytest.mark.parametrize(
    ("activation", "ensemble", "expected"),
    [
        ("softmax", "sum", LOGITS.softmax(1).mean(0)),
        ("softmax", "max", LOGITS.softmax(1).max(0).values),
        ("sigmoid", "sum", LOGITS.sigmoid().mean(0)),
        ("none", "sum", LOGITS.mean(0).softmax(0)),
        ("none", "max", LOGITS.max(0).values.softmax(0)),
    ],
)
def test_views_are_joined(activation, ensemble, expected):
    assert torch.allclose(join_views(LOGITS, activation=activation, ensemble=ensemble), expected)


def test_the_ways_differ():
    assert join_views(LOGITS).argmax() == 1 and join_views(LOGITS, activation="none").argmax() == 0


def test_batches_of_views_in_memory_that_is_used_again():
    frames = torch.randint(0, 256, (9, 40, 50, 3), dtype=torch.uint8)
    rows = torch.tensor([[0, 2, 4], [3, 5, 8]])
    views = Views.of(frames, rows, [(3, 0), (3, 9), (3, 18)], crop=32)
    batch_of = ViewBatches(Normalization((0.45, 0.4, 0.5), (0.225, 0.2, 0.3), reverse=True), torch.device("cpu"))
    image = torch.randint(0, 256, (1, 3, 3, 32, 32), dtype=torch.uint8)
    for wanted in ([(views, 0), (views, 5), (image, 0)], [(views, 4)], [(views, n) for n in range(6)]):
        expected = []
        for clips, number in wanted:
            if clips is views:
                time, crop = divmod(number, 3)
                left = 9 * crop
                clip = frames[rows[time], 3:35, left : left + 32].permute(3, 0, 1, 2)
            else:
                clip = image[0]
            scaled = clip.float() / 255 - torch.tensor([0.45, 0.4, 0.5]).view(3, 1, 1, 1)
            expected.append((scaled / torch.tensor([0.225, 0.2, 0.3]).view(3, 1, 1, 1)).flip(0))
        torch.testing.assert_close(batch_of(wanted), torch.stack(expected))
