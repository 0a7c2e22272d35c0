"""Speed and memory of a model: inference or a training step, alone or against the same model of another library.

Both sides get the same weights where the names of the other library are known, the same input, the same optimizer and
the same precision, and run in turn in one process. Peak memory is measured for each side in a process of its own.
Multiply-adds are those of `tools/complexity.py`; a rate is multiply-adds of the forward pass per second.
"""

import argparse
import itertools
import warnings
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mvidx.benchmark.common import (
    Timing,
    machine,
    machine_line,
    peak_memory,
    print_table,
    ratio,
    ratio_text,
    straight_line,
    time_alternately,
    time_once,
    write_rows,
)
from mvidx.benchmark.peers import LIBRARIES, build_peer, peer_name, share_weights
from mvidx.benchmark.profile import operation_shares
from mvidx.engine.trainer import autocast
from mvidx.errors import UserError
from mvidx.models.flops import complexity
from mvidx.models.registry import create_model, list_models, model_entry

EAGER = "eager"  # the other side is our own model, not compiled
SWEEPS = ("frames", "img_size", "batch_size")
MEBIBYTE = 2**20


@dataclass(frozen=True)
class Case:
    """What is measured.

    Attributes:
        model: registered name of ours.
        against: library of the other side, `EAGER` for our model in eager mode, None for ours alone.
        train: a training step (forward, backward, optimizer) rather than a forward pass in eval mode.
        batch_size: inputs at once.
        frames, img_size: of the input; None for the model's own.
        device: "cpu" or "cuda".
        dtype: "float32", or "bfloat16" for autocast to it with weights in float32, as in training and testing.
        compile: torch.compile of both sides, or of ours where the other is `EAGER`.
    """

    model: str
    against: str | None = None
    train: bool = False
    batch_size: int = 1
    frames: int | None = None
    img_size: int | None = None
    device: str = "cpu"
    dtype: str = "float32"
    compile: bool = False


def build_ours(case: Case) -> nn.Module:
    """Our model of a case. Raises UserError for a name or size that does not fit."""
    try:
        return create_model(case.model, frames=case.frames, img_size=case.img_size)
    except ValueError as error:
        raise UserError(str(error)) from None


def build_theirs(case: Case, size: tuple[int, ...]) -> nn.Module:
    """The other side's model of a case, for inputs of ([T,] H, W), with our drop rates."""
    if case.against == EAGER:
        return build_ours(case)
    arguments = model_entry(case.model).arguments
    rates = {name: arguments.get(name, 0.0) for name in ("drop_path_rate", "head_drop_rate")}
    return build_peer(case.model, case.against, size, rates)


def sides(case: Case) -> dict[str, Case]:
    """How each side is called: "ours", and "theirs" if there is another."""
    made = {"ours": case}
    if case.against:
        made["theirs"] = replace(case, compile=False) if case.against == EAGER else case
    return made


def call(case: Case, model: nn.Module, size: Sequence[int]) -> Callable[[], Tensor]:
    """What is timed: a forward pass, or a training step, on one fixed random batch."""
    device = torch.device(case.device)
    model = model.to(device).train(case.train)
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(case.batch_size, 3, *size, generator=generator).to(device)
    if case.compile:
        model.compile()

    if not case.train:

        @torch.inference_mode()
        def infer() -> Tensor:
            with autocast(device, case.dtype):
                return model(x)

        return infer

    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-6, fused=True)
    labels = torch.arange(case.batch_size, device=device)

    def step() -> Tensor:
        optimizer.zero_grad(set_to_none=True)
        with autocast(device, case.dtype):
            logits = model(x)
        loss = F.cross_entropy(logits.float(), labels)
        loss.backward()
        optimizer.step()
        return loss.detach()

    return step


