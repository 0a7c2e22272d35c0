"""The command `mvidx`: the tools under one name.

    mvidx COMMAND --help

Only the module of the command is imported. `mvidx completion bash` prints a script that completes commands and options.
"""

import argparse
import importlib.util
import inspect
import sys
from collections.abc import Sequence
from dataclasses import dataclass

from mvidx import __version__
from mvidx.cli.parser import OneLineParser
from mvidx.errors import UserError
from mvidx.launch import guard


@dataclass(frozen=True)
class Command:
    """A command: the module that has it, what it is for, and the names of its functions there."""

    module: str
    summary: str
    main: str = "main"
    make_parser: str = "make_parser"

    def function(self, name: str):
        return getattr(importlib.import_module(self.module), name)


_ALL = {
    "train": Command("mvidx.launch", "train and test as a config describes"),
    "test": Command("mvidx.launch", "test a checkpoint as a config describes", main="test_main"),
    "predict": Command("mvidx.cli.predict", "say what videos show"),
    "report": Command("mvidx.cli.report", "an HTML page about one or several runs"),
    "explain": Command("mvidx.cli.explain", "where a model looks, and what its mixers pass on"),
    "check": Command("mvidx.cli.check_dataset", "look through a dataset before training on it"),
    "features": Command("mvidx.cli.features", "write features of videos, a file each"),
    "benchmark": Command("mvidx.benchmark.command", "measure speed and memory"),
    "complexity": Command("mvidx.complexity", "parameters and multiply-adds of models"),
    "convert": Command("mvidx.convert", "rewrite a checkpoint", "convert_main", "make_convert_parser"),
    "inflate": Command("mvidx.convert", "image weights for a video model", "inflate_main", "make_inflate_parser"),
    "export": Command("mvidx.cli.export", "write a model as torch.export's .pt2 or as ONNX"),
    "share": Command("mvidx.cli.share", "write or push a model for the Hugging Face Hub"),
    "completion": Command(
        "mvidx.cli.main", "print a script for the shell", "completion_main", "make_completion_parser"
    ),
}
COMMANDS = {name: command for name, command in _ALL.items() if importlib.util.find_spec(command.module)}
"""Commands by name, those whose module is installed."""
SHELLS = ("bash", "zsh", "tcsh")
COMPLETION_EXAMPLE = """example:
  %(prog)s bash > ~/.local/share/bash-completion/completions/mvidx
  %(prog)s zsh > ~/.zfunc/_mvidx        (a folder of $fpath)"""


def make_top_parser() -> argparse.ArgumentParser:
    """The parser of `mvidx` itself; commands and what they are for stand in its help."""
    lines = "\n".join(f"  {name:<12}{command.summary}" for name, command in COMMANDS.items())
    parser = OneLineParser(
        prog="mvidx",
        usage="mvidx COMMAND [arguments]",
        description="Video recognition with MViTv2, PoolFormer, iFormer and MixFormer.",
        epilog=f"commands:\n{lines}\n\nexample:\n  mvidx predict video.mp4 --checkpoint FILE\n  mvidx COMMAND --help",
    )
    parser.add_argument("--version", action="version", version=f"mvidx {__version__}")
    return parser


def make_completion_parser(prog: str = "mvidx completion") -> argparse.ArgumentParser:
    parser = OneLineParser(prog=prog, description="Print a script for shell completion.", epilog=COMPLETION_EXAMPLE)
    parser.add_argument("shell", choices=SHELLS)
    return parser


def full_parser() -> argparse.ArgumentParser:
    """A parser with all commands and their options, as shtab reads it; names of models and files complete too."""
    import shtab

    from mvidx.models.registry import list_models

    parser = make_top_parser()
    commands = parser.add_subparsers(dest="command")
    for name, command in COMMANDS.items():
        arguments = {"help": command.summary}
        if hasattr(importlib.import_module(command.module), command.make_parser):
            own = command.function(command.make_parser)(prog=f"mvidx {name}")
            arguments |= {"parents": [own], "add_help": False, "usage": own.usage}
            for action in own._actions:
                if action.dest == "model":
                    action.choices = list_models()
                elif action.metavar in ("FILE", "VIDEO"):
                    action.complete = shtab.FILE
                elif action.metavar == "FOLDER":
                    action.complete = shtab.DIRECTORY
        commands.add_parser(name, **arguments)
    return parser


def _print_completion(parser: argparse.ArgumentParser, arguments: Sequence[str] | None) -> None:
    shell = parser.parse_args(arguments).shell
    import shtab

    print(shtab.complete(full_parser(), shell=shell))


def completion_main(arguments: Sequence[str] | None = None, **parser: str) -> int:
    """`mvidx completion`. Returns the exit status."""
    return guard(_print_completion, make_completion_parser(**parser), arguments)


def _dispatch(words: Sequence[str]) -> int:
    if not words or words[0].startswith("-"):
        parser = make_top_parser()
        parser.parse_args(words)
        parser.print_help()
        return 0 if words else 2
    name, *rest = words
    if name not in COMMANDS:
        from mvidx.models.registry import nearest

        raise UserError(f"mvidx has no command {name!r}{nearest(name, COMMANDS)} (see mvidx --help)")
    sys.argv = [f"mvidx {name}", *rest]  # where argparse takes the name of a program from
    main = COMMANDS[name].function(COMMANDS[name].main)
    takes_prog = any(p.name == "prog" or p.kind is p.VAR_KEYWORD for p in inspect.signature(main).parameters.values())
    return main(rest, **({"prog": f"mvidx {name}"} if takes_prog else {}))


def main(arguments: Sequence[str] | None = None) -> int:
    """The console script. Returns the exit status of the command."""
    return guard(_dispatch, sys.argv[1:] if arguments is None else list(arguments))


if __name__ == "__main__":
    sys.exit(main())
