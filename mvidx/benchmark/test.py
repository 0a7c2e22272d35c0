"""A whole multi-view test, files to scores, against decoding each view by itself as PySlowFast does.

Ours decodes a video once, cuts its views and runs them in batches (`mvidx.engine.tester.evaluate`); the reference has a
DataLoader whose item is one view (see `mvidx/benchmark/loader.py`) and runs batches of as many views. Both take the
same files and views, with the same model, or with another library's of the same architecture and weights.
"""

import argparse
from pathlib import Path

import cv2
import torch
from torch import Tensor, nn

from mvidx.benchmark.common import machine, machine_line, print_table, ratio, ratio_text, time_alternately, write_rows
from mvidx.benchmark.loader import Side, benchmark_videos, test_sides
from mvidx.benchmark.peers import LIBRARIES, build_peer, share_weights
from mvidx.config import data as config_data
from mvidx.config.build import build_model
from mvidx.config.load import load_config
from mvidx.data.annotations import VideoList
from mvidx.engine.tester import evaluate
from mvidx.engine.trainer import PRECISIONS, autocast
from mvidx.errors import UserError

NO_DROPS = {"drop_path_rate": 0.0, "head_drop_rate": 0.0}
EXAMPLE = "example: python tools/benchmark.py test --cfg configs/K400/MVITv2_S.yaml --views 5x1,10x3"


def parse_views(text: str) -> tuple[int, int]:
    """'10x3' -> (10, 3): temporal views and crops of each."""
    parts = text.split("x")
    if len(parts) != 2 or not all(part.isdigit() and int(part) for part in parts) or int(parts[1]) not in (1, 3):
        raise UserError(f"--views {text}, expected temporal views x crops (1 or 3), as in 10x3")
    return int(parts[0]), int(parts[1])


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.epilog = EXAMPLE
    parser.add_argument("--cfg", required=True, metavar="FILE", help="config of model and test")
    parser.add_argument("--views", default="5x1,10x3", metavar="TxC,TxC", help="temporal views x crops")
    parser.add_argument("--against", choices=("torchvision", "pytorchvideo"), help="whose model the reference runs")
    parser.add_argument("--videos", default="data/benchmark", metavar="FOLDER", help="where the files are made")
    parser.add_argument("--num-videos", type=int, default=4, metavar="N")
    parser.add_argument("--workers", type=int, default=2, metavar="N", help="of each side")
    parser.add_argument("--rounds", type=int, default=3, metavar="N", help="tests of each side")
    parser.add_argument("--backend", choices=("decord", "pyav"), default="pyav", help="decoder of ours")
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    parser.add_argument("--dtype", choices=tuple(PRECISIONS), default="float32")
    parser.add_argument("--json", metavar="FILE", help="write the numbers to FILE too")
    parser.add_argument("overrides", nargs="*", metavar="KEY VALUE", help="keys of the config to override")


@torch.inference_mode()
def reference_scores(side: Side, model: nn.Module, *, views: int, device: torch.device, dtype: str) -> Tensor:
    """(videos, classes): mean over the views of the softmax of each, of views that come one by one."""
    scores = []
    for clips in side.loader:
        with autocast(device, dtype):
            logits = model(clips.to(device, non_blocking=True))
        scores.append(logits.float().softmax(-1).cpu())
    return torch.cat(scores).unflatten(0, (-1, views)).mean(1)


def run(parsed: argparse.Namespace) -> int:
    """Measure, print a table, write JSON. Returns the exit status."""
    all_views = [parse_views(text) for text in parsed.views.split(",")]
    for name in ("num_videos", "rounds", "workers"):
        if getattr(parsed, name) < 1:
            raise UserError(f"--{name.replace('_', '-')} {getattr(parsed, name)}, expected 1 or more")
    if parsed.device == "cuda" and not torch.cuda.is_available():
        raise UserError("--device cuda, but PyTorch finds no GPU here")
    cfg = load_config(parsed.cfg, parsed.overrides)
    device = torch.device(parsed.device)
    cv2.setNumThreads(0)
    videos = benchmark_videos(Path(parsed.videos), parsed.num_videos)
    ours = build_model(cfg).to(device).eval()
    theirs = ours
    if parsed.against:
        if cfg.MODEL.MODEL_NAME not in LIBRARIES[parsed.against][0]:
            raise UserError(f"--against {parsed.against} has no model like {cfg.MODEL.MODEL_NAME!r}")
        theirs = build_peer(cfg.MODEL.MODEL_NAME, parsed.against, ours.input_size, NO_DROPS)
        share_weights(ours, theirs)
        theirs = theirs.to(device).eval()
    rows = [measure(cfg, videos, views, ours, theirs, device, parsed) for views in all_views]
    described = machine(parsed.device)
    print_table(
        f"whole test of {cfg.MODEL.MODEL_NAME}, {parsed.dtype}, {parsed.device}, {parsed.workers} workers each",
        ["views", "videos/s ours", "theirs", "theirs / ours", "largest difference of scores"],
        [
            [
                row["views"],
                f"{row['videos_per_second']['ours']:.3f}",
                f"{row['videos_per_second']['theirs']:.3f}",
                ratio_text(row),
                f"{row['score_difference']:.1e}",
            ]
            for row in rows
        ],
        caption=machine_line(described),
    )
    if parsed.json:
        write_rows(parsed.json, rows, described, config=parsed.cfg)
    return 0


def measure(
    cfg,
    videos: VideoList,
    views: tuple[int, int],
    ours: nn.Module,
    theirs: nn.Module,
    device: torch.device,
    parsed: argparse.Namespace,
) -> dict:
    """Time both sides in turn; returns what goes into the JSON."""
    sides = test_sides(cfg, videos, parsed.backend, views=views, options=parsed)
    found: dict[str, Tensor] = {}

    def test_ours() -> None:
        predictions = evaluate(
            ours,
            sides["ours"].loader,
            num_classes=cfg.MODEL.NUM_CLASSES,
            prepare=config_data.normalization(cfg, "test"),
            device=device,
            views_per_batch=max(1, cfg.TEST.BATCH_SIZE),
            precision=parsed.dtype,
        )
        found["ours"] = torch.from_numpy(predictions.scores)

    def test_theirs() -> None:
        found["theirs"] = reference_scores(
            sides["theirs"], theirs, views=views[0] * views[1], device=device, dtype=parsed.dtype
        )

    timings = time_alternately(
        {"ours": test_ours, "theirs": test_theirs}, rounds=parsed.rounds, warmup=1, device=device
    )
    times = ratio(timings["theirs"], timings["ours"])
    return {
        "views": f"{views[0]}x{views[1]}",
        "ratio": times.median,
        "ratio_quartiles": (times.low, times.high),
        "ours_seconds": timings["ours"].median,
        "theirs_seconds": timings["theirs"].median,
        "videos_per_second": {side: len(videos) / timing.median for side, timing in timings.items()},
        "score_difference": (found["ours"] - found["theirs"]).abs().max().item(),
    }
