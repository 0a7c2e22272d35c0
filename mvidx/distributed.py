"""The processes of a job: one initialisation driven by the environment, and exact sums and gathers.

torchrun, srun and the launchers of `mvidx.launch` tell each process its place through RANK, WORLD_SIZE,
LOCAL_RANK, LOCAL_WORLD_SIZE, MASTER_ADDR and MASTER_PORT (srun: SLURM_PROCID and its like). Without them
there is one process and nothing to initialise.
"""

import os
import re
import socket
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, Protocol

import torch
import torch.distributed as dist

from mvidx.errors import RunTrouble


@dataclass(frozen=True)
class Place:
    """Where a process stands in its job: ranks among all, and among those of its node."""

    rank: int = 0
    world_size: int = 1
    local_rank: int = 0
    local_world_size: int = 1


def place_from_environment() -> Place:
    """This process's place, as torchrun or srun put it into the environment."""
    env = os.environ
    if "RANK" in env and "WORLD_SIZE" in env:
        world_size = int(env["WORLD_SIZE"])
        return Place(
            int(env["RANK"]),
            world_size,
            int(env.get("LOCAL_RANK", 0)),
            int(env.get("LOCAL_WORLD_SIZE", world_size)),
        )
    # A step that srun started has SLURM_STEP_NUM_TASKS; a plain shell inside an allocation has one task.
    if int(env.get("SLURM_STEP_NUM_TASKS", env.get("SLURM_NTASKS", 1))) > 1 and "SLURM_PROCID" in env:
        world_size = int(env.get("SLURM_STEP_NUM_TASKS", env.get("SLURM_NTASKS", 1)))
        nodes = int(env.get("SLURM_STEP_NUM_NODES", env.get("SLURM_NNODES", 1)))
        return Place(
            int(env["SLURM_PROCID"]),
            world_size,
            int(env.get("SLURM_LOCALID", 0)),
            world_size // nodes,
        )
    return Place()


class PeerLost(RunTrouble):
    """Another process of the job has ended or no longer answers; the message names it."""


@dataclass
class _Job:
    """What this process holds of a job of several processes.

    Attributes:
        control: gloo group of all processes, for small values that live on the CPU.
        store: this process's connection to the job's key-value store, for the watch alone.
        watch: the thread over the other processes.
    """

    control: Any
    store: dist.Store
    watch: "Watch | None" = None


_job: _Job | None = None  # as torch's own default group: a process is in one job at most


def first_slurm_node() -> str:
    """Name of the first node of the SLURM job that this process is in."""
    from submitit.slurm.slurm import SlurmJobEnvironment

    return SlurmJobEnvironment().hostnames[0]


def _meeting_point() -> dict[str, str]:
    """MASTER_ADDR and MASTER_PORT, where nobody has set them: under srun those of the job's first node."""
    if "SLURM_JOB_ID" not in os.environ:
        return {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "29500"}
    nodes = int(os.environ.get("SLURM_STEP_NUM_NODES", os.environ.get("SLURM_NNODES", 1)))
    port = 20000 + int(os.environ["SLURM_JOB_ID"]) % 20000  # two jobs on a node must not meet
    return {"MASTER_ADDR": first_slurm_node() if nodes > 1 else "127.0.0.1", "MASTER_PORT": str(port)}


