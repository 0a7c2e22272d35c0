"""The command `tools/check_dataset.py`, `mvidx check`: what is wrong with the videos of a dataset."""

import argparse
import os
import sys
from collections.abc import Sequence
from dataclasses import asdict

from mvidx.cli.parser import OneLineParser, check_target
from mvidx.errors import UserError
from mvidx.launch import guard

EXAMPLE = """example:
  %(prog)s --cfg configs/Motion/MVITv2_tiny.yaml --split train --full"""
SPLITS = ("train", "val", "test")


def make_parser(prog: str = "python tools/check_dataset.py") -> argparse.ArgumentParser:
    parser = OneLineParser(
        prog=prog,
        usage="%(prog)s --cfg FILE [options] [KEY VALUE ...]",
        description="Look through a dataset for what can't be read, is short, odd, missing or there twice.",
        epilog=EXAMPLE,
    )
    parser.add_argument("--cfg", required=True, metavar="FILE", help="config that names the dataset")
    parser.add_argument("--split", action="append", choices=SPLITS, help="which split; may be repeated; all by default")
    parser.add_argument("--full", action="store_true", help="decode every frame, not three of each video")
    parser.add_argument("--workers", type=int, default=os.cpu_count() or 1, metavar="N", help="videos at once")
    parser.add_argument("--report", default="dataset_check.json", metavar="FILE", help="everything found, as JSON")
    parser.add_argument("--fix-list", metavar="FILE", help="write the annotation without the bad rows (one --split)")
    parser.add_argument("overrides", nargs="*", metavar="KEY VALUE", help="keys to override")
    return parser


def run(parser: argparse.ArgumentParser, arguments: Sequence[str] | None) -> int:
    """Check the splits; 1 if anything can't be read."""
    parsed = parser.parse_args(arguments)
    splits = parsed.split or SPLITS
    if parsed.fix_list and len(splits) != 1:
        raise UserError(f"--fix-list {parsed.fix_list} needs one split: --split train")
    if parsed.workers < 1:
        raise UserError(f"--workers {parsed.workers}, expected at least 1")
    for option, file in (("--report", parsed.report), ("--fix-list", parsed.fix_list)):
        if file:
            check_target(file, option)
    from tqdm import tqdm

    from mvidx.benchmark.common import write_json
    from mvidx.checkpoint.paths import write_text
    from mvidx.config import data as config_data
    from mvidx.config.load import load_config
    from mvidx.data.check import check_videos, make_report, print_report, rows_without

    cfg = load_config(parsed.cfg, parsed.overrides)
    names = config_data.class_names(cfg)
    seen: dict[str, str] = {}
    reports = []
    for split in splits:
        videos = config_data.read_videos(cfg, split)
        clip = config_data.clip_sampling(cfg, split)
        facts = check_videos(
            videos,
            backend=config_data.backend(cfg),
            timeout_seconds=cfg.DATA.DECODE_TIMEOUT_SECONDS or 60,
            full=parsed.full,
            num_threads=parsed.workers,
        )
        facts = list(tqdm(facts, total=len(videos), desc=split, unit="video", disable=not sys.stderr.isatty()))
        clip_seconds = 0.0 if clip.segments else clip.num_frames * clip.sampling_rate / clip.target_fps
        counts = videos.class_counts(cfg.MODEL.NUM_CLASSES)
        reports.append(
            make_report(split, videos, facts, class_counts=counts.tolist(), clip_seconds=clip_seconds, seen=seen)
        )
        print_report(reports[-1], names)
        if parsed.fix_list:
            rows = rows_without(videos, reports[-1].bad)
            write_text(parsed.fix_list, "".join(rows))
            print(f"{parsed.fix_list}: {len(rows)} rows, without {len(reports[-1].bad)} that can't be read")
    write_json(parsed.report, {"config": parsed.cfg, "splits": [asdict(report) for report in reports]})
    print(f"the whole report is in {parsed.report}")
    return int(any(report.bad for report in reports))


def main(arguments: Sequence[str] | None = None, **parser: str) -> int:
    """Returns the exit status: 0, 1 when a video can't be read, 2 and one line for a bad argument or file."""
    return guard(run, make_parser(**parser), arguments)
