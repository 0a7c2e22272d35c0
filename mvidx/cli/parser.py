"""What the commands' parsers share: errors in one line, KEY=VALUE arguments, and the options that choose a model."""

import argparse
import ast
import os
from collections.abc import Sequence
from typing import Any

from mvidx.errors import UserError


def _formatter(prog: str) -> argparse.HelpFormatter:
    """Help with room for the options' names, so that most take a line."""
    return argparse.RawDescriptionHelpFormatter(prog, max_help_position=34, width=100)


class OneLineParser(argparse.ArgumentParser):
    """An argument parser whose errors are one line, as those of everything else, and whose example is as written."""

    def __init__(self, **arguments):
        super().__init__(**{"formatter_class": _formatter, "allow_abbrev": False, **arguments})

    def error(self, message: str):
        raise UserError(f"{message} (see --help)")


def parse_overrides(pairs: Sequence[str], *, dotted: bool = False) -> dict[str, Any]:
    """Arguments of a model written KEY=VALUE; a value is a Python literal, or else a string.

    `dotted` takes keys of a config, such as DATA.NUM_FRAMES, too.
    """
    overrides = {}
    for pair in pairs:
        key, equals, text = pair.partition("=")
        if not equals or not (key.replace(".", "_") if dotted else key).isidentifier():
            raise UserError(f"argument {pair!r}, expected KEY=VALUE")
        try:
            overrides[key] = ast.literal_eval(text)
        except (ValueError, SyntaxError):
            overrides[key] = text
    return overrides


def add_model_arguments(parser: argparse.ArgumentParser, *, needs_checkpoint: bool = True) -> None:
    """The options that choose a model and its weights, see `chosen_model`."""
    group = parser.add_argument_group("model")
    what = group.add_mutually_exclusive_group()
    what.add_argument("--model", metavar="NAME", help="registered name; needless for a file that says what it is of")
    what.add_argument("--cfg", metavar="FILE", help="config that describes model and preprocessing")
    group.add_argument(
        "--checkpoint",
        required=needs_checkpoint,
        metavar="FILE",
        help="weights of any known source, a folder of save_pretrained, or hf://OWNER/NAME",
    )
    group.add_argument(
        "--set",
        nargs="+",
        default=[],
        metavar="KEY=VALUE",
        help="arguments of the model, or keys of the config with --cfg",
    )
    group.add_argument("--classes", metavar="FILE", help="names of the classes, one a line")


def add_compute_arguments(parser: argparse.ArgumentParser) -> None:
    """The options that say how it is computed."""
    group = parser.add_argument_group("computing")
    group.add_argument("--device", choices=("auto", "cpu", "cuda"), default="auto", help="auto: a GPU if there is one")
    group.add_argument("--precision", choices=("float32", "bfloat16", "float16"), default="float32")
    group.add_argument("--batch-size", type=int, default=8, metavar="N", help="clips in a forward pass (8)")
    group.add_argument("--workers", type=int, metavar="N", help="processes that decode ahead")
    group.add_argument("--backend", choices=("decord", "pyav", "torchcodec"), default="decord", help="decoder")


def add_window_arguments(parser: argparse.ArgumentParser) -> None:
    """The options that cut videos in time and choose the views."""
    group = parser.add_argument_group("time")
    group.add_argument("--window-seconds", type=float, metavar="S", help="cut videos into windows of this length")
    group.add_argument(
        "--stride-seconds", type=float, metavar="S", help="from window to window; no overlap if left out"
    )
    group.add_argument("--views", type=int, metavar="N", help="clips of a video or window (the test's; 1 in a window)")
    group.add_argument("--crops", type=int, choices=(1, 3), help="crops of a clip (the test's)")


def chosen_model(parsed: argparse.Namespace):
    """The model of the options of `add_model_arguments`, in eval mode, on the device of `add_compute_arguments`."""
    import torch

    from mvidx.inference.load import load_model

    model = load_model(
        parsed.checkpoint,
        name=parsed.model,
        cfg=parsed.cfg,
        overrides=parse_overrides(parsed.set, dotted=parsed.cfg is not None),
        class_names=parsed.classes,
    )
    device = getattr(parsed, "device", "cpu")
    if device == "auto":
        device = "cuda" if torch.cuda.is_available() else "cpu"
    if device == "cuda" and not torch.cuda.is_available():
        raise UserError("--device cuda, but there is no GPU that torch can use")
    return model.to(device)


def default_workers(parsed: argparse.Namespace, num_inputs: int) -> int:
    """Decoding processes: --workers, else one a core but the one that computes, up to 4 and one an input."""
    if parsed.workers is not None:
        if parsed.workers < 0:
            raise UserError(f"--workers {parsed.workers}, expected 0 or more")
        return parsed.workers
    return max(1, min(4, len(os.sched_getaffinity(0)) - 1, num_inputs))


def check_target(path: str | os.PathLike, option: str) -> None:
    """Raise UserError unless a file can be written at `path`: told before the work, not after it."""
    folder = os.path.dirname(os.path.abspath(path))
    if not os.path.isdir(folder):
        raise UserError(f"{option} {path}: there is no folder {folder}")
    if os.path.isdir(path):
        raise UserError(f"{option} {path}: is a folder, expected the name of a file")
    if not os.access(folder, os.W_OK):
        raise UserError(f"{option} {path}: the folder {folder} can't be written to")
