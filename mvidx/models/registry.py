"""The registry of models: names, their constructors and numbers, and `create_model`."""

import difflib
import fnmatch
import inspect
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from torch import nn

from mvidx.models.published import published_card


@dataclass(frozen=True)
class ModelEntry:
    """A named model: its constructor, and the arguments that make it this size.

    Attributes:
        name: registered name.
        build: constructor with explicit keyword arguments, among them num_classes and img_size.
        arguments: keyword arguments of this size.
        video: takes clips (B, 3, T, H, W) rather than images.
    """

    name: str
    build: Callable[..., nn.Module]
    arguments: dict[str, Any] = field(default_factory=dict)
    video: bool = False

    @property
    def parameters(self) -> set[str]:
        """Names of the constructor's keyword arguments."""
        return set(inspect.signature(self.build).parameters) - {"self"}

    @property
    def sized_arguments(self) -> dict[str, Any]:
        """`arguments`, with the constructor's own img_size and frames where they say none."""
        known = inspect.signature(self.build).parameters
        defaults = {key: known[key].default for key in ("img_size", "frames") if key in known}
        return {**defaults, **self.arguments}


_ENTRIES: dict[str, ModelEntry] = {}


def register_model(name: str, build: Callable[..., nn.Module], *, video: bool = False, **arguments) -> None:
    """Add a model to the registry. Raises ValueError for a name taken or an argument `build` does not have."""
    entry = ModelEntry(name, build, arguments, video)
    if name in _ENTRIES:
        raise ValueError(f"the model name {name!r} is registered twice")
    unknown = set(arguments) - entry.parameters
    if unknown:
        raise ValueError(f"model {name!r}: {build.__name__} has no argument {sorted(unknown)}")
    _ENTRIES[name] = entry


def nearest(name: str, known) -> str:
    """', did you mean X?' for the nearest known name, or nothing."""
    close = difflib.get_close_matches(name, list(known), n=1, cutoff=0.4)
    return f", did you mean {close[0]!r}?" if close else ""


def _load_families() -> None:
    import mvidx.models.families  # noqa: F401  (registers every model)


def list_models(pattern: str = "*") -> list[str]:
    """Names of all models that match a shell pattern, sorted."""
    _load_families()
    return sorted(fnmatch.filter(_ENTRIES, pattern))


def model_entry(name: str) -> ModelEntry:
    """The registry's entry of a name. Raises ValueError that names the nearest known one."""
    _load_families()
    if name not in _ENTRIES:
        raise ValueError(f"unknown model {name!r}{nearest(name, _ENTRIES)}")
    return _ENTRIES[name]


def create_model(
    name: str,
    *,
    num_classes: int | None = None,
    img_size: int | tuple[int, int] | None = None,
    frames: int | None = None,
    checkpoint: str | None = None,
    **overrides,
) -> nn.Module:
    """Build a model by name.

    Args:
        name: one of `list_models()`.
        num_classes: width of the logits; the published number (1000 for images, 400 for videos) by default.
        img_size: side of the default input in pixels, or (height, width): sizes the position tables.
        frames: frames of the default clip; video models only.
        checkpoint: file to load, see `mvidx.load_checkpoint`.
        **overrides: any other keyword argument of the model's class.

    Raises:
        ValueError: unknown name or override (the nearest known one is named), or a value that does not fit.
    """
    entry = model_entry(name)
    given = {"num_classes": num_classes, "img_size": img_size, "frames": frames}
    given = {key: value for key, value in given.items() if value is not None}
    if frames is not None and not entry.video:
        raise ValueError(f"frames={frames} does not apply to the image model {name!r}")
    for key in {**overrides, **given}:
        if key not in entry.parameters:
            raise ValueError(f"model {name!r} has no argument {key!r}{nearest(key, entry.parameters)}")
    model = entry.build(**{**entry.arguments, **overrides, **given})
    model.card = published_card(name, {**entry.sized_arguments, **overrides, **given})
    if checkpoint is not None:
        from mvidx.checkpoint.sources import load_checkpoint

        load_checkpoint(model, checkpoint)
    return model
