"""`load_checkpoint`: a checkpoint of any known source into a model, with a report of what was done."""

import math
import os
from dataclasses import dataclass, field

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mvidx.checkpoint.files import CheckpointError, find_state, read_file
from mvidx.checkpoint.renames import State, recognise
from mvidx.layers.nd import resize_grid
from mvidx.layers.position import AbsolutePosition, RelativePosition, WindowBias


@dataclass
class LoadReport:
    """What `load_checkpoint` did, by our names.

    Attributes:
        source: the format it recognised.
        loaded: tensors taken over, reshaped ones included.
        reshaped: name -> (shape in the file, shape in the model) of tensors whose values were resized, or
            that were left out because the classifier has another size.
        missing: tensors of the model that the file does not have; they keep their initial values.
        unexpected: tensors of the file that the model has no place for.
    """

    source: str
    loaded: list[str] = field(default_factory=list)
    reshaped: dict[str, tuple[tuple[int, ...], tuple[int, ...]]] = field(default_factory=dict)
    missing: list[str] = field(default_factory=list)
    unexpected: list[str] = field(default_factory=list)

    def __str__(self) -> str:
        rows = [("source", self.source), ("loaded", f"{len(self.loaded)} tensors")]
        rows += [(f"reshaped {name}", f"{old} -> {new}") for name, (old, new) in self.reshaped.items()]
        rows += [(f"missing {name}", "keeps its initial values") for name in self.missing]
        rows += [(f"unexpected {name}", "left out") for name in self.unexpected]
        width = max(len(left) for left, _ in rows)
        return "\n".join(f"{left:<{width}}  {right}" for left, right in rows)


def position_tables(model: nn.Module) -> set[str]:
    """Names of the parameters that may be interpolated to another size."""
    return {
        f"{prefix}.{name}"
        for prefix, module in model.named_modules()
        if isinstance(module, (AbsolutePosition, RelativePosition, WindowBias))
        for name, _ in module.named_parameters(recurse=False)
    }


def resize_table(table: Tensor, shape: tuple[int, ...]) -> Tensor | None:
    """A position table at another size: (rows, C) or (1, *size, C); None when it can't be one."""
    if table.shape[-1] != shape[-1]:
        return None
    if len(shape) == 2 and table.ndim == 2:
        return F.interpolate(table.t()[None].float(), size=shape[0], mode="linear")[0].t().to(table.dtype)
    if len(shape) == 4 and table.ndim in (2, 3):  # (N, C) or (1, N, C): a flattened square grid
        side = round(table.shape[-2] ** 0.5)
        if side * side != table.shape[-2]:
            return None
        table = table.reshape(1, side, side, -1)
    if table.ndim != len(shape):
        return None
    return resize_grid(table, shape[1:-1])


def fit_tensor(name: str, value: Tensor, shape: tuple[int, ...], *, table: bool) -> tuple[Tensor, bool]:
    """A tensor of a file in the shape that a model has.

    1x1 convolutions become matrices and flattened tables get their axes; a position table of another size is
    interpolated.

    Args:
        name: for the error.
        value: any shape.
        shape: the one wanted.
        table: whether it is a position table.

    Returns:
        The tensor, and whether it was interpolated.

    Raises:
        CheckpointError: it does not fit.
    """
    old = tuple(value.shape)
    if old == shape:
        return value, False
    flattened = table and len(old) < len(shape) and old[-1] == shape[-1]
    if value.numel() == math.prod(shape) and (flattened or _squeezed(old) == _squeezed(shape)):
        return value.reshape(shape), False
    resized = resize_table(value, shape) if table else None
    if resized is None:
        hint = "; weights of an image model go through mvidx.inflate" if len(old) == 4 and len(shape) == 5 else ""
        raise CheckpointError(f"{name} has shape {old} in the file and {shape} in the model{hint}")
    return resized, True


def fit(state: State, model: nn.Module, report: LoadReport) -> State:
    """The part of `state` (our names) that `model` takes, in its shapes; fills `report`."""
    wanted = {name: tuple(value.shape) for name, value in model.state_dict().items()}
    tables = position_tables(model)
    fitted = {}
    for name, value in state.items():
        if name not in wanted:
            report.unexpected.append(name)
            continue
        shape, old = wanted[name], tuple(value.shape)
        if name.startswith("head.") and old != shape:
            report.reshaped[name] = (old, shape)
            continue
        fitted[name], resized = fit_tensor(name, value, shape, table=name in tables)
        if resized:
            report.reshaped[name] = (old, shape)
        report.loaded.append(name)
    report.missing = [
        name for name in wanted if name not in fitted and name not in report.reshaped and not is_counter(name)
    ]
    return fitted


def _squeezed(shape: tuple[int, ...]) -> tuple[int, ...]:
    return tuple(n for n in shape if n != 1)


def load_checkpoint(
    model: nn.Module, path: str | os.PathLike, *, strict: bool = True, average: bool = False
) -> LoadReport:
    """Load a checkpoint of any known source into a model, print what was done, and return it.

    The source is recognised by its keys: our own files, PySlowFast and facebookresearch/mvit, timm,
    torchvision, official PoolFormer and Inception Transformer, PaddleClas MixFormer. Position tables of
    another size are interpolated. A classifier of another size keeps its initial values and is reported.

    Args:
        model: a model of `create_model`.
        path: file, or anything else that iopath opens.
        strict: refuse a file that lacks a tensor of the model (the classifier apart).
        average: take the moving average of the weights that a run with EMA.ENABLE saved, rather than the weights.

    Raises:
        CheckpointError: a ValueError that names the file and what is wrong: missing or damaged file, code
            inside, a tensor that nothing explains, a shape that does not fit, or missing tensors.
    """
    report = load_content(model, read_file(path), path, strict=strict, average=average)
    print(report)
    return report


def under_our_names(model: nn.Module, state: State) -> tuple[str, State]:
    """Name of the source of a state for this model, and the state under our names."""
    original = model.from_original(state) if hasattr(model, "from_original") else None
    return original or recognise(state)


def load_content(
    model: nn.Module, content: dict, path: str | os.PathLike, *, strict: bool = True, average: bool = False
) -> LoadReport:
    """`load_checkpoint` of what `read_file` gave for `path`; prints nothing."""
    content = find_state(content, path, average=average)
    source = "unrecognised"
    try:
        source, state = under_our_names(model, content)
        if hasattr(model, "prepare_for"):
            model.prepare_for(state)
        report = LoadReport(source)
        fitted = fit(state, model, report)
    except CheckpointError as error:
        raise CheckpointError(f"checkpoint {path} ({source}): {error}") from None
    if report.unexpected:
        raise CheckpointError(
            f"checkpoint {path} ({source}): {len(report.unexpected)} tensors have no place in "
            f"{type(model).__name__}: {listed(report.unexpected)}"
        )
    lacking = [name for name in report.missing if not name.startswith("head.")]
    if strict and lacking:
        raise CheckpointError(
            f"checkpoint {path} ({source}): lacks {len(lacking)} tensors of {type(model).__name__}: {listed(lacking)}"
        )
    with torch.no_grad():
        model.load_state_dict(fitted, strict=False)
    return report


def is_counter(name: str) -> bool:
    """Whether this is a BatchNorm's count of batches, which Paddle does not have and nothing here reads."""
    return name.endswith("num_batches_tracked")


def listed(names: list[str], limit: int = 8) -> str:
    """The first names of a list, and how many more there are."""
    more = f" and {len(names) - limit} more" if len(names) > limit else ""
    return ", ".join(names[:limit]) + more
