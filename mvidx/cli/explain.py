"""The command `tools/explain.py`, `mvidx explain`: what a model looks at, and which frequencies its features hold."""

import argparse
import json
import os
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

from mvidx.cli.parser import OneLineParser, add_model_arguments, chosen_model
from mvidx.errors import UserError

DESCRIPTION = "Show what a model looks at in videos (or images): Grad-CAM, attention maps, Fourier spectra."
EXAMPLE = """example:
  %(prog)s video.mp4 --checkpoint runs/motion_mvitv2_tiny/checkpoints/step_00000840.pyth
  %(prog)s videos/ --show fourier --model iformer_s --checkpoint iformer_small.pth --output spectra"""
SHOWN = ("gradcam", "attention", "fourier")
FRAMES_AT_ONCE = 32


def make_parser(prog: str | None = None) -> argparse.ArgumentParser:
    parser = OneLineParser(prog=prog, description=DESCRIPTION, epilog=EXAMPLE)
    add_arguments(parser)
    return parser


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("videos", nargs="+", metavar="VIDEO", help="file, folder, or list of paths (.txt, .csv)")
    parser.add_argument("--show", nargs="+", choices=SHOWN, help="what; all that the model has by default")
    parser.add_argument("--output", default="explained", metavar="DIR", help="where the pictures go (explained)")
    parser.add_argument("--views", type=int, default=1, metavar="N", help="clips of a video, each explained (1)")
    parser.add_argument("--class", dest="label", metavar="NAME", help="class, or its number; the likeliest by default")
    parser.add_argument(
        "--stage", type=int, metavar="N", help="whose grid Grad-CAM takes; the last fine one by default"
    )
    parser.add_argument(
        "--method", choices=("gradcam", "layercam"), default="gradcam", help="layercam: finer, see docs"
    )
    parser.add_argument(
        "--blocks", nargs="+", metavar="NAME", help="attention of these; of each stage's last by default"
    )
    parser.add_argument(
        "--query",
        nargs="+",
        type=float,
        metavar="F",
        help="attention from [t] y x, fractions; the hottest place by default",
    )
    parser.add_argument("--device", choices=("auto", "cpu", "cuda"), default="auto", help="auto: a GPU if there is one")
    add_model_arguments(parser)


def find_class(wanted: str | None, names: Sequence[str]) -> int | None:
    """The label of a class given by its name or number. Raises UserError, which names the nearest known one."""
    import difflib

    if wanted is None:
        return None
    if wanted in names:
        return list(names).index(wanted)
    if wanted.isdigit() and int(wanted) < len(names):
        return int(wanted)
    close = difflib.get_close_matches(wanted, list(names), n=1, cutoff=0.4)
    hint = f", did you mean {close[0]!r}?" if close else ""
    raise UserError(f"--class {wanted}: expected a name of a class or a number from 0 to {len(names) - 1}{hint}")


def stems(inputs: Sequence) -> list[str]:
    """A file name's beginning for each input, all different."""
    found: list[str] = []
    for one in inputs:
        stem = os.path.splitext(one.name)[0].replace(os.sep, "_")
        number, unique = 2, stem
        while unique in found:
            number, unique = number + 1, f"{stem}_{number}"
        found.append(unique)
    return found


def cropped_frames(one, wanted, numbers: Sequence[int]) -> Iterator:
    """Frames of a video by number, resized and cropped as the model sees them: uint8 (crop, crop, 3) each."""
    from mvidx.data.transforms import as_clip, resize, scaled_size, take_crops

    with one.open(images=False) as video:
        for start in range(0, len(numbers), FRAMES_AT_ONCE):
            clip = as_clip(video.get_frames(numbers[start : start + FRAMES_AT_ONCE]))
            size = scaled_size(*clip.shape[-2:], wanted.resize) if isinstance(wanted.resize, int) else wanted.resize
            clip = resize(clip, size, antialias=wanted.antialias)
            yield from take_crops(clip, crop=wanted.crop, spatial_idx=(1,))[0].permute(1, 2, 3, 0).numpy()


def heat_between(heat, numbers: Sequence[int], frame: int):
    """Heat (T, H, W) of frames `numbers` (ascending), at another frame: linear in time, (H, W)."""
    import numpy as np

    place = float(np.interp(frame, numbers, np.arange(len(numbers))))
    low = int(place)
    high = min(low + 1, len(heat) - 1)
    return heat[low] + (place - low) * (heat[high] - heat[low])


