"""Batches from a DataLoader, with its troubles told as what they are."""

import re
import signal
from collections.abc import Iterator, Sequence
from multiprocessing import connection
from multiprocessing.process import BaseProcess
from typing import Any

import torch
from torch.utils.data import DataLoader

from mvidx.data.errors import VideoError
from mvidx.errors import RunTrouble

_DIED = re.compile(
    r"DataLoader worker \(pid(?:\(s\))? ([\d, ]+)\) (?:is killed by signal: ([^.]+)|exited unexpectedly)"
)
_SHARED_MEMORY = re.compile(r"shared memory|bus error|No space left on device", re.IGNORECASE)


class LoaderTrouble(RunTrouble):
    """The batches have ended before their time; the message says why."""


def _explained(error: Exception, workers: Sequence[BaseProcess] = ()) -> Exception:
    """What an error of the loader with these workers means."""
    text = str(error)
    if workers and isinstance(error, (EOFError, ConnectionError, FileNotFoundError)):  # one died handing over
        ended = connection.wait([worker.sentinel for worker in workers], timeout=5)
        for worker in workers:
            if worker.sentinel in ended:
                worker.join(5)
                code = worker.exitcode or 0
                how = f"is killed by signal: {signal.Signals(-code).name}" if code < 0 else "exited unexpectedly"
                text = f"DataLoader worker (pid {worker.pid}) {how}"
    if died := _DIED.search(text):
        how = f"killed by {died[2].strip()}" if died[2] else "ended without a word, as the kernel ends who takes memory"
        more = ", shared memory may be full" if _SHARED_MEMORY.search(text) else ""
        return LoaderTrouble(
            f"a loader worker died (process {died[1].strip()}: {how}{more}); fewer DATA_LOADER.NUM_WORKERS take less "
            "memory"
        )
    if isinstance(error, VideoError) or "VideoError" in text:
        told = error if isinstance(error, VideoError) else text.strip().splitlines()[-1]
        return LoaderTrouble(f"no training video to be had: {told}")
    if isinstance(error, OSError):
        return LoaderTrouble(f"the loader can't go on: {error}")
    return error


def batches_of(loader: DataLoader) -> Iterator[Any]:
    """Iterate over a loader without touching torch's generator, raising LoaderTrouble for what is no fault of code.

    A DataLoader draws a seed for its workers whenever it starts, and would thereby change what a resumed run draws
    for dropout. It also lets the death of a worker raise wherever the main thread just is, in the middle of an
    optimizer's step; here it raises where a batch is waited for, which takes up to 5 s longer.
    """
    with torch.random.fork_rng(devices=[]):
        iterator = iter(loader)
    if getattr(loader, "num_workers", 0):
        signal_child_deaths_quietly()
    while True:
        try:
            batch = next(iterator)
        except StopIteration:
            return
        except (RuntimeError, OSError, EOFError, VideoError) as error:
            if (explained := _explained(error, getattr(iterator, "_workers", ()))) is error:
                raise
            raise explained from None
        yield batch


def signal_child_deaths_quietly() -> None:
    """Take back the handler of SIGCHLD that DataLoader has set; its queue looks after the workers too."""
    try:
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    except ValueError:
        return  # not in the main thread, where DataLoader sets none either
