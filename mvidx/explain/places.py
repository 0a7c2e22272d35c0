"""The places inside a model that can be looked at: its blocks, by stage, and their grids on the way through."""

import contextlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from mvidx.errors import UserError
from mvidx.models.base import Backbone
from mvidx.models.metaformer import MetaFormer
from mvidx.models.mvit import MViT


@dataclass(frozen=True)
class Block:
    """A block of a model: `name` among its modules, and its stage, from 1."""

    name: str
    stage: int
    module: nn.Module


def blocks_of(model: Backbone) -> list[Block]:
    """All blocks in order. Raises UserError for a model of another library: its inside is not ours to know."""
    if isinstance(model, MViT):
        starts = [0, *(end + 1 for end in model.stage_ends)]
        return [
            Block(f"blocks.{index}", sum(index >= start for start in starts), block)
            for index, block in enumerate(model.blocks)
        ]
    if isinstance(model, MetaFormer):
        return [
            Block(f"stages.{s}.blocks.{b}", s + 1, block)
            for s, stage in enumerate(model.stages)
            for b, block in enumerate(stage.blocks)
        ]
    raise UserError(f"{type(model).__name__} can't be looked into, expected one of this package's own families")


def carries_token(model: Backbone) -> bool:
    """Whether the classifier reads a class token, which does not see the last block's grid any more."""
    return getattr(model, "cls_token", None) is not None and not getattr(model, "mean_pooling", False)


def grid_in(value: Tensor | tuple) -> Tensor:
    """The grid among a block's inputs or outputs: MViT's blocks pass (grid, token)."""
    return value[0] if isinstance(value, tuple) else value


@contextlib.contextmanager
def watching(modules: Sequence[nn.Module], see: Callable[[int, tuple, Tensor | tuple], None]) -> Iterator[None]:
    """Call `see(index, inputs, output)` whenever one of some modules has been called."""

    def hook(index: int):
        return lambda _, inputs, output: see(index, inputs, output)

    handles = [module.register_forward_hook(hook(index)) for index, module in enumerate(modules)]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


@contextlib.contextmanager
def evaluating(model: nn.Module) -> Iterator[None]:
    """Eval mode, and the mode that was before at the end."""
    was_training = model.training
    model.eval()
    try:
        yield
    finally:
        model.train(was_training)


@torch.no_grad()
def block_grids(model: Backbone, clips: Tensor, blocks: Sequence[Block]) -> list[Tensor]:
    """The grids that come out of some blocks, (B, [T',] H', W', C) each, memory of their own."""
    found: list[Tensor | None] = [None] * len(blocks)

    def see(index: int, _: tuple, output: Tensor | tuple) -> None:
        found[index] = grid_in(output).detach().clone()

    with evaluating(model), watching([block.module for block in blocks], see):
        model(clips)
    return found
