"""Features of videos, one file a video: what the head reads, or the grid that it is the mean of, clip by clip."""

import hashlib
import json
import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from tqdm import tqdm

from mvidx.checkpoint.paths import write_atomically, write_text
from mvidx.errors import UserError
from mvidx.inference.clips import ClipWindows, Windows, clip_loader
from mvidx.inference.inputs import Input
from mvidx.inference.predict import check_numbers, in_order, scored
from mvidx.models.card import card_of

SETTINGS_NAME = "features.json"
FORMATS = ("npy", "safetensors")
DTYPES = {"float32": np.float32, "float16": np.float16}


@dataclass(frozen=True)
class Extracted:
    """What became of a video.

    Attributes:
        path: of the video.
        target: the file of its features.
        shape: of the features; None where they were there already or can't be had.
        failure: why not.
    """

    path: str
    target: str
    shape: tuple[int, ...] | None = None
    failure: str | None = None


def feature_function(model: nn.Module, *, grid: bool, stage: int | None) -> Callable[[Tensor], Tensor]:
    """Clips -> features: (B, C), or with `grid` (B, [T',] H', W', C), channels last.

    Args:
        model: any model of mvidx; stages want one of its own families.
        grid: keep the positions rather than taking their mean.
        stage: 1 to 4 for the grid at the end of that stage, not normed; None for what the head reads.
    """
    if stage is None:
        return model.forward_features if grid else model.forward_embedding
    if not 1 <= stage <= len(model.feature_info):
        known = f"1 to {len(model.feature_info)}" if model.feature_info else "none: this model has no stages"
        raise UserError(f"stage {stage}, expected {known}")
    if grid:
        return lambda clips: model.forward_pyramid(clips)[stage - 1]
    return lambda clips: model.forward_pyramid(clips)[stage - 1].flatten(1, -2).mean(1)


def weights_digest(model: nn.Module) -> str:
    """Tells weights apart: SHA-256 of all that the model's state holds."""
    digest = hashlib.sha256()
    for name, value in sorted(model.state_dict().items()):
        digest.update(name.encode())
        digest.update(value.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().data)
    return digest.hexdigest()


def target_files(inputs: Sequence[Input], folder: Path, ending: str) -> list[Path]:
    """The file of each input's features. Raises UserError for two inputs that would share one."""
    targets, taken = [], {}
    for one in inputs:
        name = os.path.normpath(one.name if one.frames else os.path.splitext(one.name)[0]).lstrip(os.sep)
        target = folder / f"{name}.{ending}"
        if name.split(os.sep)[0] == "..":
            raise UserError(f"{one.path}: its features would lie outside of {folder}")
        if target in taken:
            raise UserError(f"{taken[target]} and {one.path} would both be {target}: extract them into two folders")
        taken[target] = one.path
        targets.append(target)
    return targets


def check_settings(folder: Path, settings: dict[str, Any]) -> None:
    """Write what the features are made with into their folder, or compare with what is there.

    Raises UserError, which names the difference, for a folder of other features.
    """
    file = folder / SETTINGS_NAME
    settings = json.loads(json.dumps(settings))
    if file.exists():
        try:
            there = json.loads(file.read_text())
        except (OSError, ValueError):
            raise UserError(f"{file} can't be read, expected the settings of the features beside it") from None
        differing = [key for key in settings if there.get(key) != settings[key]]
        if differing:
            key = differing[0]
            raise UserError(
                f"{folder} holds features with other settings ({key} {_short(there.get(key))}, now "
                f"{_short(settings[key])}): choose another folder"
            )
        return
    folder.mkdir(parents=True, exist_ok=True)
    write_text(file, json.dumps(settings, indent=1) + "\n")


def _short(value: Any) -> str:
    text = json.dumps(value)
    return text if len(text) <= 60 else text[:57] + "..."