class Explainer:
    """Explains inputs one after the other with one model, and writes what it finds."""

    def __init__(self, model, parsed: argparse.Namespace, inputs: Sequence):
        from mvidx.data.batch import Normalization
        from mvidx.explain.attention import attending
        from mvidx.models.card import card_of

        self.model = model
        self.parsed = parsed
        self.inputs = inputs
        card = card_of(model)
        self.wanted = card.preprocessing
        self.names = card.names(model.num_classes)
        self.label = find_class(parsed.label, self.names)
        self.normalize = Normalization(self.wanted.mean, self.wanted.std, self.wanted.reverse)
        self.folder = Path(parsed.output)
        self.attending = attending(model)
        self.shown = set(parsed.show or (SHOWN if self.attending else ("gradcam", "fourier")))
        if "attention" in self.shown and not self.attending:
            raise UserError(f"--show attention: no mixer of this {type(model).__name__} attends")
        known = [block.name for block, _ in self.attending]
        if parsed.blocks and (unknown := [name for name in parsed.blocks if name not in known]):
            raise UserError(f"--blocks {unknown[0]}: expected blocks that attend: {', '.join(known)}")
        self.blocks = parsed.blocks or list({block.stage: block.name for block, _ in self.attending}.values())
        if parsed.query is not None and len(parsed.query) != model.ndim:
            axes = "t y x" if model.ndim == 3 else "y x"
            raise UserError(f"--query takes {model.ndim} numbers, {axes}, got {len(parsed.query)}")
        if parsed.query is not None and not all(0 <= fraction <= 1 for fraction in parsed.query):
            raise UserError(f"--query {' '.join(map(str, parsed.query))}: expected fractions from 0 to 1")
        self.spectra: list[list] = []
        self.written: list[str] = []

    def explain(self, window, stem: str) -> dict:
        """Write the pictures of a read input; returns its record for explained.json."""
        import torch

        from mvidx.explain.fourier import fourier_analysis
        from mvidx.explain.gradcam import grad_cam

        device = next(self.model.parameters()).device
        views = []
        for view, crop in enumerate(window.clips):  # uint8 (3, [T,] crop, crop)
            clips = self.normalize(crop[None].to(device))
            label = None if self.label is None else torch.tensor([self.label], device=device)
            found = grad_cam(self.model, clips, classes=label, stage=self.parsed.stage, method=self.parsed.method)
            video = crop.ndim == 4
            frames = (crop.permute(1, 2, 3, 0) if video else crop.permute(1, 2, 0)[None]).numpy()
            heat = found.heat[0].cpu().numpy().reshape(frames.shape[:3])
            probability = float(found.logits.softmax(1)[0, found.classes[0]])
            name = self.names[int(found.classes[0])]
            says = f"{name} {100 * probability:.1f}%"
            one = f"{stem}_{view + 1}" if len(window.clips) > 1 else stem
            numbers = window.frames[view]
            seconds = (numbers / window.fps).tolist()
            if "gradcam" in self.shown:
                self._write_heat(one, window, numbers, seconds, frames, heat, says, found.block)
            if "attention" in self.shown:
                self._write_attention(one, clips, frames, found, says)
            if "fourier" in self.shown:
                self.spectra.append(fourier_analysis(self.model, [clips]))
            views.append(
                {
                    "class": name,
                    "probability": probability,
                    "seconds": seconds,
                    "block": found.block,
                    "mean_heat": [float(value) for value in heat.mean((1, 2))],
                }
            )
        return {"path": self.inputs[window.index].path, "views": views}

    def _path(self, name: str) -> Path:
        self.written.append(name)
        return self.folder / name

    def _write_heat(self, stem, window, numbers, seconds, frames, heat, says, block) -> None:
        import numpy as np

        from mvidx.explain import draw

        method = {"gradcam": "Grad-CAM", "layercam": "LayerCAM"}[self.parsed.method]
        caption = f"{says} · {method} of {block}"
        figure = draw.heat_figure(frames, heat, seconds=seconds, caption=caption)
        draw.save_figure(figure, self._path(f"{stem}_gradcam.png"))
        if len(frames) > 1:
            every = np.arange(numbers[0], numbers[-1] + 1)
            draw.write_heat_video(
                self._path(f"{stem}_gradcam.mp4"),
                cropped_frames(self.inputs[window.index], self.wanted, every),
                (heat_between(heat, numbers, frame) for frame in every),
                fps=window.fps,
                caption=caption,
            )

    def _write_attention(self, stem, clips, frames, found, says) -> None:
        import numpy as np

        from mvidx.explain import draw
        from mvidx.explain.attention import attention_maps

        where = self.parsed.query
        if where is None:
            hottest = np.unravel_index(int(found.heat[0].argmax()), found.heat.shape[1:])
            where = [(place + 0.5) / length for place, length in zip(hottest, found.heat.shape[1:], strict=True)]
        maps = attention_maps(self.model, clips, where=where, blocks=self.blocks)
        figure = draw.attention_figure(frames, maps, index=0, caption=f"{says} · attention, mean over heads")
        draw.save_figure(figure, self._path(f"{stem}_attention.png"))

    def write_spectra(self) -> list[dict]:
        """Write fourier.png, the mean over all clips; returns its numbers."""
        from mvidx.explain import draw
        from mvidx.explain.fourier import mean_spectra

        spectra = [mean_spectra(ones) for ones in zip(*self.spectra, strict=True)]
        caption = f"Fourier spectra of features, mean over {len(self.spectra)} clip{'s' * (len(self.spectra) > 1)}"
        draw.save_figure(draw.fourier_figure(spectra, caption=caption), self._path("fourier.png"))
        return [
            {
                "block": one.block,
                "depth": one.depth,
                "branch": one.branch,
                "frequencies": one.frequencies.tolist(),
                "log_amplitude": one.log_amplitude.tolist(),
                "time_high": one.time_high,
            }
            for one in spectra
        ]


