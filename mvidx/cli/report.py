"""The command `tools/report.py`: one HTML page about one or several runs."""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from mvidx.cli.parser import OneLineParser
from mvidx.errors import UserError
from mvidx.launch import guard

DESCRIPTION = "Write one HTML page about one or several runs: curves, test result, confusions, mistakes, config."
EXAMPLE = "example:\n  %(prog)s runs/motion_mvitv2_tiny"


def make_parser(prog: str | None = None) -> argparse.ArgumentParser:
    parser = OneLineParser(prog=prog, description=DESCRIPTION, epilog=EXAMPLE)
    add_arguments(parser)
    return parser


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("folders", nargs="+", metavar="OUTPUT_DIR", help="what a run left; several are compared")
    parser.add_argument("--output", metavar="FILE", help="the page; report.html in the first OUTPUT_DIR by default")
    parser.add_argument("--title", default="", help="of the page; the names of the runs by default")
    parser.add_argument("--mistakes", type=int, default=300, metavar="N", help="mistakes listed of each run (300)")
    parser.add_argument("--pictures", type=int, default=24, metavar="N", help="mistakes with a picture (24)")
    parser.add_argument(
        "--root", action="append", default=[], metavar="DIR", help="look for videos here too; may be repeated"
    )


def run(parsed: argparse.Namespace) -> int:
    """Write the report. Returns 1 where a file of a run could not be read; the page then shows the others."""
    from tqdm import tqdm

    from mvidx.config.defaults import get_cfg
    from mvidx.report.page import render, write_report
    from mvidx.report.run import read_runs

    for name in ("mistakes", "pictures"):
        if getattr(parsed, name) < 0:
            raise UserError(f"--{name} {getattr(parsed, name)}, expected 0 or more")
    for root in parsed.root:
        if not Path(root).is_dir():
            raise UserError(f"--root {root} is not a folder")
    output = Path(parsed.output or Path(parsed.folders[0]) / "report.html")
    if parsed.output and not output.absolute().parent.is_dir():
        raise UserError(f"--output {output}: there is no such folder")
    runs = read_runs(parsed.folders)
    html = render(
        runs,
        defaults=get_cfg(),
        title=parsed.title,
        num_mistakes=parsed.mistakes,
        num_pictures=parsed.pictures,
        roots=[Path(root) for root in parsed.root],
        progress=lambda items: tqdm(items, desc="pictures", leave=False, disable=None),
    )
    write_report(output, html)
    problems = [problem for one in runs for problem in one.problems]
    for problem in problems:
        print(f"left out: {problem}", file=sys.stderr)
    print(f"wrote {output} ({len(html) / 2**20:.1f} MiB)")
    return 1 if problems else 0


def main(arguments: Sequence[str] | None = None, prog: str | None = None) -> int:
    """Returns the exit status: 0, 1 where a file of a run could not be read, 2 and one line for a bad argument."""

    def parse_and_run() -> int:
        return run(make_parser(prog).parse_args(arguments))

    return guard(parse_and_run)