def extract(
    model: nn.Module,
    inputs: Sequence[Input],
    folder: str | os.PathLike,
    *,
    grid: bool = False,
    stage: int | None = None,
    file_format: str = "npy",
    dtype: str = "float32",
    windows: Windows | None = None,
    num_views: int | None = None,
    num_crops: int | None = None,
    batch_size: int = 8,
    num_workers: int = 0,
    precision: str = "float32",
    backend: str = "decord",
    progress: bool = False,
) -> Iterator[Extracted]:
    """Write the features of every input that has none yet into `folder`, a file each, whole or not at all.

    A file holds a row for every clip: windows in the order of time, in each its views, of each its crops. Of
    .safetensors, "features" has them and "start_seconds" and "end_seconds" (rows,) the windows' times.

    Args:
        model: of `load_model` or `create_model`.
        inputs: of `find_inputs`.
        folder: made if need be; `features.json` in it says what the features are of.
        grid, stage: see `feature_function`.
        file_format: "npy" or "safetensors".
        dtype: "float32" or "float16", of the file.
        windows, num_views, num_crops, batch_size, num_workers, precision, backend, progress: see `mvidx.predict`.

    Yields:
        An `Extracted` an input; those with files come first.

    Raises:
        UserError: a folder that holds features with other settings, or a bad argument.
    """
    folder, windows, card = Path(folder), windows or Windows(), card_of(model)
    check_numbers(batch_size=batch_size, num_views=num_views or 1)
    if file_format not in FORMATS or dtype not in DTYPES:
        raise UserError(
            f"features as {file_format} of {dtype}, expected {' or '.join(FORMATS)} of {' or '.join(DTYPES)}"
        )
    if num_views is None and not windows.whole:
        num_views = 1
    wanted = card.preprocessing.with_views(num_views, num_crops)
    if wanted.takes_images and not windows.whole:
        raise UserError("windows of time, but the model takes images")
    compute = feature_function(model, grid=grid, stage=stage)
    targets = target_files(inputs, folder, file_format)
    described = card.to_dict()
    settings = {
        "model": described["name"],
        "arguments": described["arguments"],
        "weights_sha256": weights_digest(model),
        "grid": grid,
        "stage": stage,
        "dtype": dtype,
        "preprocessing": {**described["preprocessing"], "num_views": wanted.num_views, "num_crops": wanted.num_crops,
                          "resize": wanted.resize},
        "window_seconds": windows.seconds,
        "stride_seconds": windows.stride_seconds,
    }  # fmt: skip
    try:
        check_settings(folder, settings)
    except OSError as error:
        raise UserError(f"cannot write to {folder}: {error.strerror}") from None

    todo = []
    for one, target in zip(inputs, targets, strict=True):
        if target.exists():
            yield Extracted(one.path, str(target))
        else:
            todo.append((one, target))
    loader = clip_loader(
        ClipWindows([one for one, _ in todo], wanted, windows, backend=backend), num_workers=num_workers
    )
    was_training = model.training
    model.eval()
    bar = tqdm(total=len(inputs), initial=len(inputs) - len(todo), unit="video", disable=not progress, leave=False)
    try:
        with bar:
            results = scored(model, loader, compute, wanted, batch_size=batch_size, precision=precision)
            for done in in_order(_written(results, todo, file_format, DTYPES[dtype])):
                bar.update()
                yield done
    finally:
        model.train(was_training)


def _written(
    results, todo: Sequence[tuple[Input, Path]], file_format: str, dtype: type
) -> Iterator[tuple[int, Extracted]]:
    """(number, what became of it) of each input when its last window has come."""
    parts: dict[int, list[np.ndarray]] = {}
    times: dict[int, list[tuple[float, float]]] = {}
    for window, features in results:
        one, target = todo[window.index]
        if features is not None:
            parts.setdefault(window.index, []).append(features.numpy().astype(dtype))
            spans = times.setdefault(window.index, [])
            spans += [(window.start_seconds, window.end_seconds)] * len(features)
        if not window.is_last:
            continue
        rows, spans = parts.pop(window.index, []), times.pop(window.index, [])
        if window.failure is not None:
            yield window.index, Extracted(one.path, str(target), failure=window.failure)
            continue
        whole = np.concatenate(rows)
        target.parent.mkdir(parents=True, exist_ok=True)
        write_atomically(target, lambda name, whole=whole, spans=spans: _save(name, whole, spans, file_format))
        yield window.index, Extracted(one.path, str(target), whole.shape)


def _save(name: str, features: np.ndarray, spans: Sequence[tuple[float, float]], file_format: str) -> None:
    if file_format == "npy":
        with open(name, "wb") as file:  # np.save would append .npy to a temporary name
            np.save(file, features)
        return
    from safetensors.numpy import save_file

    starts, ends = np.array(spans, np.float32).T
    save_file({"features": features, "start_seconds": starts.copy(), "end_seconds": ends.copy()}, name)
