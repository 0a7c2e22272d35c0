"""What every benchmark needs: alternating timing, peak memory of a function, the machine, tables and JSON."""

import gc
import json
import multiprocessing
import os
import platform
import re
import statistics
import sys
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, is_dataclass
from importlib import metadata
from pathlib import Path
from typing import Any

import torch

from mvidx.checkpoint.paths import write_text
from mvidx.errors import UserError

LIBRARIES = ("torch", "torchvision", "timm", "pytorchvideo", "decord", "av", "numpy")


@dataclass(frozen=True)
class Timing:
    """Times of one side of a comparison.

    Attributes:
        seconds: one entry a round, in the order in which they were taken.
        median, low, high: median and quartiles of `seconds`.
    """

    seconds: tuple[float, ...]
    median: float
    low: float
    high: float

    @classmethod
    def of(cls, seconds: Sequence[float]) -> "Timing":
        """Timing of these seconds, at least one."""
        low, median, high = quartiles(seconds)
        return cls(tuple(seconds), median, low, high)

    def __str__(self) -> str:
        return f"{duration(self.median)} ({duration(self.low)} to {duration(self.high)})"


def quartiles(values: Sequence[float]) -> tuple[float, float, float]:
    """First quartile, median and third quartile."""
    if len(values) == 1:
        return (values[0],) * 3
    low, median, high = statistics.quantiles(values, n=4, method="inclusive")
    return low, median, high


def duration(seconds: float) -> str:
    """Seconds in the unit that suits them: '1.23 s', '45.6 ms'."""
    return f"{seconds:.3g} s" if seconds >= 1 else f"{seconds * 1e3:.3g} ms"


