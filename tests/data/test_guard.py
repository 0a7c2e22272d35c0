"""A decoder that hangs or crashes costs a VideoError, and nothing else."""

import multiprocessing
import os
import pickle
import signal
import subprocess
import sys
import threading
import time

import numpy as np
import pytest
import torch.utils.data

from mvidx.data import guard
from mvidx.data.errors import VideoError
from tests.data.guarded import (
    crash,
    echo,
    end_of_file,
    guarded,
    process_id,
    raise_unpicklable,
    refuse,
    sleep,
    sleep_in_c,
)


@pytest.mark.parametrize("seconds", [0, None])
def test_without_limit_the_function_is_called_here(seconds):
    assert guarded(process_id, seconds=seconds) == os.getpid()


def test_results_come_back_from_one_lasting_process():
    frames = np.random.default_rng(0).integers(0, 255, (4, 16, 20, 3), np.uint8)
    (first, name, second), empty = guarded(echo, frames, "name", frames[:, ::2]), guarded(echo)
    assert (name, empty) == ("name", ())
    np.testing.assert_array_equal(first, frames)
    np.testing.assert_array_equal(second, frames[:, ::2])
    first[:] = 0  # its own memory
    assert guarded(process_id) == guarded(process_id) != os.getpid()


@pytest.mark.parametrize("function", [sleep, sleep_in_c])
def test_what_takes_too_long_is_ended(function):
    helper = guarded(process_id)
    start = time.monotonic()
    with pytest.raises(VideoError, match=r"longer than 0\.5 s") as caught:
        guarded(function, 60, seconds=0.5)
    assert time.monotonic() - start < 5
    assert caught.value.path == "a.mp4"
    with pytest.raises(ProcessLookupError):
        os.kill(helper, 0)
    assert guarded(echo, 1) == (1,)


@pytest.mark.parametrize("number", [signal.SIGSEGV, signal.SIGKILL])
def test_a_crash_is_survived(number):
    with pytest.raises(VideoError, match=f"died of {number.name}") as caught:
        guarded(crash, number)
    assert caught.value.path == "a.mp4"
    assert guarded(echo, 1) == (1,)


def test_helper_that_died_between_calls_is_replaced():
    os.kill(guarded(process_id), signal.SIGKILL)
    time.sleep(0.2)
    assert guarded(echo, 1) == (1,)


def test_exceptions_come_back():
    with pytest.raises(VideoError, match="it is not good") as caught:
        guarded(refuse, "b.mp4")
    assert caught.value.path == "b.mp4"
    with pytest.raises(RuntimeError, match="secret"):
        guarded(raise_unpicklable)
    with pytest.raises(EOFError, match="of the function"):
        guarded(end_of_file)
    helper = guarded(process_id)
    with pytest.raises((AttributeError, pickle.PicklingError)):
        guarded(lambda: 1)
    assert guarded(process_id) not in (helper, os.getpid())


def test_where_nothing_can_be_forked_a_fresh_interpreter_helps(monkeypatch):
    monkeypatch.setattr(guard.sys, "platform", "darwin")
    found = []

    def use():
        found.append((guarded(process_id), guarded(echo, np.arange(3))[0].tolist()))
        with pytest.raises(VideoError, match=r"longer than 0\.5 s"):
            guarded(sleep_in_c, 60, seconds=0.5)
        found.append((guarded(process_id), guarded(echo, 1)))

    thread = threading.Thread(target=use)  # which has no helper yet
    thread.start()
    thread.join()
    (first, numbers), (second, again) = found
    assert first != second and numbers == [0, 1, 2] and again == (1,)


def test_each_thread_has_a_helper():
    found = []
    threads = [threading.Thread(target=lambda: found.append(guarded(process_id))) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len({*found, guarded(process_id)}) == 3


class GuardedItems(torch.utils.data.Dataset):
    def __len__(self):
        return 4

    def __getitem__(self, item):
        try:
            return guarded(sleep_in_c, 60, seconds=0.5) if item == 2 else guarded(process_id)
        except VideoError as error:
            return error.reason


def test_workers_of_a_loader_have_helpers_of_their_own():
    own = guarded(process_id)  # which workers must not talk to
    items = list(torch.utils.data.DataLoader(GuardedItems(), batch_size=None, num_workers=2))
    assert items[2] == "decoding took longer than 0.5 s"
    assert items[0] != items[1] == items[3]
    assert own == guarded(process_id) not in items


def exists(process):
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    with open(f"/proc/{process}/stat") as file:
        return file.read().split()[2] != "Z"


@pytest.mark.parametrize("end", ["sys.exit()", "os._exit(0)", "os.kill(os.getpid(), 9)"])
def test_helper_ends_with_its_parent(end):
    code = f"import os, sys; from tests.data.guarded import *; print(guarded(process_id), flush=True); {end}"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    helper = int(done.stdout)
    deadline = time.monotonic() + 10
    while exists(helper) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert not exists(helper)


def hang_in_helper(pipe):
    pipe.send(guarded(process_id))
    guarded(sleep_in_c, 60, seconds=1)


def test_helper_that_hangs_ends_after_its_parent():
    ours, theirs = multiprocessing.Pipe()
    parent = multiprocessing.get_context("fork").Process(target=hang_in_helper, args=(theirs,), daemon=True)
    parent.start()
    helper = ours.recv()
    time.sleep(0.3)
    parent.kill()
    parent.join()
    deadline = time.monotonic() + 15
    while exists(helper) and time.monotonic() < deadline:
        time.sleep(0.1)
    assert not exists(helper)
