"""The command line of a run, and where it runs: this process, or the job that torchrun or srun started."""

import argparse
import sys
from collections.abc import Sequence

from mvidx.errors import UserError

EXAMPLE = "example: python tools/run_net.py --cfg configs/Motion/MVITv2_tiny.yaml SOLVER.MAX_EPOCH 10"


def parse_arguments(arguments: Sequence[str] | None) -> argparse.Namespace:
    """Arguments of `tools/run_net.py`; what follows them are overrides, KEY VALUE ..."""
    parser = argparse.ArgumentParser(description="Train and test a model as a config describes.", epilog=EXAMPLE)
    parser.add_argument("--cfg", required=True, metavar="FILE", help="config, a YAML file")
    parser.add_argument("overrides", nargs=argparse.REMAINDER, metavar="KEY VALUE", help="keys to override")
    return parser.parse_args(arguments)


def guard(command, *arguments) -> int:
    """Call a command; returns the exit status: 2 and one line for what a user can mend, 130 for Ctrl-C."""
    try:
        command(*arguments)
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        return 130
    return 0


def run_here(cfg_file: str, overrides: Sequence[str]) -> None:
    """Load the config and run it in this process."""
    from mvidx.config.load import load_config
    from mvidx.config.run import run

    run(load_config(cfg_file, overrides))


def main(arguments: Sequence[str] | None = None) -> int:
    """`tools/run_net.py`. Returns the exit status."""
    parsed = parse_arguments(arguments)
    return guard(run_here, parsed.cfg, parsed.overrides)
