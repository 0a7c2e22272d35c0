"""How views become the scores of a video."""

import pytest
import torch

from mvidx.engine.tester import join_views

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
