"""The command `tools/share.py`, `mvidx share`: a checkpoint as a folder for the Hugging Face Hub, or onto it."""

import argparse
import os
from collections.abc import Sequence

from mvidx.cli.parser import OneLineParser, add_model_arguments, chosen_model
from mvidx.errors import UserError
from mvidx.launch import guard

EXAMPLE = """example:
  %(prog)s --checkpoint runs/motion_mvitv2_tiny/checkpoints/step_00000840.pyth --folder shared/motion
  %(prog)s --checkpoint FILE --model mvitv2_s_video --push OWNER/NAME --private
Either is then a checkpoint for every command: shared/motion, or hf://OWNER/NAME. --push needs `hf auth login`."""


def make_parser(prog: str = "python tools/share.py") -> argparse.ArgumentParser:
    parser = OneLineParser(
        prog=prog,
        usage="%(prog)s --checkpoint FILE (--folder FOLDER | --push OWNER/NAME) [options]",
        description="Write weights, config and README as the Hugging Face Hub has them.",
        epilog=EXAMPLE,
    )
    where = parser.add_mutually_exclusive_group(required=True)
    where.add_argument("--folder", metavar="FOLDER", help="write into this folder")
    where.add_argument("--push", metavar="OWNER/NAME", help="push to this repository of the Hub, made if need be")
    parser.add_argument("--private", action="store_true", help="make the repository private")
    parser.add_argument("--message", default="Model of mvidx", metavar="TEXT", help="of the commit")
    add_model_arguments(parser)
    return parser


def run(parser: argparse.ArgumentParser, arguments: Sequence[str] | None) -> None:
    """Write or push as the arguments say."""
    parsed = parser.parse_args(arguments)
    from mvidx.inference.hub import HubModel

    if parsed.folder and os.path.exists(parsed.folder) and not os.path.isdir(parsed.folder):
        raise UserError(f"--folder {parsed.folder}: is a file")
    hub_model = HubModel(chosen_model(parsed))
    if parsed.folder:
        try:
            hub_model.save_pretrained(parsed.folder)
        except OSError as error:
            raise UserError(f"cannot write {parsed.folder}: {error.strerror or error}") from None
        print(f"wrote {parsed.folder}")
        return
    try:
        url = hub_model.push_to_hub(parsed.push, private=parsed.private or None, commit_message=parsed.message)
    except (OSError, ValueError) as error:  # no network, no access, no such name
        raise UserError(f"cannot push to {parsed.push}: {' '.join(str(error).split())[:300]}") from None
    print(f"pushed to {url}")


def main(arguments: Sequence[str] | None = None, **parser: str) -> int:
    """Returns the exit status: 2 and one line for a bad argument, file, or a Hub that refuses."""
    return guard(run, make_parser(**parser), arguments)
