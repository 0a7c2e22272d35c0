"""Commands that write checkpoints: `tools/convert_checkpoint.py` and `tools/inflate_checkpoint.py`."""

import argparse
import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from mvidx.checkpoint.files import find_state, read_file
from mvidx.checkpoint.inflate import TIMES, inflate
from mvidx.checkpoint.paths import write_atomically
from mvidx.checkpoint.renames import recognise
from mvidx.checkpoint.sources import load_checkpoint
from mvidx.cli.parser import OneLineParser, parse_overrides
from mvidx.errors import UserError
from mvidx.launch import guard
from mvidx.models.card import KEY, ModelCard, card_of
from mvidx.models.published import published_card, published_class_names
from mvidx.models.registry import create_model, model_entry


def write_checkpoint(path: str | Path, state: dict[str, Tensor], card: ModelCard) -> None:
    """Write a model's state and its card: {"model", "card"}, or for a name in .safetensors the card as metadata."""
    if not Path(path).absolute().parent.is_dir():
        raise UserError(f"cannot write {path}: there is no such folder")
    state = {name: value.detach().cpu().contiguous() for name, value in state.items()}
    if str(path).endswith(".safetensors"):
        from safetensors.torch import save_file

        write = lambda name: save_file(state, name, metadata={"format": "pt", KEY: card.to_json()})  # noqa: E731
    else:
        write = lambda name: torch.save({"model": state, "card": card.to_dict()}, name)  # noqa: E731
    try:
        write_atomically(path, write)
    except (OSError, RuntimeError) as error:  # torch.save raises the latter
        raise UserError(f"cannot write {path}: {str(error).splitlines()[0]}") from None


def _build(name: str, state: dict[str, Tensor], overrides: dict[str, Any]) -> nn.Module:
    """The model of a command, with as many classes as the file's classifier has."""
    if "head.bias" in state:
        overrides = {"num_classes": len(state["head.bias"]), **overrides}
    try:
        return create_model(name, **overrides)
    except (ValueError, TypeError) as error:
        raise UserError(str(error)) from None


def _card(model: nn.Module, name: str, content: dict, path: str, source: str) -> ModelCard:
    """What the output says of itself: the input's own card where it is of this model, else what was published."""
    from mvidx.inference.load import card_in

    built = card_of(model)
    try:
        theirs = card_in(content, path)
    except UserError:
        theirs = None
    if theirs is not None and theirs.name == name:
        return dataclasses.replace(theirs, arguments=built.arguments)
    names = theirs.class_names if theirs is not None else ()
    if len(names) != model.num_classes:
        names = published_class_names(model.num_classes, model_entry(name).video)
    return dataclasses.replace(published_card(name, built.arguments, source=source), class_names=names)


def convert_file(model_name: str, source: str, target: str, overrides: dict[str, Any]) -> None:
    """Write any known checkpoint of a model as one of ours."""
    content = read_file(source)
    model = _build(model_name, recognise(find_state(content, source))[1], overrides)
    report = load_checkpoint(model, source)
    write_checkpoint(target, model.state_dict(), _card(model, model_name, content, source, report.source))
    print(f"wrote {target}")


def inflate_file(model_name: str, source: str, target: str, overrides: dict[str, Any], time: str) -> None:
    """Write any known checkpoint of an image model as one of ours for a video model."""
    content = read_file(source)
    name, state = recognise(find_state(content, source))
    model = _build(model_name, state, overrides)
    if not model_entry(model_name).video:
        raise UserError(f"{model_name!r} is an image model, expected a video model (its name ends in '_video')")
    try:
        inflated = inflate(state, model, time=time)
    except UserError as error:
        raise UserError(f"checkpoint {source}: {error}") from None
    write_checkpoint(target, inflated, _card(model, model_name, content, source, name))
    print(f"inflated {name} checkpoint {source} for {model_name}: {len(inflated)} tensors\nwrote {target}")


def _parser(description: str, prog: str, example: str) -> argparse.ArgumentParser:
    parser = OneLineParser(prog=prog, description=description, epilog=f"example:\n  %(prog)s {example}")
    parser.add_argument("--model", required=True, metavar="NAME", help="name of the model that the output is for")
    parser.add_argument("--input", required=True, metavar="FILE", help="checkpoint of any known source")
    parser.add_argument("--output", required=True, metavar="FILE", help="checkpoint to write; .safetensors for that")
    parser.add_argument(
        "overrides", nargs="*", metavar="KEY=VALUE", help="arguments of the model, such as img_size=384"
    )
    return parser


def make_convert_parser(prog: str = "python tools/convert_checkpoint.py") -> argparse.ArgumentParser:
    example = "--model iformer_s --input iformer_small_384.pth --output ours.safetensors img_size=384"
    return _parser("Rewrite a checkpoint of any known source in our format.", prog, example)


def make_inflate_parser(prog: str = "python tools/inflate_checkpoint.py") -> argparse.ArgumentParser:
    example = "--model poolformer_s12_video --input poolformer_s12.pth.tar --output video.pth"
    parser = _parser("Make weights of a video model from those of an image model.", prog, example)
    parser.add_argument("--time", choices=TIMES, default="center", help="where a kernel goes in time")
    return parser


def _convert(parser: argparse.ArgumentParser, arguments: Sequence[str] | None) -> None:
    parsed = parser.parse_args(arguments)
    convert_file(parsed.model, parsed.input, parsed.output, parse_overrides(parsed.overrides))


def _inflate(parser: argparse.ArgumentParser, arguments: Sequence[str] | None) -> None:
    parsed = parser.parse_args(arguments)
    inflate_file(parsed.model, parsed.input, parsed.output, parse_overrides(parsed.overrides), parsed.time)


def convert_main(arguments: Sequence[str] | None = None, **parser: str) -> int:
    """`tools/convert_checkpoint.py`. Returns the exit status: 2 and one line for a bad argument or file."""
    return guard(_convert, make_convert_parser(**parser), arguments)


def inflate_main(arguments: Sequence[str] | None = None, **parser: str) -> int:
    """`tools/inflate_checkpoint.py`. Returns the exit status: 2 and one line for a bad argument or file."""
    return guard(_inflate, make_inflate_parser(**parser), arguments)
