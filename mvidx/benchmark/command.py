"""The command `tools/benchmark.py`: finds its subcommands.

A subcommand NAME is the module `mvidx/benchmark/NAME.py`: the first line of its docstring is the help,
`add_arguments(parser)` declares its arguments and `run(parsed)` returns the exit status.
"""

import argparse
import importlib
import pkgutil
import sys
from collections.abc import Sequence

import mvidx.benchmark
from mvidx.cli.parser import OneLineParser
from mvidx.launch import guard

EXAMPLE = """example:
  %(prog)s model --model mvitv2_s_video --against torchvision --batch-size 1"""
SHARED = {"command", "common", "peers", "plot", "profile"}


def subcommands() -> list[str]:
    """Names of the subcommands, sorted."""
    return sorted({module.name for module in pkgutil.iter_modules(mvidx.benchmark.__path__)} - SHARED)


def make_parser(prog: str = "python tools/benchmark.py") -> argparse.ArgumentParser:
    """The parser of the command itself; what follows the subcommand's name is the subcommand's."""
    parser = OneLineParser(prog=prog, description="Measure speed and memory.", epilog=EXAMPLE)
    parser.add_argument("command", choices=subcommands(), help="what to measure; NAME --help says more")
    parser.add_argument("rest", nargs=argparse.REMAINDER, metavar="...", help="arguments of the command")
    return parser


def run_subcommand(parser: argparse.ArgumentParser, arguments: Sequence[str]) -> int:
    """Run the subcommand that the arguments begin with; returns its exit status."""
    chosen = parser.parse_args(arguments)
    module = importlib.import_module(f"mvidx.benchmark.{chosen.command}")
    own = OneLineParser(prog=f"{parser.prog} {chosen.command}", description=module.__doc__.split("\n")[0])
    module.add_arguments(own)
    return module.run(own.parse_args(chosen.rest))


def main(arguments: Sequence[str] | None = None, **parser: str) -> int:
    """`tools/benchmark.py`, `mvidx benchmark`. Returns the exit status: 2 and one line for a bad argument."""
    return guard(run_subcommand, make_parser(**parser), sys.argv[1:] if arguments is None else arguments)