def make_side(case: Case, ours: bool) -> Callable[[], Tensor]:
    """One side of a case with weights of its own, for `peak_memory`."""
    warnings.filterwarnings("ignore")
    if ours:
        model = build_ours(case)
        return call(case, model, model.input_size)
    with torch.device("meta"):
        size = build_ours(case).input_size
    return call(sides(case)["theirs"], build_theirs(case, size), size)


@torch.inference_mode()
def logit_difference(case: Case, ours: nn.Module, theirs: nn.Module, size: Sequence[int]) -> float:
    """Largest difference of the two models' logits in float32, over the standard deviation of theirs."""
    check = replace(case, train=False, dtype="float32", batch_size=1, compile=False)
    left, right = (call(check, model, size)() for model in (ours, theirs))
    return ((left - right).abs().max() / right.std()).item()


def measure(case: Case, *, rounds: int, warmup: int, memory: bool, profile: bool) -> dict[str, Any]:
    """All numbers of a case, ready for JSON: see the columns of `COLUMNS`."""
    torch.manual_seed(0)
    ours = build_ours(case)
    size = ours.input_size
    models = {"ours": ours}
    row: dict[str, Any] = {**asdict(case), "input": "x".join(map(str, size))}
    row["gflops"] = complexity(ours).gflops  # multiply-adds of one input
    if case.against:
        models["theirs"] = theirs = build_theirs(case, size)
        if case.against == EAGER:
            row["against_model"] = case.model
        else:
            row["against_model"] = peer_name(case.model, case.against)
            row["same_weights"] = share_weights(ours, theirs)
            if row["same_weights"]:
                row["logit_difference"] = logit_difference(case, ours, theirs, size)
    calls = {side: call(of_side, models[side], size) for side, of_side in sides(case).items()}
    times = time_alternately(calls, rounds=rounds, warmup=warmup, device=case.device)
    for side, timing in times.items():
        row[f"{side}_seconds"] = timing.median
        row[f"{side}_timing"] = timing
        row[f"{side}_rate"] = case.batch_size / timing.median
    row["gflops_per_second"] = row["gflops"] * case.batch_size / times["ours"].median
    if case.against:
        row["ratio"] = (compared := ratio(times["theirs"], times["ours"])).median
        row["ratio_quartiles"] = (compared.low, compared.high)
    if profile:
        for side, function in calls.items():
            row[f"{side}_operations"] = operation_shares(function, case.device)
    del models, calls
    if memory:
        for side in times:
            row[f"{side}_peak_bytes"] = peak_memory(make_side, case, side == "ours", device=case.device)
        if case.against:
            row["memory_ratio"] = row["ours_peak_bytes"] / row["theirs_peak_bytes"]
    return row


@torch.inference_mode()
def matrix_rate(device: str, dtype: str) -> float:
    """Multiply-adds per second, in billions, of a matrix product: the best of ten.

    Of squares of 2048, or of smaller ones where those would take seconds: bfloat16 on a CPU that has no instructions
    for it.
    """
    for side in (512, 1024, 2048):
        left, right = torch.randn(2, side, side, device=device, dtype=getattr(torch, dtype))
        times = [time_once(lambda left=left, right=right: left @ right, device) for _ in range(12)][2:]
        if 8 * min(times) > 0.5:  # what the next one would take
            break
    return side**3 / min(times) / 1e9


def _mebibytes(row: dict, side: str) -> str:
    return f"{row[f'{side}_peak_bytes'] / MEBIBYTE:.0f}" if f"{side}_peak_bytes" in row else ""


def _cells(row: dict, against: bool) -> list[str]:
    ours: Timing = row["ours_timing"]
    cells = [row["model"], row["input"], str(row["batch_size"]), str(ours)]
    if against:
        cells += [str(row["theirs_timing"]), ratio_text(row)]
    cells.append(_mebibytes(row, "ours"))
    if against:
        memory = f"{row['memory_ratio']:.2f}" if "memory_ratio" in row else ""
        cells += [_mebibytes(row, "theirs"), memory]
    return [*cells, f"{row['ours_rate']:.2f}", f"{row['gflops']:.1f}", f"{row['gflops_per_second']:.1f}"]