def initialize(device: torch.device, *, timeout_seconds: float = 600) -> Place:
    """Join the job that the environment describes, if it has more than one process. Returns this one's place.

    Raises:
        RunTrouble: the other processes do not turn up within the time.
    """
    global _job
    place = place_from_environment()
    if place.world_size > 1 and not dist.is_initialized():
        os.environ.setdefault("RANK", str(place.rank))
        os.environ.setdefault("WORLD_SIZE", str(place.world_size))
        for name, value in _meeting_point().items():
            os.environ.setdefault(name, value)
        timeout = timedelta(seconds=timeout_seconds)
        try:
            store, _, _ = next(dist.rendezvous("env://", timeout=timeout))
            dist.init_process_group(
                "nccl" if device.type == "cuda" else "gloo",
                store=dist.PrefixStore("mvidx", store),
                rank=place.rank,
                world_size=place.world_size,
                timeout=timeout,
                device_id=device if device.type == "cuda" else None,
            )
            control = dist.group.WORLD if device.type == "cpu" else dist.new_group(backend="gloo", timeout=timeout)
        except (RuntimeError, ValueError, OSError) as error:
            raise RunTrouble(
                f"process {place.rank} of {place.world_size} on {socket.gethostname()} did not find the others at "
                f"{os.environ['MASTER_ADDR']}:{os.environ['MASTER_PORT']}: {' '.join(str(error).split())[:200]}"
            ) from None
        # the watch needs a connection of its own: one that waits for a key is not to be had by others
        _job = _Job(control, dist.PrefixStore("mvidx-watch", store.clone() if hasattr(store, "clone") else store))
    return place


def shutdown(*, failed: bool = False) -> None:
    """Leave the job, together with the others unless this process has `failed`."""
    global _job
    if not failed:
        barrier()  # process 0 keeps the store: it must not go first
    if _job is not None and _job.watch is not None:
        _job.watch.end()
    _job = None
    if dist.is_initialized() and not failed:  # there may be nobody to take leave of
        dist.destroy_process_group()


class Stop(Protocol):
    """Whether somebody asked for the end of the run: `mvidx.engine.stop.StopRequest`."""

    signum: int

    def ask(self, signum: int) -> None:
        """Ask for it."""


class Watch(threading.Thread):
    """Looks after the other processes while a job runs, so that none waits for one that is gone.

    Every process says in the job's store that it lives. Process 0 looks for all others, these for process 0. Who
    fails leaves a word; who falls silent is named by who finds out. The main thread most often notices by a broken
    connection and asks `reason`; if it hangs (NCCL does) this thread ends the process.

    Args:
        store: a connection of its own.
        place: of this process.
        tell: prints the one line of a process that this thread has to end.
        stop: this process's wish to end, which is told to the others, as theirs is to it.

    Attributes:
        lost: what happened to the job; empty while nothing has.
    """

    SILENT_SECONDS = 30.0
    SUSPECT_SECONDS = 6.0  # once a connection is broken
    PERIOD_SECONDS = 1.0
    GRACE_SECONDS = 10.0

    def __init__(self, store: dist.Store, place: Place, *, tell: Callable[[str], None], stop: Stop):
        super().__init__(name="watch", daemon=True)
        self.store = store
        self.place = place
        self.tell = tell
        self.stop = stop
        self.lost = ""
        self.silent_seconds = self.SILENT_SECONDS
        self._found = threading.Event()
        self._over = threading.Event()
        self._lock = threading.Lock()  # of the store's connection
        self._beats: dict[int, tuple[bytes, float]] = {}

    def run(self) -> None:
        count = 0
        while not self._over.wait(self.PERIOD_SECONDS if count else 0):
            count += 1
            try:
                with self._lock:
                    self.store.set(f"beat/{self.place.rank}", str(count))
                    found = self._look()
            except RuntimeError:  # the store is gone, with the process that keeps it
                found = "" if self._over.is_set() else f"lost process 0 of {self.place.world_size}: it has ended"
            if found:
                self._end_job(found)
                return

    def _look(self) -> str:
        """What happened to the job, as far as the store tells."""
        if self.store.check(["ended"]):
            word = self.store.get("ended").decode()
            self.store.set(f"heard/{self.place.rank}", "1")
            return word
        if self.stop.signum:
            self.store.set("stop", str(self.stop.signum))
        elif self.store.check(["stop"]):
            self.stop.ask(int(self.store.get("stop")))
        now = time.monotonic()
        for rank in range(1, self.place.world_size) if self.place.rank == 0 else (0,):
            beat = self.store.get(f"beat/{rank}") if self.store.check([f"beat/{rank}"]) else b""
            seen, since = self._beats.get(rank, (None, now))
            self._beats[rank] = (beat, since if beat == seen else now)
            if beat == seen and now - since > self.silent_seconds:
                word = (
                    f"lost process {rank} of {self.place.world_size}: it has not answered for "
                    f"{self.silent_seconds:g} s (killed, or its machine is gone)"
                )
                self.store.compare_set("ended", "", word)
                return word
        return ""

    def _end_job(self, found: str) -> None:
        self.lost = found
        self._found.set()
        if not self._over.wait(self.GRACE_SECONDS):
            self.tell(found)
            os._exit(RunTrouble.status)

    def reason(self) -> str:
        """What happened to the job; waits for it to be found out. Empty when the others seem well."""
        self.silent_seconds = self.SUSPECT_SECONDS
        self._found.wait(self.SILENT_SECONDS + 5)
        return self.lost

    def leave_word(self, message: str) -> None:
        """Tell the other processes why this one ends, and see that they have heard before it does."""
        if self.lost:
            return
        try:
            with self._lock:
                self.store.compare_set("ended", "", message)
                heard = [f"heard/{rank}" for rank in range(self.place.world_size) if rank != self.place.rank]
            until = time.monotonic() + 5 * self.PERIOD_SECONDS
            while time.monotonic() < until:
                with self._lock:
                    if self.store.check(heard):
                        return
                time.sleep(0.1)
        except RuntimeError:
            return  # nobody is there to hear it

    def end(self) -> None:
        """Stop watching."""
        self._over.set()
        if self.is_alive() and threading.current_thread() is not self:
            self.join(timeout=5)


