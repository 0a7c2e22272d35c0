"""The command `tools/extract_features.py`, `mvidx features`: features of videos, a file each."""

import argparse
import sys
from collections.abc import Sequence

from mvidx.cli.parser import (
    OneLineParser,
    add_compute_arguments,
    add_model_arguments,
    add_window_arguments,
    chosen_model,
    default_workers,
)
from mvidx.launch import guard

EXAMPLE = """example:
  %(prog)s videos/ --checkpoint FILE --output features --window-seconds 2
  %(prog)s videos/ --model mvitv2_s_video --checkpoint k400.pyth --output grids --grid --stage 4 --dtype float16
The same command again goes on where it stopped."""


def make_parser(prog: str = "python tools/extract_features.py") -> argparse.ArgumentParser:
    parser = OneLineParser(
        prog=prog,
        usage="%(prog)s VIDEO [VIDEO ...] --checkpoint FILE --output FOLDER [options]",
        description="Write features of videos (or images): a file each, a row for every clip.",
        epilog=EXAMPLE,
    )
    parser.add_argument("videos", nargs="+", metavar="VIDEO", help="file, folder, or list of paths (.txt, .csv)")
    parser.add_argument("--output", required=True, metavar="FOLDER", help="where the files go")
    parser.add_argument("--grid", action="store_true", help="the whole grid, channels last, rather than its mean")
    parser.add_argument("--stage", type=int, metavar="N", help="end of stage 1 to 4, rather than what the head reads")
    parser.add_argument("--format", choices=("npy", "safetensors"), default="npy", help="of the files (npy)")
    parser.add_argument("--dtype", choices=("float32", "float16"), default="float32", help="of the features (float32)")
    add_window_arguments(parser)
    add_model_arguments(parser)
    add_compute_arguments(parser)
    return parser


def run(parser: argparse.ArgumentParser, arguments: Sequence[str] | None) -> int:
    """Extract as the arguments say. Returns 1 when something could not be read."""
    parsed = parser.parse_args(arguments)
    from tqdm import tqdm

    from mvidx.inference.clips import Windows
    from mvidx.inference.features import extract
    from mvidx.inference.inputs import find_inputs
    from mvidx.models.card import card_of

    windows = Windows(parsed.window_seconds, parsed.stride_seconds)
    model = chosen_model(parsed)
    inputs = find_inputs(parsed.videos, images=card_of(model).preprocessing.takes_images)
    num_there = num_failed = 0
    for done in extract(
        model,
        inputs,
        parsed.output,
        grid=parsed.grid,
        stage=parsed.stage,
        file_format=parsed.format,
        dtype=parsed.dtype,
        windows=windows,
        num_views=parsed.views,
        num_crops=parsed.crops,
        batch_size=parsed.batch_size,
        num_workers=default_workers(parsed, len(inputs)),
        precision=parsed.precision,
        backend=parsed.backend,
        progress=sys.stderr.isatty(),
    ):
        if done.failure:
            num_failed += 1
            tqdm.write(f"unreadable: {done.path}: {done.failure}", file=sys.stderr)
        elif done.shape is None:
            num_there += 1
        else:
            tqdm.write(f"{done.target}  {done.shape}", file=sys.stdout)
    written = len(inputs) - num_there - num_failed
    print(f"{written} written, {num_there} were there, {num_failed} unreadable; they lie in {parsed.output}")
    return 1 if num_failed else 0


def main(arguments: Sequence[str] | None = None, **parser: str) -> int:
    """Returns the exit status: 0, 1 when something could not be read, 2 and one line for a bad argument or file."""
    return guard(run, make_parser(**parser), arguments)
