"""The command `tools/predict.py`, `mvidx predict`: the likeliest classes of videos and images."""

import argparse
import json
import os
import sys
from collections.abc import Sequence

from mvidx.cli.parser import (
    OneLineParser,
    add_compute_arguments,
    add_model_arguments,
    add_window_arguments,
    check_target,
    chosen_model,
    default_workers,
)
from mvidx.errors import UserError
from mvidx.launch import guard

EXAMPLE = """example:
  %(prog)s video.mp4 --checkpoint runs/motion_mvitv2_tiny/checkpoints/step_00000840.pyth
  %(prog)s videos/ --model mvitv2_s_video --checkpoint MViTv2_S_16x4.pyth --json top5.json
  %(prog)s long.mp4 --checkpoint FILE --window-seconds 4 --stride-seconds 2 --render labelled.mp4"""
RENDER_ENDINGS = (".mp4", ".png")
FEW_SECONDS = 0.1  # share of a video that its views should see at least


def make_parser(prog: str = "python tools/predict.py") -> argparse.ArgumentParser:
    parser = OneLineParser(
        prog=prog,
        usage="%(prog)s VIDEO [VIDEO ...] --checkpoint FILE [options]",
        description="Say what videos (or images) show: the likeliest classes.",
        epilog=EXAMPLE,
    )
    parser.add_argument("videos", nargs="+", metavar="VIDEO", help="file, folder, or list of paths (.txt, .csv)")
    parser.add_argument("--topk", type=int, default=5, metavar="K", help="classes of each result (5)")
    parser.add_argument("--json", metavar="FILE", help="write the results to FILE; - for the screen")
    parser.add_argument(
        "--render",
        action="append",
        default=[],
        metavar="FILE",
        help="FILE.mp4: the video with its labels; FILE.png: the frames that the model saw; "
        "may be given twice. {name} in FILE stands for the video's name, for several videos",
    )
    add_window_arguments(parser)
    add_model_arguments(parser)
    add_compute_arguments(parser)
    return parser


def clock(seconds: float) -> str:
    """Seconds as m:ss.s."""
    tenths = round(10 * seconds)
    return f"{tenths // 600}:{tenths % 600 // 10:02d}.{tenths % 10}"


def table(prediction, *, images: bool) -> list[str]:
    """Lines that show a prediction: its classes, and before them what each window shows."""
    if not prediction.top:
        return []
    length = "" if images else f"  ({clock(prediction.duration_seconds)})"
    lines = [f"{prediction.path}{length}"]
    if len(prediction.windows) > 1:
        for window in prediction.windows:
            shown = "  ".join(f"{score.name} {100 * score.probability:.1f}%" for score in window.top[:3])
            lines.append(f"  {clock(window.start_seconds):>8} - {clock(window.end_seconds):<8} {shown}")
        lines.append("  all windows:")
    width = max(len(score.name) for score in prediction.top)
    lines += [f"  {score.name:<{width}}  {100 * score.probability:6.2f}%" for score in prediction.top]
    return lines


def render_targets(templates: Sequence[str], inputs: Sequence) -> list[list[str]]:
    """The files to render of each input. Raises UserError for a name that does not do for all of them."""
    for template in templates:
        if os.path.splitext(template)[1].lower() not in RENDER_ENDINGS:
            raise UserError(f"--render {template}: expected a name that ends in {' or '.join(RENDER_ENDINGS)}")
        if len(inputs) > 1 and "{name}" not in template:
            raise UserError(f"--render {template}: {len(inputs)} videos, expected a name with {{name}} in it")
    targets, taken = [], {}
    for one in inputs:
        stem = os.path.splitext(one.name)[0].replace(os.sep, "_")
        targets.append([template.replace("{name}", stem) for template in templates])
        for target in targets[-1]:
            check_target(target, "--render")
            if other := taken.get(target):
                raise UserError(f"--render {target}: of both {other} and {one.path}")
            taken[target] = one.path
            if os.path.exists(one.path) and os.path.exists(target) and os.path.samefile(one.path, target):
                raise UserError(f"--render {target}: is the video itself")
    return targets