def watch(*, tell: Callable[[str], None], stop: Stop) -> None:
    """Start to look after the other processes of the job; see `Watch`."""
    if _job is not None and _job.watch is None:
        _job.watch = Watch(_job.store, place_from_environment(), tell=tell, stop=stop)
        _job.watch.start()


_CONNECTION = re.compile(r"gloo|nccl|connection (closed|reset|refused)|broken pipe|socket", re.IGNORECASE)


def explain(error: BaseException) -> BaseException:
    """The error that a job of several processes should end with: `PeerLost` where `error` comes from a lost one.

    Tells the others too, when it is this process that fails.
    """
    if _job is None or _job.watch is None:
        return error
    broken = isinstance(error, dist.DistError) or (isinstance(error, RuntimeError) and _CONNECTION.search(str(error)))
    if broken and (reason := _job.watch.reason()):
        return PeerLost(reason)
    first = (str(error).strip() or type(error).__name__).splitlines()[0][:500]
    rank, count = dist.get_rank(), dist.get_world_size()
    _job.watch.leave_word(f"process {rank} of {count} has ended: {first}")
    return error


def last_word() -> str:
    """What a process that has ended said of it, waited for; empty when none has."""
    return _job.watch.reason() if _job is not None and _job.watch is not None else ""


def agree(*values: int) -> list[int]:
    """The largest of each small number over all processes, by way of the CPU."""
    if _job is None:
        return list(values)
    largest = torch.tensor(values, dtype=torch.int64)
    dist.all_reduce(largest, dist.ReduceOp.MAX, group=_job.control)
    return largest.tolist()


def rank() -> int:
    """This process's number, from 0."""
    return dist.get_rank() if dist.is_initialized() else 0


def world_size() -> int:
    """Number of processes."""
    return dist.get_world_size() if dist.is_initialized() else 1


def is_main() -> bool:
    """Whether this is rank 0, which writes files and talks."""
    return not dist.is_initialized() or dist.get_rank() == 0


def barrier() -> None:
    """Wait for all processes."""
    if dist.is_initialized():
        dist.barrier(group=None if _job is None else _job.control)


def all_sum(values: torch.Tensor) -> torch.Tensor:
    """Sum of a tensor over all processes, on every one of them."""
    if dist.is_initialized():
        values = values.clone()
        dist.all_reduce(values)
    return values


def gather(value: Any) -> list[Any]:
    """A picklable value of every process, in the order of their ranks, on every one of them."""
    if not dist.is_initialized():
        return [value]
    values = [None] * dist.get_world_size()
    dist.all_gather_object(values, value, group=None if _job is None else _job.control)
    return values
