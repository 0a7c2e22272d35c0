"""Troubles of a loader are told as what they are."""

import multiprocessing
import os
import signal
import time

import pytest

from mvidx.engine.loading import LoaderTrouble, batches_of


class EndsIn:
    """A loader whose only worker is killed while it hands a batch over: what is read is an end of file."""

    num_workers = 0

    def __init__(self, error):
        self.error = error

    def __iter__(self):
        worker = multiprocessing.get_context("fork").Process(target=time.sleep, args=(60,), daemon=True)
        worker.start()
        self._workers = [worker]
        self.pid = worker.pid
        return self

    def __next__(self):
        os.kill(self.pid, signal.SIGKILL)
        raise self.error


@pytest.mark.parametrize("error", [EOFError(), ConnectionResetError(104, "reset"), FileNotFoundError(2, "gone")])
def test_a_worker_that_dies_while_it_hands_a_batch_over_is_named(error):
    loader = EndsIn(error)
    with pytest.raises(LoaderTrouble, match="a loader worker died") as caught:
        next(batches_of(loader))
    assert f"process {loader.pid}: killed by SIGKILL" in str(caught.value)


def test_other_errors_of_files_are_told():
    with pytest.raises(LoaderTrouble, match=r"can't go on: .*disk on fire"):
        next(batches_of(OnFire()))


class OnFire:
    def __iter__(self):
        return self

    def __next__(self):
        raise OSError(5, "disk on fire")
