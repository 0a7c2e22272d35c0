"""Signals that ask for the end of a run, and evaluations that hear them."""

import os
import signal

import pytest
import torch

from mvidx.data.datasets import Sample
from mvidx.engine.stop import Stopped, StopRequest
from mvidx.engine.tester import evaluate


def test_signals_are_heard_and_handlers_come_back():
    before = signal.getsignal(signal.SIGUSR1)
    with StopRequest().listening() as stop:
        assert not stop
        os.kill(os.getpid(), signal.SIGUSR1)
        os.kill(os.getpid(), signal.SIGTERM)
        assert stop and stop.signum == signal.SIGUSR1  # the first
    assert signal.getsignal(signal.SIGUSR1) == before


def test_an_evaluation_stops_between_two_batches():
    stop, seen = StopRequest(), []

    def samples():
        for index in range(3):
            seen.append(index)
            if index == 1:
                stop.ask(signal.SIGTERM)
            yield [Sample(torch.zeros(1, 3, 2, 2, dtype=torch.uint8), 0, index)]

    model = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(12, 2))
    with pytest.raises(Stopped):
        evaluate(
            model, samples(), num_classes=2, prepare=lambda clips, out: clips.float(), device=torch.device("cpu"),
            views_per_batch=1, stop=stop,
        )  # fmt: skip
    assert seen == [0, 1] and model.training
