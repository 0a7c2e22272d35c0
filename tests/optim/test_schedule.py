import math

import pytest

from mvidx.optim.schedule import Schedule


def test_cosine_after_warmup_by_hand():
    schedule = Schedule("cosine", base_lr=1.0, end_lr=0.1, max_epochs=10, warmup_epochs=2, warmup_start_lr=0.2,
                        cosine_after_warmup=True)  # fmt: skip
    assert schedule.lr(0) == pytest.approx(0.2)
    assert schedule.lr(1) == pytest.approx(0.6)
    assert schedule.lr(2) == pytest.approx(1.0)
    assert schedule.lr(6) == pytest.approx(0.55)  # half way down
    assert schedule.lr(10) == pytest.approx(0.1)


def test_cosine_from_the_start_meets_its_warmup():
    schedule = Schedule("cosine", base_lr=1.0, max_epochs=8, warmup_epochs=2, warmup_start_lr=0.0)
    at_end = (math.cos(math.pi * 2 / 8) + 1) / 2
    assert schedule.lr(1) == pytest.approx(at_end / 2)
    assert schedule.lr(2) == pytest.approx(at_end)


def test_steps():
    schedule = Schedule("steps", base_lr=2.0, max_epochs=9, steps=(0, 3, 6), step_factors=(1, 0.1, 0.01))
    assert [schedule.lr(epoch) for epoch in (0, 2.9, 3, 6.5)] == pytest.approx([2, 2, 0.2, 0.02])


@pytest.mark.parametrize(
    ("arguments", "match"),
    [
        ({"policy": "line"}, "'line'"),
        ({"policy": "steps"}, "expected as many"),
        ({"policy": "cosine", "cosine_after_warmup": True, "warmup_epochs": 5}, "warmup_epochs=5"),
    ],
)
def test_mistakes(arguments, match):
    with pytest.raises(ValueError, match=match):
        Schedule(base_lr=1.0, max_epochs=5, **arguments)