def run(parser: argparse.ArgumentParser, arguments: Sequence[str] | None) -> int:
    """Predict as the arguments say. Returns 1 when something could not be read."""
    parsed = parser.parse_args(arguments)
    if parsed.json and parsed.json != "-":
        check_target(parsed.json, "--json")

    from tqdm import tqdm

    from mvidx.checkpoint.paths import write_text
    from mvidx.inference.clips import Windows
    from mvidx.inference.inputs import find_inputs
    from mvidx.inference.predict import check_numbers, iter_predictions
    from mvidx.models.card import card_of

    windows = Windows(parsed.window_seconds, parsed.stride_seconds)
    check_numbers(topk=parsed.topk, batch_size=parsed.batch_size, views=parsed.views or 1)
    model = chosen_model(parsed)
    card = card_of(model)
    images = card.preprocessing.takes_images
    inputs = find_inputs(parsed.videos, images=images)
    targets = render_targets(parsed.render, inputs)
    if images and any(target.endswith(".mp4") for target in parsed.render):
        raise UserError("--render to .mp4, but the model takes images; .png shows them")
    sheets = {}
    if any(name.lower().endswith(".png") for name in parsed.render):
        from mvidx.inference.sheet import Sheets

        sheets = Sheets(card)

    results, failures = [], []
    found = iter_predictions(
        model,
        inputs,
        topk=parsed.topk,
        windows=windows,
        num_views=parsed.views,
        num_crops=parsed.crops,
        batch_size=parsed.batch_size,
        num_workers=default_workers(parsed, len(inputs)),
        precision=parsed.precision,
        backend=parsed.backend,
        observe=sheets.add if sheets else None,
        progress=sys.stderr.isatty(),
    )
    for index, prediction in enumerate(found):
        if prediction.top:
            results.append(prediction.to_dict())
        for line in table(prediction, images=images) if parsed.json != "-" else ():
            tqdm.write(line, file=sys.stdout)
        reason = prediction.failure or (_render(targets[index], inputs[index], index, prediction, sheets, parsed))
        if reason:
            failures.append({"path": prediction.path, "reason": reason})
            tqdm.write(f"unreadable: {prediction.path}: {reason}", file=sys.stderr)
        elif not images and windows.whole:
            _hint_at_windows(prediction, card.preprocessing.with_views(parsed.views, parsed.crops))
    if parsed.json:
        content = {"model": card.name, "checkpoint": parsed.checkpoint, "predictions": results, "failures": failures}
        text = json.dumps(content, indent=1) + "\n"
        if parsed.json == "-":
            print(text, end="")
        else:
            write_text(parsed.json, text)
    if failures:
        print(f"{len(failures)} of {len(inputs)} could not be read", file=sys.stderr)
    return 1 if failures else 0


def _hint_at_windows(prediction, preprocessing) -> None:
    """Say when the views of a whole video leave nearly all of it unseen."""
    if preprocessing.segments:
        return
    seen = preprocessing.num_views * preprocessing.clip_seconds
    if prediction.duration_seconds and seen < FEW_SECONDS * prediction.duration_seconds:
        print(
            f"note: {preprocessing.num_views} clips see {seen:.0f} s of {prediction.path}'s "
            f"{prediction.duration_seconds:.0f} s; --window-seconds gives a timeline of it all",
            file=sys.stderr,
        )


def _render(targets: Sequence[str], one, index: int, prediction, sheets, parsed) -> str | None:
    """Write the files of an input; returns why that failed, or None."""
    from mvidx.data.errors import VideoError

    for target in targets:
        if target.lower().endswith(".png"):
            sheets.write(index, prediction, target)
            continue
        from mvidx.inference.render import write_labelled_video

        try:
            write_labelled_video(one, prediction, target, backend=parsed.backend, progress=sys.stderr.isatty())
        except VideoError as error:
            return error.reason
    return None


def main(arguments: Sequence[str] | None = None, **parser: str) -> int:
    """Returns the exit status: 0, 1 when something could not be read, 2 and one line for a bad argument or file."""
    return guard(run, make_parser(**parser), arguments)
