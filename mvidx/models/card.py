"""What a file must say beside its weights, for them to be of use: the model, its classes, and what it wants to see.

A `ModelCard` is plain data, so that JSON holds it: in checkpoints, in the metadata of .safetensors, .pt2 and .onnx
files, in config.json on the Hugging Face Hub. Reading one builds a model by its registered name and runs no code of
the file's.
"""

import dataclasses
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from torch import nn

from mvidx.errors import UserError

KEY = "mvidx_card"
"""Name of the card's JSON in the metadata of files that hold strings alone."""
SECTION_MODEL = "MViT"
"""Name of a model that is an MViT with all its arguments given, as configs describe it in their MVIT section."""


class CardError(UserError):
    """A card that can't be used; the message says what is wrong with it."""


@dataclass(frozen=True)
class Preprocessing:
    """From a video or image to the input of a model, and from its logits to probabilities.

    Attributes:
        crop: side of the square crops, pixels.
        mean, std: of the channels as they come from the file (red first), with pixels in [0, 1].
        reverse: give blue first, after normalisation.
        num_frames: frames of a clip; None for images.
        sampling_rate: distance of a clip's frames, in frames at `target_fps`.
        target_fps: frames a second that `sampling_rate` refers to.
        segments: a frame from each of `num_frames` equal segments instead (Something-Something).
        use_offset: see `data.sampling.uniform_view_indices`.
        resize: of clips: pixels of the short side, or (height, width).
        antialias: smooth clips before scaling down.
        num_views, num_crops: clips of a video, from start to end, and crops of each (1 or 3), that are scored.
        crop_ratio: of images: side of the crop over the short side; 0 squeezes the image into the crop.
        interpolation: of images, "bicubic" or "bilinear".
        activation: of the logits of each view, see `engine.tester.join_views`.
        ensemble: how views are joined, "sum" or "max".
    """

    crop: int
    mean: tuple[float, ...]
    std: tuple[float, ...]
    reverse: bool = False
    num_frames: int | None = None
    sampling_rate: float = 1
    target_fps: float = 30.0
    segments: bool = False
    use_offset: bool = True
    resize: int | tuple[int, int] = 256
    antialias: bool = False
    num_views: int = 1
    num_crops: int = 1
    crop_ratio: float = 0.875
    interpolation: str = "bicubic"
    activation: str = "softmax"
    ensemble: str = "sum"

    @property
    def takes_images(self) -> bool:
        return self.num_frames is None

    @property
    def clip_seconds(self) -> float:
        """What a clip spans."""
        return (self.num_frames or 1) * self.sampling_rate / self.target_fps

    def with_views(self, num_views: int | None = None, num_crops: int | None = None) -> "Preprocessing":
        """The same with another number of views or crops (None: as it is).

        Three crops lie side by side along the longer side, whose short side is then the crop's, as in PySlowFast.
        """
        changed = {}
        if num_views is not None:
            changed["num_views"] = num_views
        if num_crops is not None and num_crops != self.num_crops:
            if self.takes_images:
                raise CardError(f"{num_crops} crops, but the model takes images: they have one")
            changed["num_crops"] = num_crops
            if num_crops > 1:
                changed["resize"] = self.crop
        return dataclasses.replace(self, **changed)

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> "Preprocessing":
        """Raises CardError for an unknown key, a lacking one, or a value of a wrong kind."""
        known = {field.name: field for field in dataclasses.fields(cls)}
        given = {key: tuple(value) if isinstance(value, list) else value for key, value in values.items()}
        if unknown := sorted(set(given) - set(known)):
            raise CardError(f"its preprocessing has an unknown key {unknown[0]!r}, known are {', '.join(known)}")
        needed = [name for name, field in known.items() if field.default is dataclasses.MISSING]
        if lacking := [name for name in needed if name not in given]:
            raise CardError(f"its preprocessing lacks {lacking[0]!r}")
        for name, value in given.items():
            if not _FITS[name](value):
                raise CardError(f"its preprocessing has {name}={value!r}")
        return cls(**given)


def _number(value: Any, at_least: float = 0) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and value >= at_least


