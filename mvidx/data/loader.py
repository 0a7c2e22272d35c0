"""Batches: an order of videos that depends on seed and epoch alone, and the loaders over it."""

import contextlib
import ctypes
import functools
import itertools
import os
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, Sampler, default_collate, get_worker_info

from mvidx.data.datasets import Sample


class EpochBatches(Sampler[list[tuple[int, int]]]):
    """Batches of (epoch, index) for one process, resumable in the middle of an epoch.

    The videos of an epoch are shuffled by (seed, epoch) and cut into global batches; of each, process
    `rank` takes its slice. What is left over at the end of an epoch is dropped.

    Args:
        num_items: videos.
        batch_size: videos a process takes in a step.
        seed: of the order.
        rank, world_size: this process, and how many there are.
        accumulate: batches that make a step.

    Attributes:
        epoch: the epoch that the next iteration runs through.
        start_step: the step it starts at; 0 but for a resumed epoch.
    """

    def __init__(
        self,
        num_items: int,
        *,
        batch_size: int,
        seed: int = 0,
        rank: int = 0,
        world_size: int = 1,
        accumulate: int = 1,
    ):
        self.num_items = num_items
        self.batch_size = batch_size
        self.seed = seed
        self.rank = rank
        self.world_size = world_size
        self.accumulate = accumulate
        self.epoch = 0
        self.start_step = 0
        if len(self) == 0:
            times = f" x {accumulate} batches a step" if accumulate > 1 else ""
            raise ValueError(
                f"a batch of {batch_size} x {world_size} processes{times} is larger than the {num_items} training "
                "videos"
            )

    def __len__(self) -> int:
        """Steps of a whole epoch."""
        return self.num_items // (self.batch_size * self.world_size * self.accumulate)

    def set_position(self, epoch: int, step: int = 0) -> None:
        """Let the next iteration run through `epoch` from `step` on."""
        self.epoch, self.start_step = epoch, step

    def __iter__(self) -> Iterator[list[tuple[int, int]]]:
        epoch, start = self.epoch, self.start_step
        order = np.random.default_rng((self.seed, epoch)).permutation(self.num_items)
        for batch in range(start * self.accumulate, len(self) * self.accumulate):
            first = (batch * self.world_size + self.rank) * self.batch_size
            yield [(epoch, int(index)) for index in order[first : first + self.batch_size]]


class RankShare(Sampler[int]):
    """Every `world_size`-th index: each item goes to exactly one process, whatever divides."""

    def __init__(self, num_items: int, *, rank: int = 0, world_size: int = 1):
        self.indices = range(rank, num_items, world_size)

    def __len__(self) -> int:
        return len(self.indices)

    def __iter__(self) -> Iterator[int]:
        return iter(self.indices)


@dataclass
class Batch:
    """What a training step takes.

    Attributes:
        clips: uint8 (B, 3, [T,] H, W).
        labels: int64 (B,).
        indices: video of each clip, a list of B.
        failures: (path, reason) of videos that could not be read and were replaced.
    """

    clips: Tensor
    labels: Tensor
    indices: list[int]
    failures: list[tuple[str, str]]

    def pin_memory(self) -> "Batch":
        """Called by DataLoader with pin_memory."""
        self.clips, self.labels = self.clips.pin_memory(), self.labels.pin_memory()
        return self


_TRIM_EVERY = 8  # batches of a worker
_batches_made = itertools.count(1)


@functools.cache
def _malloc_trim() -> Callable[[int], int] | None:
    """glibc's function that gives freed memory back to the system; None in other C libraries."""
    with contextlib.suppress(AttributeError, OSError):
        return ctypes.CDLL(None).malloc_trim
    return None


def give_back_memory() -> None:
    """Every few batches, give the system the holes in this worker's heap.

    Arrays of many sizes leave holes that the heap keeps: up to a quarter more memory after some hundred clips.
    """
    if get_worker_info() is not None and next(_batches_made) % _TRIM_EVERY == 0 and (trim := _malloc_trim()):
        trim(0)


def collate(samples: list[Sample]) -> Batch:
    """Join training samples; the clips of repeated augmentation stand side by side.

    In a worker the batch is made in the shared memory that takes it to the main process (`default_collate` does).
    Joined elsewhere and copied there, every batch left a hole in the worker's heap, which grew without end.
    """
    give_back_memory()
    counts = [len(sample.clips) for sample in samples]
    return Batch(
        default_collate([clip for sample in samples for clip in sample.clips]),
        torch.tensor([sample.label for sample, n in zip(samples, counts, strict=True) for _ in range(n)]),
        [sample.index for sample, n in zip(samples, counts, strict=True) for _ in range(n)],
        [failure for sample in samples for failure in sample.failures],
    )


def collate_test(samples: list[Sample]) -> list[Sample]:
    """Test samples as they are: their views are batched on the device."""
    give_back_memory()
    return samples


def start_worker(worker_id: int) -> None:
    """One thread a worker: the workers are the parallelism. One whose process was killed ends without a traceback."""
    import cv2

    torch.set_num_threads(1)
    cv2.setNumThreads(0)
    sys.excepthook = functools.partial(_report_unless_orphan, sys.excepthook, os.getppid())


def _report_unless_orphan(report: Callable, parent: int, *error) -> None:
    """sys.excepthook of a worker: a batch half handed over to a process that is gone is no news."""
    for _ in range(20):  # its connections end a moment before the process itself does
        if os.getppid() != parent:
            return
        time.sleep(0.05)
    report(*error)


def train_loader(
    dataset: Dataset, batches: EpochBatches, *, num_workers: int, pin_memory: bool = False, prefetch: int = 2
) -> DataLoader:
    """Loader of `Batch`es in the order of `batches`; its workers live through all epochs."""
    return DataLoader(
        dataset,
        batch_sampler=batches,
        collate_fn=collate,
        num_workers=num_workers,
        pin_memory=pin_memory,
        worker_init_fn=start_worker,
        persistent_workers=num_workers > 0,
        prefetch_factor=prefetch if num_workers else None,
    )


def test_loader(
    dataset: Dataset, *, videos_per_batch: int, num_workers: int, rank: int = 0, world_size: int = 1
) -> DataLoader:
    """Loader of lists of test `Sample`s: this process's share, in order."""
    return DataLoader(
        dataset,
        batch_size=videos_per_batch,
        sampler=RankShare(len(dataset), rank=rank, world_size=world_size),
        collate_fn=collate_test,
        num_workers=num_workers,
        worker_init_fn=start_worker,
        persistent_workers=num_workers > 0,
    )


test_loader.__test__ = False  # not a pytest test