def _synchronise(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def time_once(function: Callable[[], object], device: torch.device | str = "cpu") -> float:
    """Seconds of one call; on a GPU, by its own events around what the call queued."""
    device = torch.device(device)
    if device.type == "cuda":
        start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        _synchronise(device)
        start.record()
        function()
        end.record()
        _synchronise(device)
        return start.elapsed_time(end) / 1e3
    start = time.perf_counter()
    function()
    return time.perf_counter() - start


def time_alternately(
    sides: Mapping[str, Callable[[], object]],
    *,
    rounds: int = 10,
    warmup: int = 2,
    seconds: float = 0.0,
    device: torch.device | str = "cpu",
) -> dict[str, Timing]:
    """Time several functions in turn: A, B, B, A, A, B, ... so that a machine that slows down slows all of them.

    Args:
        sides: functions by name.
        rounds: calls of each that count.
        warmup: calls of each before, that do not.
        seconds: go on beyond `rounds` until this much time has passed, at most 20 times as many rounds.
        device: where the functions compute.
    """
    taken: dict[str, list[float]] = {name: [] for name in sides}
    for function in sides.values():
        for _ in range(warmup):
            function()
    order = list(sides)
    collects = gc.isenabled()
    gc.collect()
    gc.disable()  # a collection of Python's would fall into whichever side is running
    try:
        start, done = time.perf_counter(), 0
        while done < rounds or (time.perf_counter() - start < seconds and done < 20 * rounds):
            for name in order:
                taken[name].append(time_once(sides[name], device))
            order.reverse()
            done += 1
    finally:
        if collects:
            gc.enable()
    return {name: Timing.of(values) for name, values in taken.items()}


@dataclass(frozen=True)
class Ratio:
    """How often one time goes into another; above 1 ours is faster.

    Attributes:
        median: median of theirs over median of ours.
        low, high: quartiles of the ratios of single rounds.
    """

    median: float
    low: float
    high: float

    def __str__(self) -> str:
        return f"{self.median:.2f} ({self.low:.2f} to {self.high:.2f})"


def ratio(theirs: Timing, ours: Timing) -> Ratio:
    """Theirs over ours."""
    low, _, high = quartiles([t / o for t, o in zip(theirs.seconds, ours.seconds, strict=True)])
    return Ratio(theirs.median / ours.median, low, high)


def straight_line(x: Sequence[float], y: Sequence[float]) -> tuple[float, float]:
    """Slope and intercept of the least-squares line."""
    fitted = statistics.linear_regression(x, y) if len(x) > 1 else (0.0, y[0])
    return fitted[0], fitted[1]


def _status_kilobytes(field: str) -> int | None:
    """A number of /proc/self/status in kB; None where there is no such file."""
    try:
        found = re.search(rf"^{field}:\s+(\d+) kB", Path("/proc/self/status").read_text(), re.MULTILINE)
    except OSError:
        return None
    return int(found[1]) if found else None


def _restart_peak() -> bool:
    """Let the peak of this process's resident memory start anew at what it is now; False where Linux can't."""
    try:
        Path("/proc/self/clear_refs").write_text("5")
    except OSError:
        return False
    return True


def _peak_in_child(connection, make: Callable, arguments: tuple, calls: int, device_name: str, threads: int) -> None:
    """Body of the process of `peak_memory`; sends a number of bytes, or an exception."""
    try:
        torch.set_num_threads(threads)
        device = torch.device(device_name)
        function = make(*arguments)
        gc.collect()
        if device.type == "cuda":
            _synchronise(device)
            torch.cuda.empty_cache()
            torch.cuda.reset_peak_memory_stats(device)
            baseline = torch.cuda.memory_allocated(device)
        elif not _restart_peak() or (baseline := _status_kilobytes("VmHWM")) is None:
            raise UserError("peak memory on a CPU is read from /proc/self/status, which needs Linux")
        else:
            files = _status_kilobytes("RssFile")
        for _ in range(calls):
            function()
        if device.type == "cuda":
            _synchronise(device)
            connection.send(torch.cuda.max_memory_allocated(device) - baseline)
        else:
            code = _status_kilobytes("RssFile") - files  # of libraries, read in by the first call
            connection.send(1024 * (_status_kilobytes("VmHWM") - baseline - code))
    except Exception as error:
        connection.send(error if isinstance(error, UserError) else RuntimeError(f"{type(error).__name__}: {error}"))


def peak_memory(make: Callable[..., Callable[[], object]], *arguments, calls: int = 2, device: str = "cpu") -> int:
    """Bytes that calls of a function need at their peak, beyond what stood before the first.

    Measured in a fresh process that does nothing else: resident memory on a CPU, allocated memory on a GPU.

    Args:
        make: a function of a module; `make(*arguments)` builds what is needed and returns the function to call.
        calls: how often; two for a training step, whose optimizer makes its state in the first.
        device: where it computes.

    Raises:
        UserError, RuntimeError: what the process raised, or that it was killed (most likely for memory).
    """
    context = multiprocessing.get_context("spawn")
    receiver, sender = context.Pipe(duplex=False)
    process = context.Process(
        target=_peak_in_child, args=(sender, make, arguments, calls, device, torch.get_num_threads())
    )
    process.start()
    sender.close()
    try:
        answer = receiver.recv()
    except EOFError:
        process.join()
        raise RuntimeError(
            f"the process that measures memory ended with status {process.exitcode} (memory ran out?)"
        ) from None
    finally:
        process.join()
        receiver.close()
    if isinstance(answer, Exception):
        raise answer
    return answer


def _cpu_name() -> str:
    try:
        found = re.search(r"^model name\s*:\s*(.+)$", Path("/proc/cpuinfo").read_text(), re.MULTILINE)
    except OSError:
        found = None
    return found[1].strip() if found else platform.processor() or platform.machine()


def machine(device: torch.device | str = "cpu") -> dict[str, Any]:
    """What a number was measured on: processor, cores, threads, GPU, and versions of the libraries installed."""
    device = torch.device(device)
    versions = {"python": platform.python_version()}
    for library in LIBRARIES:
        try:
            versions[library] = metadata.version(library)
        except metadata.PackageNotFoundError:
            continue
    described = {
        "cpu": _cpu_name(),
        "cores": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count(),
        "threads": torch.get_num_threads(),
        "cpu_capability": torch.backends.cpu.get_cpu_capability(),
        "system": platform.platform(terse=True),
        "versions": versions,
    }
    if device.type == "cuda":
        described["gpu"] = torch.cuda.get_device_name(device)
        described["versions"]["cuda"] = torch.version.cuda
        described["versions"]["cudnn"] = torch.backends.cudnn.version()
    return described


def machine_line(described: Mapping[str, Any]) -> str:
    """A description by `machine` in one line."""
    places = [f"{described['cpu']}, {described['cores']} cores, {described['threads']} threads"]
    places += [described["gpu"]] if "gpu" in described else []
    versions = [f"{name} {version}" for name, version in described["versions"].items()]
    return "; ".join([*places, described["cpu_capability"], ", ".join(versions)])


def print_table(title: str, columns: Sequence[str], rows: Iterable[Sequence[object]], *, caption: str = "") -> None:
    """Print a table on the screen; every column after the first is right-aligned."""
    from rich.console import Console
    from rich.table import Table

    table = Table(title=title, caption=caption or None, title_justify="left", caption_justify="left")
    for index, column in enumerate(columns):
        table.add_column(column, justify="right" if index else "left")
    for row in rows:
        table.add_row(*("" if cell is None else str(cell) for cell in row))
    # A table in a file or pipe is not squeezed into 80 columns.
    Console(width=None if sys.stdout.isatty() else 200).print(table)


def write_rows(path: str | os.PathLike, rows: Sequence[dict], described: Mapping[str, Any], **more: Any) -> None:
    """`write_json` of the rows of a table, beside `machine()`; a single row stands on top too."""
    own = dict(described)
    versions = own.pop("versions")
    only = rows[0] if len(rows) == 1 else {}
    write_json(path, {**only, "rows": rows, **more, "machine": own, "versions": versions})


def write_json(path: str | os.PathLike, content: Mapping[str, Any]) -> None:
    """Write the numbers of a benchmark. Raises UserError where the file cannot be written."""

    def plain(value: Any) -> Any:
        if is_dataclass(value) and not isinstance(value, type):
            return asdict(value)
        raise TypeError(f"{type(value).__name__} has no place in JSON")

    text = json.dumps(content, indent=1, default=plain) + "\n"
    try:
        write_text(path, text)
    except OSError as error:
        raise UserError(f"cannot write {path}: {error.strerror}") from None


def ratio_text(row: dict) -> str:
    """The ratio of a row and its quartiles, for a table."""
    low, high = row["ratio_quartiles"]
    return f"{row['ratio']:.2f} ({low:.2f} to {high:.2f})"
