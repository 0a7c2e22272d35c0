"""How a command of this folder becomes a script."""

from argparse import RawDescriptionHelpFormatter
from collections.abc import Sequence
from types import ModuleType

from mvidx.convert import OneLineParser
from mvidx.launch import guard


def run_script(command: ModuleType, arguments: Sequence[str] | None = None) -> int:
    """Parse the command line for a command and run it; returns the exit status (2 and one line for a bad argument)."""

    def parse_and_run() -> int:
        parser = OneLineParser(
            description=command.__doc__.splitlines()[0],
            epilog=f"example: {command.EXAMPLE}",
            formatter_class=RawDescriptionHelpFormatter,
        )
        command.add_arguments(parser)
        return command.run(parser.parse_args(arguments))

    return guard(parse_and_run)
