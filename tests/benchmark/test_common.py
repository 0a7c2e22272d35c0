import json

import pytest
import torch

from mvidx.benchmark.common import (
    Timing,
    machine,
    machine_line,
    peak_memory,
    print_table,
    ratio,
    time_alternately,
    write_json,
)
from mvidx.errors import UserError

MEBIBYTE = 2**20


def allocator(kept: int, needed: int):
    """A function that needs `needed` MiB beside `kept` MiB, which it has from the start."""
    held = torch.ones(kept * MEBIBYTE // 4)

    def function():
        return torch.ones(needed * MEBIBYTE // 4)[0] + held[0]

    return function


def failing():
    raise UserError("there is no such thing")


def test_peak_memory_counts_what_the_calls_need_alone():
    assert peak_memory(allocator, 64, 256) / MEBIBYTE == pytest.approx(256, abs=8)
    with pytest.raises(UserError, match="no such thing"):
        peak_memory(failing)


def test_sides_alternate_after_warmup():
    calls = []
    times = time_alternately({"a": lambda: calls.append("a"), "b": lambda: calls.append("b")}, rounds=3, warmup=2)
    assert "".join(calls) == "aabb" + "abbaab"
    assert all(len(timing.seconds) == 3 for timing in times.values())


def test_ratio_is_theirs_over_ours():
    got = ratio(Timing.of([2.0, 4.0, 6.0]), Timing.of([1.0, 2.0, 2.0]))
    assert (got.median, got.low, got.high) == (2.0, 2.0, 2.5)
    assert str(Timing.of([0.5])) == "500 ms (500 ms to 500 ms)"


def test_json_and_table(tmp_path, capsys):
    write_json(tmp_path / "a.json", {"timing": Timing.of([1.0]), "machine": machine()})
    read = json.loads((tmp_path / "a.json").read_text())
    assert read["timing"]["median"] == 1.0 and read["machine"]["versions"]["torch"] == torch.__version__.split("+")[0]
    with pytest.raises(UserError, match=r"cannot write .*nowhere"):
        write_json(tmp_path / "nowhere" / "a.json", {})
    print_table("Title", ["model", "time"], [["a", 1], ["b", None]], caption=machine_line(machine()))
    assert "Title" in capsys.readouterr().out