def show(rows: Sequence[dict], title: str, caption: str, against: str | None) -> None:
    """Print the table of all cases."""
    columns = ["model", "input", "batch", "ours"]
    columns += [against, "ratio"] if against else []
    columns += ["peak MiB"]
    columns += [f"{against} MiB", "ours/theirs"] if against else []
    print_table(
        title,
        [*columns, "inputs/s", "GFLOPs", "GFLOP/s"],
        [_cells(row, against is not None) for row in rows],
        caption=caption,
    )


def show_operations(row: dict) -> None:
    """Print the shares of operations of a case, side by side."""
    sides = [side for side in ("ours", "theirs") if f"{side}_operations" in row]
    groups = {group: None for side in sides for group in row[f"{side}_operations"]}
    print_table(
        f"{row['model']}: share of time by kind of operation",
        ["operations", *sides],
        [
            [group, *(f"{row[f'{side}_operations'].get(group, 0.0):.1%}" for side in sides)]
            for group in sorted(groups, key=lambda g: -row["ours_operations"].get(g, 0.0))
        ],
    )


def growth(rows: Sequence[dict], key: str) -> dict[str, Any]:
    """How our time and memory grow with a swept value.

    `line_deviation` is the largest distance of our peak memory from its straight line, relative to that line;
    `time_ratios` are those of successive values.
    """
    grown: dict[str, Any] = {}
    for name in dict.fromkeys(row["model"] for row in rows):
        own = [row for row in rows if row["model"] == name]
        seconds = [row["ours_seconds"] for row in own]
        grown[name] = {"time_ratios": [b / a for a, b in itertools.pairwise(seconds)]}
        if all("ours_peak_bytes" in row for row in own):
            values, memory = [row[key] for row in own], [row["ours_peak_bytes"] for row in own]
            slope, start = straight_line(values, memory)
            line = [start + slope * value for value in values]
            grown[name]["line_deviation"] = max(abs(m / at - 1) for m, at in zip(memory, line, strict=True))
    return grown


def show_growth(grown: dict[str, Any], key: str) -> None:
    """Print what `growth` returns."""
    for name, numbers in grown.items():
        ratios = ", ".join(f"{ratio:.2f}" for ratio in numbers["time_ratios"])
        line = numbers.get("line_deviation")
        memory = "" if line is None else f"; memory within {line:.1%} of a straight line"
        print(f"{name}: time from one value of {key} to the next grows {ratios} times{memory}")


