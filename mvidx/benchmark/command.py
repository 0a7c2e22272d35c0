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
from mvidx.convert import OneLineParser
from mvidx.launch import guard

SHARED = {"command", "common", "peers", "plot", "profile"}


def subcommands() -> list[str]:
    """Names of the subcommands, sorted."""
    return sorted({module.name for module in pkgutil.iter_modules(mvidx.benchmark.__path__)} - SHARED)


def run_subcommand(arguments: Sequence[str]) -> int:
    """Run the subcommand that the arguments begin with; returns its exit status."""
    parser = OneLineParser(prog="benchmark.py", description="Measure speed and memory.", allow_abbrev=False)
    parser.add_argument("command", choices=subcommands(), help="what to measure; NAME --help says more")
    parser.add_argument("rest", nargs=argparse.REMAINDER, metavar="...", help="arguments of the command")
    chosen = parser.parse_args(arguments)
    module = importlib.import_module(f"mvidx.benchmark.{chosen.command}")
    own = OneLineParser(
        prog=f"benchmark.py {chosen.command}", description=module.__doc__.split("\n")[0], allow_abbrev=False
    )
    module.add_arguments(own)
    return module.run(own.parse_args(chosen.rest))


def main(arguments: Sequence[str] | None = None) -> int:
    """`tools/benchmark.py`. Returns the exit status: 2 and one line for a bad argument."""
    return guard(run_subcommand, sys.argv[1:] if arguments is None else arguments)
