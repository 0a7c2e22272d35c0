"""A model ready for use, from a checkpoint: what it is comes from the file, its name or a config."""

import contextlib
import dataclasses
import os
from collections.abc import Mapping, Sequence
from typing import Any

from torch import nn

from mvidx.checkpoint.files import CheckpointError, find_state, read_file
from mvidx.checkpoint.sources import load_content, under_our_names
from mvidx.config import load_config
from mvidx.config.card import card_of_config, card_of_text
from mvidx.data.annotations import read_class_names
from mvidx.errors import UserError
from mvidx.models.card import KEY, CardError, ModelCard, card_of
from mvidx.models.published import published_card, published_class_names
from mvidx.models.registry import create_model, model_entry

HUB_PREFIX = "hf://"
WEIGHTS_NAME = "model.safetensors"
"""Name of the weights in a folder that `save_pretrained` wrote."""


def local_checkpoint(path: str | os.PathLike) -> str:
    """The file of a checkpoint given as a file, a folder of `save_pretrained`, or hf://OWNER/NAME."""
    path = os.fspath(path)
    if path.startswith(HUB_PREFIX):
        from mvidx.inference.hub import download

        return download(path.removeprefix(HUB_PREFIX))
    if os.path.isdir(path):
        weights = os.path.join(path, WEIGHTS_NAME)
        if not os.path.isfile(weights):
            raise CheckpointError(f"checkpoint {path}: a folder without {WEIGHTS_NAME}")
        return weights
    return path


def card_in(content: Mapping[str, Any], path: str | os.PathLike) -> ModelCard | None:
    """The card in what `read_file` gave: ours, or made of the config that our runs and PySlowFast's save; or None.

    Raises CheckpointError, or ConfigError, for one that can't be used.
    """
    metadata = content.get("metadata")
    try:
        if content.get("card") is not None:
            return ModelCard.from_dict(content["card"])
        if isinstance(metadata, Mapping) and KEY in metadata:
            return ModelCard.from_json(metadata[KEY])
    except CardError as error:
        raise CheckpointError(f"checkpoint {path}: {error}") from None
    text = content.get("cfg")
    return card_of_text(text, f"checkpoint {path}") if isinstance(text, str) else None


def _build(card: ModelCard) -> nn.Module:
    try:
        return card.build()
    except CardError as error:
        raise UserError(str(error)) from None


def _named_model(name: str, overrides: Mapping[str, Any], content: dict, path: str) -> nn.Module:
    """A model by name, with as many classes as the file's classifier and the published preprocessing."""
    try:
        model = create_model(name, **overrides)
    except (ValueError, TypeError) as error:
        raise UserError(str(error)) from None
    source, state = under_our_names(model, find_state(content, path))
    if "num_classes" not in overrides and "head.weight" in state:
        model.reset_classifier(len(state["head.weight"]))
    card = published_card(name, card_of(model).arguments, source=source)
    video = model_entry(name).video
    model.card = dataclasses.replace(card, class_names=published_class_names(model.num_classes, video))
    return model


def load_model(
    checkpoint: str | os.PathLike,
    *,
    name: str | None = None,
    cfg: str | os.PathLike | None = None,
    overrides: Mapping[str, Any] | None = None,
    class_names: str | os.PathLike | Sequence[str] | None = None,
) -> nn.Module:
    """A model with the weights of a checkpoint, in eval mode, ready for `mvidx.predict`.

    Args:
        checkpoint: any file that `mvidx.load_checkpoint` reads, a folder of `save_pretrained`, or hf://OWNER/NAME.
        name: registered name of the model. The preprocessing is then that of its published weights, unless
            the file has a card of this model. Neither name nor cfg: the file itself must say what it is of, as
            those of mvidx and PySlowFast's runs do.
        cfg: config file that describes model and preprocessing.
        overrides: arguments of the model with `name`, keys of the config with `cfg`.
        class_names: one a class, or a file of them; what the file, the config or the published data say by default.

    Raises:
        UserError: a file, name, config or argument that can't be used, or a file that does not say what it is of.
    """
    if name is not None and cfg is not None:
        raise UserError("give the name of a model or a config, not both")
    overrides = dict(overrides or {})
    path = local_checkpoint(checkpoint)
    content = read_file(path)
    if cfg is not None:
        words = [word for key, value in overrides.items() for word in (key, str(value))]
        card = card_of_config(load_config(cfg, words))
        if not card.class_names:
            with contextlib.suppress(UserError):  # the config is enough
                kept = card_in(content, path)
                card = dataclasses.replace(card, class_names=kept.class_names if kept else ())
        model = _build(card)
    else:
        try:
            card = card_in(content, path)
        except UserError:
            if name is None:
                raise
            card = None  # the name is enough
        if card is not None and name in (None, card.name):
            model = _build(dataclasses.replace(card, arguments={**card.arguments, **overrides}))
        elif name is not None:
            model = _named_model(name, overrides, content, path)
        else:
            raise UserError(f"checkpoint {checkpoint} does not say which model it is of, expected its name or a config")
    report = load_content(model, content, path)
    if "head.weight" in report.reshaped:
        theirs, ours = (shape[0] for shape in report.reshaped["head.weight"])
        raise CheckpointError(f"checkpoint {checkpoint} has {theirs} classes, the model {ours}")
    if "head.weight" in report.missing:
        raise CheckpointError(f"checkpoint {checkpoint} has no classifier")
    if not card_of(model).class_names and report.source != "mvidx":
        names = published_class_names(model.num_classes, not card_of(model).preprocessing.takes_images)
        model.card = dataclasses.replace(model.card, class_names=names)
    if class_names is not None:
        model.card = dataclasses.replace(model.card, class_names=_names(class_names, model.num_classes))
    return model.eval()


def _names(class_names: str | os.PathLike | Sequence[str], num_classes: int) -> tuple[str, ...]:
    if isinstance(class_names, (str, os.PathLike)):
        return tuple(read_class_names(class_names, num_classes))
    if len(class_names) != num_classes:
        raise UserError(f"{len(class_names)} names of classes, the model has {num_classes}")
    return tuple(class_names)