def parse_sweep(text: str) -> tuple[str, list[int]]:
    """'frames=8,16' -> ('frames', [8, 16])."""
    name, _, values = text.partition("=")
    name = name.replace("-", "_")
    try:
        numbers = [int(value) for value in values.split(",")]
    except ValueError:
        numbers = []
    if name not in SWEEPS or not numbers or min(numbers) < 1:
        raise UserError(f"--sweep {text}, expected one of {', '.join(SWEEPS)}, as in frames=8,16,32,64")
    return name, numbers


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Arguments of `tools/benchmark.py model`."""
    parser.add_argument(
        "--model", required=True, nargs="+", metavar="NAME", help="names, or patterns such as '*_video'"
    )
    parser.add_argument(
        "--against",
        choices=(*LIBRARIES, EAGER),
        help=f"compare with the same model of this library, or --compile with {EAGER} mode",
    )
    parser.add_argument("--train", action="store_true", help="a training step: forward, backward, optimizer")
    parser.add_argument("--batch-size", type=int, default=1, metavar="N")
    parser.add_argument("--frames", type=int, metavar="N", help="frames of a clip; the model's own by default")
    parser.add_argument("--img-size", type=int, metavar="PIXELS", help="side of the input; the model's own by default")
    parser.add_argument("--sweep", metavar="KEY=N,N,...", help=f"measure for several values of {', '.join(SWEEPS)}")
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    parser.add_argument("--dtype", choices=("float32", "bfloat16"), default="float32")
    parser.add_argument(
        "--compile", action="store_true", help=f"torch.compile, of the other side too unless it is {EAGER}"
    )
    parser.add_argument("--rounds", type=int, default=10, metavar="N", help="timed calls of each side")
    parser.add_argument("--warmup", type=int, default=2, metavar="N", help="calls of each side before them")
    parser.add_argument("--no-memory", action="store_true", help="leave out peak memory, which takes a process a side")
    parser.add_argument("--profile", action="store_true", help="shares of time by kind of operation too")
    parser.add_argument("--plot", metavar="FILE.png", help="time and memory against the values of --sweep")
    parser.add_argument("--json", metavar="FILE", help="write the numbers to FILE too")


def cases(parsed: argparse.Namespace) -> list[Case]:
    """The cases that the arguments ask for. Raises UserError for arguments that do not fit."""
    for name in ("batch_size", "rounds"):
        if getattr(parsed, name) < 1:
            raise UserError(f"--{name.replace('_', '-')} {getattr(parsed, name)}, expected 1 or more")
    if parsed.device == "cuda" and not torch.cuda.is_available():
        raise UserError("--device cuda, but PyTorch finds no GPU here")
    if parsed.plot and not parsed.sweep:
        raise UserError("--plot needs --sweep")
    if parsed.against == EAGER and not parsed.compile:
        raise UserError(f"--against {EAGER} compares it with --compile: give that too")
    names = [name for pattern in parsed.model for name in list_models(pattern) or [pattern]]
    sweep, values = parse_sweep(parsed.sweep) if parsed.sweep else (None, [None])
    made = []
    for name in names:
        if parsed.against in LIBRARIES:
            peer_name(name, parsed.against)
        for value in values:
            case = Case(
                name,
                parsed.against,
                parsed.train,
                parsed.batch_size,
                parsed.frames,
                parsed.img_size,
                parsed.device,
                parsed.dtype,
                parsed.compile,
            )
            made.append(case if sweep is None else replace(case, **{sweep: value}))
    for case in made:  # a case that does not fit is found before the first is measured
        with torch.device("meta"):
            build_ours(case)
    return made


def run(parsed: argparse.Namespace) -> int:
    """Measure what the arguments ask for, print a table, write JSON and a plot. Returns the exit status."""
    wanted = cases(parsed)
    warnings.filterwarnings("ignore", category=UserWarning)  # of the other libraries
    described = machine(parsed.device)
    rate = matrix_rate(parsed.device, parsed.dtype)
    rows = []
    for case in wanted:
        rows.append(
            measure(
                case,
                rounds=parsed.rounds,
                warmup=parsed.warmup,
                memory=not parsed.no_memory,
                profile=parsed.profile,
            )
        )
    what = "training step" if parsed.train else "inference"
    mode = "torch.compile" if parsed.compile else "eager"
    title = f"{what}, {parsed.dtype}, {parsed.device}, {mode}; median (quartiles) of {parsed.rounds}"
    caption = f"{machine_line(described)}; a {parsed.dtype} matrix product runs at {rate:.1f} GFLOP/s (multiply-adds)"
    show(rows, title, caption, parsed.against)
    if parsed.profile:
        for row in rows:
            show_operations(row)
    if parsed.plot:
        from mvidx.benchmark.plot import plot_growth

        plot_growth(parsed.plot, rows, parse_sweep(parsed.sweep)[0], title)
    grown = None
    if parsed.sweep:
        key = parse_sweep(parsed.sweep)[0]
        grown = growth(rows, key)
        show_growth(grown, key)
    if parsed.json:
        write_rows(parsed.json, rows, described, growth=grown, matrix_gflops_per_second=rate)
    return 0
