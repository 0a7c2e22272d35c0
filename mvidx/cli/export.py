"""The command `tools/export.py`, `mvidx export`: a model as torch.export's .pt2 or as ONNX."""

import argparse
from collections.abc import Sequence

from mvidx.cli.parser import OneLineParser, add_model_arguments, check_target, chosen_model
from mvidx.errors import UserError
from mvidx.launch import guard

EXAMPLE = """example:
  %(prog)s --checkpoint runs/motion_mvitv2_tiny/checkpoints/step_00000840.pyth --output motion.onnx
  %(prog)s --model poolformer_s12 --checkpoint poolformer_s12.pth.tar --output poolformer.pt2 --batch 1
The file takes normalised clips or images (any batch, unless --batch says one) and gives logits."""


def make_parser(prog: str = "python tools/export.py") -> argparse.ArgumentParser:
    parser = OneLineParser(
        prog=prog,
        usage="%(prog)s --checkpoint FILE --output FILE.pt2|FILE.onnx [options]",
        description="Write a model for other runtimes, compared with the model itself.",
        epilog=EXAMPLE,
    )
    parser.add_argument("--output", required=True, metavar="FILE", help="its ending says the format: .pt2 or .onnx")
    parser.add_argument("--batch", type=int, metavar="N", help="a fixed batch (any)")
    parser.add_argument("--img-size", type=int, metavar="PIXELS", help="side of the input (the test crop's)")
    parser.add_argument("--frames", type=int, metavar="N", help="frames of a clip (the test's)")
    add_model_arguments(parser)
    return parser


def run(parser: argparse.ArgumentParser, arguments: Sequence[str] | None) -> None:
    """Export as the arguments say."""
    parsed = parser.parse_args(arguments)
    check_target(parsed.output, "--output")
    from mvidx.inference.export import FORMATS, export_model

    if not parsed.output.lower().endswith(FORMATS):
        raise UserError(f"--output {parsed.output}: expected a name that ends in {' or '.join(FORMATS)}")
    report = export_model(
        chosen_model(parsed), parsed.output, batch=parsed.batch, img_size=parsed.img_size, frames=parsed.frames
    )
    shape = " x ".join(map(str, report.input_shape))
    checked = (
        "not compared: ONNX Runtime is not installed"
        if report.difference is None
        else f"logits within {report.difference:.1e} of the model's"
    )
    print(f"wrote {report.path}: input {shape}, {checked}")


def main(arguments: Sequence[str] | None = None, **parser: str) -> int:
    """Returns the exit status: 2 and one line for a bad argument, file, or model that can't be exported."""
    return guard(run, make_parser(**parser), arguments)
