"""Models for other runtimes: torch.export's .pt2 and ONNX, with a dynamic batch, checked against the model itself."""

import contextlib
import io
import os
import tempfile
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import torch
from torch import Tensor, nn

from mvidx.checkpoint.paths import write_atomically
from mvidx.errors import UserError
from mvidx.models.card import KEY, card_of

FORMATS = (".pt2", ".onnx")
CARD_NAME = f"{KEY}.json"
"""Name of the card among the extra files of a .pt2 file; of ONNX it is metadata, under `card.KEY`."""
TOLERANCE = 1e-4
"""How far logits may be from the model's, over the largest of them if that is above 1."""
ONNX_FILE_BYTES = 1_900_000_000
"""Weights beyond this lie beside the .onnx file: protobuf's limit is 2 GiB."""


@dataclass(frozen=True)
class ExportReport:
    """What was written.

    Attributes:
        path: the file.
        input_shape: of what it takes; "batch" for an axis that may have any length.
        difference: largest difference of its logits from the model's; None when it was not checked.
    """

    path: str
    input_shape: tuple[int | str, ...]
    difference: float | None


class ExportError(UserError):
    """A model that an exporter can't do, or does wrong."""


def _first_words(error: BaseException) -> str:
    """The gist of an exporter's message, which may have pages."""
    while error.__cause__ is not None:
        error = error.__cause__
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return f"{type(error).__name__}: {lines[0] if lines else ''}"[:300]


@contextlib.contextmanager
def _quiet():
    """Without what the exporters tell on the screen."""
    with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
        warnings.simplefilter("ignore")
        yield


def trace(model: nn.Module, shape: tuple[int, ...], *, batch: int | None) -> torch.export.ExportedProgram:
    """torch.export of a model in eval mode.

    Args:
        model: maps (B, *shape) to logits.
        shape: (3, [T,] H, W).
        batch: B; None for any.

    Raises:
        ExportError: torch.export can't do this model.
    """
    device = next(model.parameters()).device
    example = torch.zeros(batch or 2, *shape, device=device)
    dynamic = ({0: torch.export.Dim("batch", min=1)},) if batch is None else None
    try:
        with torch.no_grad(), _quiet():
            return torch.export.export(model, (example,), dynamic_shapes=dynamic, strict=False)
    except Exception as error:  # of many types
        raise ExportError(
            f"torch.export can't do {card_of(model).name} for {_words(shape, batch)}: {_first_words(error)}"
        ) from error


def _words(shape: tuple[int, ...], batch: int | None) -> str:
    return "x".join(map(str, ("batch" if batch is None else batch, *shape)))


def _settle_layouts(program: torch.export.ExportedProgram) -> None:
    """Copy what attention gives, transposed, into a contiguous tensor, in place.

    The attention that the ONNX exporter puts in lays its result out otherwise than the one that was traced: views that
    were traced would not fit. ONNX has no layouts, so that nothing is copied in the end.
    """
    graph = program.graph
    for node in list(graph.nodes):
        if node.target is not torch.ops.aten.scaled_dot_product_attention.default:
            continue
        for transposed in [user for user in node.users if user.target is torch.ops.aten.transpose.int]:
            with graph.inserting_after(transposed):
                copy = graph.call_function(
                    torch.ops.aten.clone.default, (transposed,), {"memory_format": torch.contiguous_format}
                )
            copy.meta["val"] = transposed.meta["val"]
            transposed.replace_all_uses_with(copy, delete_user_cb=lambda user, copy=copy: user is not copy)
    program.graph_module.recompile()


def _to_onnx(program: torch.export.ExportedProgram, name: str, *, images: bool, batch: int | None, card: str):
    """The ONNX program of a traced model. Raises ExportError where its exporter can't do it."""
    try:
        import onnx_ir
        import onnxscript  # noqa: F401
    except ImportError as error:
        raise UserError(f"ONNX needs {error.name}: pip install 'mvidx[export]'") from None
    _settle_layouts(program)
    try:
        with _quiet():
            names = {"input_names": ["images" if images else "clips"], "output_names": ["logits"]}
            onnx_program = torch.onnx.export(program, dynamo=True, verbose=False, **names)
    except Exception as error:
        raise ExportError(f"torch.onnx can't export {name}: {_first_words(error)}") from error
    graph = onnx_program.model.graph
    if batch is None:
        for value in (*graph.inputs, *graph.outputs):
            value.shape = onnx_ir.Shape(["batch", *list(value.shape)[1:]])
    onnx_program.model.metadata_props[KEY] = card
    return onnx_program


