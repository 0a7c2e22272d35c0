"""The command `tools/complexity.py`: what models cost, as a table."""

import argparse
import json
from collections.abc import Iterable, Sequence

import torch

from mvidx.cli.parser import OneLineParser, parse_overrides
from mvidx.errors import UserError
from mvidx.launch import guard
from mvidx.models.flops import complexity
from mvidx.models.registry import create_model, list_models, model_entry

COLUMNS = ("model", "input", "parameters", "GFLOPs")


def measure(name: str, *, img_size: int | None = None, frames: int | None = None, **overrides) -> dict:
    """Cost of a registered model: model, input (`16x224x224`), parameters, gflops and gflops by operator."""
    frames = frames if model_entry(name).video else None
    with torch.device("meta"):
        model = create_model(name, img_size=img_size, frames=frames, **overrides)
    cost = complexity(model)
    return {
        "model": name,
        "input": "x".join(map(str, model.input_size)),
        "parameters": cost.parameters,
        "gflops": cost.gflops,
        "gflops_by_operator": {operator: count / 1e9 for operator, count in cost.by_operator.items()},
    }


def table(rows: Iterable[dict], *, markdown: bool) -> Iterable[str]:
    """Lines of a table of what `measure` returns, one at a time."""
    if markdown:
        yield f"| {' | '.join(COLUMNS)} |"
        yield "| --- | --- | ---: | ---: |"
    else:
        yield "{:<28}{:>14}{:>14}{:>10}".format(*COLUMNS)
    for row in rows:
        cells = row["model"], row["input"], f"{row['parameters']:,}", f"{row['gflops']:.2f}"
        yield f"| {' | '.join(cells)} |" if markdown else "{:<28}{:>14}{:>14}{:>10}".format(*cells)


def make_parser(prog: str = "python tools/complexity.py") -> argparse.ArgumentParser:
    parser = OneLineParser(
        prog=prog,
        description="Parameters and multiply-adds (FLOPs of the papers) of models.",
        epilog="example:\n  %(prog)s --model 'mvitv2_?' poolformer_s12_video --markdown",
    )
    what = parser.add_mutually_exclusive_group(required=True)
    what.add_argument("--model", nargs="+", metavar="NAME", help="names of models, or patterns such as 'mvitv2_*'")
    what.add_argument("--all", action="store_true", help="every registered model")
    parser.add_argument("--img-size", type=int, metavar="PIXELS", help="side of the input; each model's own by default")
    parser.add_argument("--frames", type=int, metavar="N", help="frames of a clip; video models only")
    parser.add_argument("--json", metavar="FILE", help="write the numbers to FILE too")
    parser.add_argument("--markdown", action="store_true", help="print a Markdown table")
    parser.add_argument("--set", nargs="+", default=[], metavar="KEY=VALUE", help="other arguments of the models")
    return parser


def print_complexity(parser: argparse.ArgumentParser, arguments: Sequence[str] | None) -> None:
    """Print the table that the arguments ask for."""
    parsed = parser.parse_args(arguments)
    patterns = ["*"] if parsed.all else parsed.model
    names = [name for pattern in patterns for name in list_models(pattern) or [pattern]]
    overrides = parse_overrides(parsed.set)
    rows = []

    def measured() -> Iterable[dict]:
        for name in names:
            try:
                rows.append(measure(name, img_size=parsed.img_size, frames=parsed.frames, **overrides))
            except (ValueError, TypeError) as error:
                raise UserError(str(error)) from None
            yield rows[-1]

    for line in table(measured(), markdown=parsed.markdown):
        print(line, flush=True)
    if parsed.json:
        try:
            with open(parsed.json, "w") as file:
                json.dump(rows, file, indent=1)
        except OSError as error:
            raise UserError(f"cannot write {parsed.json}: {error.strerror}") from None


def main(arguments: Sequence[str] | None = None, **parser: str) -> int:
    """`tools/complexity.py`. Returns the exit status: 2 and one line for a bad argument."""
    return guard(print_complexity, make_parser(**parser), arguments)