def _whole(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= 1


def _three_numbers(value: Any) -> bool:
    return isinstance(value, tuple) and len(value) == 3 and all(map(_number, value))


def _truth(value: Any) -> bool:
    return isinstance(value, bool)


_FITS = {
    "crop": _whole,
    "mean": _three_numbers,
    "std": lambda value: _three_numbers(value) and min(value) > 0,
    "reverse": _truth,
    "num_frames": lambda value: value is None or _whole(value),
    "sampling_rate": lambda value: _number(value) and value > 0,
    "target_fps": lambda value: _number(value) and value > 0,
    "segments": _truth,
    "use_offset": _truth,
    "resize": lambda value: _whole(value) or (isinstance(value, tuple) and len(value) == 2 and all(map(_whole, value))),
    "antialias": _truth,
    "num_views": _whole,
    "num_crops": lambda value: value in (1, 3),
    "crop_ratio": _number,
    "interpolation": lambda value: value in ("bicubic", "bilinear"),
    "activation": lambda value: value in ("softmax", "sigmoid", "none"),
    "ensemble": lambda value: value in ("sum", "max"),
}


@dataclass(frozen=True)
class ModelCard:
    """What a model is.

    Attributes:
        name: registered name, or "MViT" for one with all its arguments given.
        arguments: keyword arguments of its constructor; ints, floats, strings, None, tuples and dicts of these.
        preprocessing: what it was made for.
        class_names: one a class; empty where none are known.
    """

    name: str
    arguments: Mapping[str, Any]
    preprocessing: Preprocessing
    class_names: tuple[str, ...] = ()

    def __post_init__(self):
        object.__setattr__(self, "arguments", plain_arguments(self.arguments))

    def names(self, num_classes: int) -> Sequence[str]:
        """Names of the classes; their numbers, where there are no names or another number of them."""
        return self.class_names if len(self.class_names) == num_classes else tuple(map(str, range(num_classes)))

    def build(self) -> nn.Module:
        """The model, with initial weights and this card. Raises CardError when there is no such model."""
        from mvidx.models.mvit import MViT
        from mvidx.models.registry import create_model

        try:
            in_full = self.name == SECTION_MODEL
            model = MViT(**self.arguments) if in_full else create_model(self.name, **self.arguments)
        except (ValueError, TypeError) as error:
            raise CardError(f"its model {self.name!r} can't be built: {error}") from None
        model.card = self
        return model

    def to_dict(self) -> dict[str, Any]:
        """Plain values, for JSON or a checkpoint; `from_dict` undoes it."""
        preprocessing = {
            key: list(value) if isinstance(value, tuple) else value
            for key, value in dataclasses.asdict(self.preprocessing).items()
        }
        return {
            "name": self.name,
            "arguments": _jsonable(self.arguments),
            "preprocessing": preprocessing,
            "class_names": list(self.class_names),
        }

    def to_json(self) -> str:
        return json.dumps(self.to_dict())

    @classmethod
    def from_dict(cls, content: Any) -> "ModelCard":
        """Undo `to_dict`. Raises CardError, which says what is wrong, for anything else."""
        if not isinstance(content, Mapping):
            raise CardError(f"its card is a {type(content).__name__}, expected a dict")
        for key, kind in (("name", str), ("arguments", Mapping), ("preprocessing", Mapping), ("class_names", list)):
            if not isinstance(content.get(key), kind):
                raise CardError(f"its card has {key}={content.get(key)!r}, expected a {kind.__name__.lower()}")
        return cls(
            content["name"],
            content["arguments"],
            Preprocessing.from_dict(content["preprocessing"]),
            tuple(map(str, content["class_names"])),
        )

    @classmethod
    def from_json(cls, text: str) -> "ModelCard":
        """Undo `to_json`. Raises CardError for what is none."""
        try:
            return cls.from_dict(json.loads(text))
        except json.JSONDecodeError as error:
            raise CardError(f"its card is not JSON: {error}") from None


def plain_arguments(value: Any) -> Any:
    """Values from JSON or a config as constructors take them: lists as tuples, keys that are numbers as ints."""
    if isinstance(value, Mapping):
        return {int(key) if str(key).isdigit() else key: plain_arguments(entry) for key, entry in value.items()}
    return tuple(map(plain_arguments, value)) if isinstance(value, (list, tuple)) else value


def _jsonable(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {str(key): _jsonable(entry) for key, entry in value.items()}
    return list(map(_jsonable, value)) if isinstance(value, (list, tuple)) else value


def card_of(model: nn.Module) -> ModelCard:
    """The card of a model that was built by `create_model`, `config.build_model` or from a card.

    It follows `reset_classifier`. Raises CardError for any other module.
    """
    card = getattr(model, "card", None)
    if card is None:
        raise CardError(f"nothing is known about this {type(model).__name__}, expected a model of mvidx.create_model")
    names = card.class_names if len(card.class_names) == model.num_classes else ()
    return dataclasses.replace(
        card, arguments={**card.arguments, "num_classes": model.num_classes}, class_names=tuple(names)
    )