def onnx_function(path: str | os.PathLike) -> Callable[[Tensor], Tensor]:
    """What ONNX Runtime computes with a file, on the CPU: (B, 3, [T,] H, W) -> (B, classes)."""
    import onnxruntime

    session = onnxruntime.InferenceSession(os.fspath(path), providers=["CPUExecutionProvider"])
    name = session.get_inputs()[0].name
    return lambda x: torch.from_numpy(session.run(None, {name: x.cpu().numpy()})[0])


@torch.no_grad()
def largest_difference(
    model: nn.Module, other: Callable[[Tensor], Tensor], shape: tuple[int, ...], *, batch: int | None
) -> float:
    """Between the logits of two models for random inputs, of several batch sizes when `batch` is None.

    Raises ExportError when it is above TOLERANCE.
    """
    generator = torch.Generator().manual_seed(0)
    device = next(model.parameters()).device
    worst = 0.0
    for size in (1, 3) if batch is None else (batch,):
        x = torch.randn(size, *shape, generator=generator).to(device)
        ours, theirs = model(x).cpu(), other(x).cpu()
        difference = (ours - theirs).abs().max().item()
        if not difference <= TOLERANCE * max(1.0, ours.abs().max().item()):
            raise ExportError(f"the exported model's logits differ by {difference:.2g} from the model's: not written")
        worst = max(worst, difference)
    return worst


def export_model(
    model: nn.Module,
    target: str | os.PathLike,
    *,
    batch: int | None = None,
    img_size: int | tuple[int, int] | None = None,
    frames: int | None = None,
) -> ExportReport:
    """Write a model as .pt2 or .onnx, by the ending of `target`, after a comparison with the model itself.

    It takes normalised clips or images and gives logits. The file holds the model's card. Nothing is left behind when
    it can't be done or does not agree.

    Args:
        model: of `load_model` or `create_model`; in eval mode afterwards.
        target: file to write.
        batch: size of the batch; None for any.
        img_size, frames: of the input; the crop and the frames that the model is tested with by default.

    Raises:
        UserError: a wrong ending or size, a package that is not installed, a model that the exporter can't do, or one
            that disagrees.
    """
    target = os.fspath(target)
    ending = os.path.splitext(target)[1].lower()
    if ending not in FORMATS:
        raise UserError(f"{target}: expected a name that ends in {' or '.join(FORMATS)}")
    card = card_of(model)
    wanted = card.preprocessing
    if frames is not None and wanted.takes_images:
        raise UserError(f"frames={frames}, but {card.name} takes images")
    for name, value in (("batch", batch), ("frames", frames)):
        if value is not None and value < 1:
            raise UserError(f"{name} {value}, expected 1 or more")
    side = wanted.crop if img_size is None else img_size
    size = (side, side) if isinstance(side, int) else tuple(side)
    if min(size) < 1:
        raise UserError(f"img_size {size}, expected 1 or more")
    shape = (3, *(() if wanted.takes_images else (frames or wanted.num_frames,)), *size)
    model.eval()
    program = trace(model, shape, batch=batch)
    difference: float | None
    if ending == ".pt2":
        difference = largest_difference(model, program.module(), shape, batch=batch)
        _write_program(program, target, card.to_json())
    else:
        onnx_program = _to_onnx(program, card.name, images=wanted.takes_images, batch=batch, card=card.to_json())
        difference = _write_onnx(model, onnx_program, target, shape, batch)
    return ExportReport(target, ("batch" if batch is None else batch, *shape), difference)


def _write_program(program: torch.export.ExportedProgram, target: str, card: str) -> None:
    def write(name: str) -> None:
        with open(name, "wb") as file, _quiet():  # a file object: a name must end in .pt2
            torch.export.save(program, file, extra_files={CARD_NAME: card})

    write_atomically(target, write)


def _write_onnx(model: nn.Module, onnx_program, target: str, shape: tuple[int, ...], batch: int | None) -> float | None:
    """Write into a folder beside `target`, compare what was written, then put it in place.

    Returns the largest difference, None without ONNX Runtime.
    """
    num_bytes = sum(value.numel() * value.element_size() for value in model.state_dict().values())
    home = Path(target).absolute().parent
    with tempfile.TemporaryDirectory(prefix=".export-", dir=home) as folder:
        written = os.path.join(folder, os.path.basename(target))
        onnx_program.save(written, external_data=num_bytes > ONNX_FILE_BYTES)
        try:
            other = onnx_function(written)
        except ImportError:
            difference = None
        else:
            difference = largest_difference(model, other, shape, batch=batch)
        for file in sorted(Path(folder).iterdir(), reverse=True):  # weights in X.onnx.data come before X.onnx
            write_atomically(home / file.name, partial(os.replace, file))
    return difference