def run(parsed: argparse.Namespace) -> int:
    """Explain as the arguments say. Returns 1 when something could not be read."""
    from tqdm import tqdm

    from mvidx.checkpoint.paths import write_text
    from mvidx.data.errors import VideoError
    from mvidx.explain.gradcam import blocks_to_explain
    from mvidx.inference.clips import ClipWindows, Windows
    from mvidx.inference.inputs import find_inputs
    from mvidx.inference.predict import check_numbers
    from mvidx.models.card import card_of

    check_numbers(views=parsed.views)
    if os.path.exists(parsed.output) and not os.path.isdir(parsed.output):
        raise UserError(f"--output {parsed.output} is a file, expected a folder")
    model = chosen_model(parsed)
    blocks_to_explain(model, parsed.stage)  # what can't be explained is told before anything is read
    wanted = card_of(model).preprocessing
    if wanted.takes_images and parsed.views > 1:
        raise UserError(f"--views {parsed.views}, but the model takes images")
    inputs = find_inputs(parsed.videos, images=wanted.takes_images)
    explainer = Explainer(model, parsed, inputs)
    try:
        explainer.folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"--output {parsed.output}: {error.strerror}") from None

    found = ClipWindows(inputs, wanted.with_views(parsed.views, 1), Windows())
    names, records, failures = stems(inputs), [], []
    for window in tqdm(found, total=len(inputs), unit="video", desc="explaining", disable=None):
        failure = window.failure
        if failure is None:
            try:
                records.append(explainer.explain(window, names[window.index]))
            except VideoError as error:
                failure = error.reason
        if failure is not None:
            path = inputs[window.index].path
            failures.append({"path": path, "reason": failure})
            tqdm.write(f"unreadable: {path}: {failure}", file=sys.stderr)
    content = {"model": card_of(model).name, "checkpoint": parsed.checkpoint, "videos": records, "failures": failures}
    if explainer.spectra:
        content["spectra"] = explainer.write_spectra()
    text = json.dumps(content, indent=1) + "\n"
    write_text(explainer.folder / "explained.json", text)
    for record in records:
        for view in record["views"]:
            print(f"{record['path']}: {view['class']} {100 * view['probability']:.1f}%")
    print(f"wrote explained.json and {len(explainer.written)} pictures and videos to {explainer.folder}")
    if failures:
        print(f"{len(failures)} of {len(inputs)} could not be read", file=sys.stderr)
    return 1 if failures else 0


def main(arguments: Sequence[str] | None = None, prog: str | None = None) -> int:
    """Returns the exit status: 0, 1 when something could not be read, 2 and one line for a bad argument or file."""
    from mvidx.launch import guard

    def parse_and_run() -> int:
        return run(make_parser(prog).parse_args(arguments))

    return guard(parse_and_run)
