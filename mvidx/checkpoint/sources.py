"""Checkpoints of other projects: one rename table for each source, and `load_checkpoint`.

A source is recognised by its keys. Its table is a list of (pattern, replacement): every pattern is applied
to every name, in order, as `re.sub`; a replacement of None drops the name on purpose. What a table leaves
over must be a name of our model, or loading fails and lists it.
"""

import os
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mvidx.checkpoint.files import CheckpointError, find_state, read_file
from mvidx.layers.nd import resize_grid
from mvidx.layers.position import AbsolutePosition, RelativePosition, WindowBias

State = dict[str, Tensor]


@dataclass(frozen=True)
class Source:
    """Another project's checkpoint format.

    Attributes:
        name: what the report calls it.
        signature: patterns that must each match some key.
        renames: (pattern, replacement or None) in order.
        convert: changes the values before the renames (layouts, joined tables).
    """

    name: str
    signature: tuple[str, ...]
    renames: tuple[tuple[str, str | None], ...]
    convert: Callable[[State], State] = lambda state: state

    def recognises(self, state: Mapping[str, Tensor]) -> bool:
        return all(any(re.search(pattern, name) for name in state) for pattern in self.signature)

    def rename(self, name: str) -> str | None:
        for pattern, replacement in self.renames:
            if replacement is None:
                if re.search(pattern, name):
                    return None
            else:
                name = re.sub(pattern, replacement, name)
        return name


def _split_joint_position(state: State, name: str) -> State:
    """Split MViTv1's joint table (1, 1 + N, C) into the class token's row and the grid's, where it has one."""
    table = state.get(name)
    if table is not None and "cls_token" in state:
        state = {**state, "pos_embed_class": table[:, :1], name: table[:, 1:]}
    return state


def _untranspose_linear(state: State) -> State:
    """Turn Paddle's Linear weights, stored (in, out), into ours (out, in)."""
    return {name: value.t() if name.endswith(".weight") and value.ndim == 2 else value for name, value in state.items()}


SOURCES = (
    Source(
        "PoolFormer",  # sail-sg/poolformer, models/poolformer.py at a075575
        (r"^network\.0\.0\.mlp\.fc1\.", r"^network\.1\.proj\.", r"^patch_embed\.proj\."),
        (
            (r"^patch_embed\.proj\.", "stem.conv."),
            *((rf"^network\.{2 * s - 1}\.proj\.", f"stages.{s}.downsample.conv.") for s in (1, 2, 3)),
            *((rf"^network\.{2 * s}\.(\d+)\.", rf"stages.{s}.blocks.\1.") for s in (0, 1, 2, 3)),
            (r"\.layer_scale_(\d)$", r".scale\1"),
        ),
    ),
    Source(
        "Inception Transformer",  # sail-sg/iFormer, models/inception_transformer.py at 725d8e7
        (r"^blocks1\.0\.attn\.high_mixer\.", r"^pos_embed1$"),
        (
            (r"^patch_embed\.proj1\.", "stem.0.conv."),
            (r"^patch_embed\.norm1\.", "stem.0.norm."),
            (r"^patch_embed\.proj2\.", "stem.2.conv."),
            (r"^patch_embed\.norm2\.", "stem.2.norm."),
            *((rf"^patch_embed{s + 1}\.proj\.", f"stages.{s}.downsample.conv.") for s in (1, 2, 3)),
            *((rf"^patch_embed{s + 1}\.norm\.", f"stages.{s}.downsample.norm.") for s in (1, 2, 3)),
            *((rf"^pos_embed{s + 1}$", f"stages.{s}.position.space") for s in (0, 1, 2, 3)),
            *((rf"^blocks{s + 1}\.(\d+)\.", rf"stages.{s}.blocks.\1.") for s in (0, 1, 2, 3)),
            (r"\.layer_scale_(\d)$", r".scale\1"),
            (r"\.attn\.high_mixer\.conv1\.", ".mixer.conv_in."),
            (r"\.attn\.high_mixer\.proj1\.", ".mixer.conv."),
            (r"\.attn\.high_mixer\.proj2\.", ".mixer.pool_out."),
            (r"\.attn\.low_mixer\.qkv\.", ".mixer.qkv."),
            (r"\.attn\.conv_fuse\.", ".mixer.fuse."),
            (r"\.attn\.proj\.", ".mixer.proj."),
        ),
    ),
    Source(
        "PaddleClas MixFormer",  # ppcls/arch/backbone/model_zoo/mixformer.py at 7b6c148
        (r"^layers\.0\.blocks\.0\.attn\.dwconv3x3\.0\.weight$", r"^patch_embed\.stem\.0\.weight$"),
        (
            (r"\.relative_position_index$", None),  # computed, not learned
            (r"\._mean$", ".running_mean"),
            (r"\._variance$", ".running_var"),
            *((rf"^patch_embed\.stem\.{3 * i}\.", f"stem.convs.{i}.conv.") for i in (0, 1, 2)),
            *((rf"^patch_embed\.stem\.{3 * i + 1}\.", f"stem.convs.{i}.norm.") for i in (0, 1, 2)),
            (r"^patch_embed\.proj\.", "stem.proj.conv."),
            (r"^patch_embed\.norm\.", "stem.norm."),
            *((rf"^layers\.{s}\.downsample\.reduction\.", f"stages.{s + 1}.downsample.conv.") for s in (0, 1, 2)),
            *((rf"^layers\.{s}\.downsample\.norm\.", f"stages.{s + 1}.downsample.norm.") for s in (0, 1, 2)),
            (r"^layers\.(\d)\.blocks\.", r"stages.\1.blocks."),
            (r"\.attn\.", ".mixer."),
            (r"\.proj_attn\.", ".attn_in."),
            (r"\.proj_attn_norm\.", ".attn_in_norm."),
            (r"\.proj_cnn\.", ".conv_in."),
            (r"\.proj_cnn_norm\.", ".conv_in_norm."),
            (r"\.conv_norm\.", ".conv_out_norm."),
            (r"\.dwconv3x3\.0\.", ".conv."),
            (r"\.dwconv3x3\.1\.", ".conv_norm."),
            (r"\.channel_interaction\.", ".channel_gate."),
            (r"\.projection\.", ".conv_out."),
            (r"\.spatial_interaction\.0\.", ".spatial_gate_in."),
            (r"\.spatial_interaction\.1\.", ".spatial_gate_norm."),
            (r"\.spatial_interaction\.3\.", ".spatial_gate_out."),
            (r"\.relative_position_bias_table$", ".bias.table"),
        ),
        _untranspose_linear,
    ),
    Source(
        "PySlowFast MViT",  # facebookresearch/SlowFast, and facebookresearch/mvit, whose names are the same
        (r"^blocks\.0\.attn\.qkv\.", r"^patch_embed\.proj\.", r"^head\.projection\."),
        (
            (r"^patch_embed\.proj\.", "patch_embed."),
            (r"\.attn\.pool_([qkv])\.", r".attn.pool_\1.conv."),
            (r"\.attn\.norm_([qkv])\.", r".attn.pool_\1.norm."),
            (r"\.attn\.rel_pos_([thw])$", r".attn.relative.\1"),
            (r"^pos_embed(_spatial)?$", "pos_embed.space"),
            (r"^pos_embed_temporal$", "pos_embed.time"),
            (r"^pos_embed_class$", "cls_pos"),
            (r"^head\.projection\.", "head."),
        ),
        lambda state: _split_joint_position(state, "pos_embed"),
    ),
)


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


def recognise(state: State) -> tuple[str, State]:
    """Name of the source, and the state under our names; "mvidx" for anything no table recognises."""
    for source in SOURCES:
        if source.recognises(state):
            renamed = {source.rename(name): value for name, value in source.convert(dict(state)).items()}
            renamed.pop(None, None)
            return source.name, renamed
    return "mvidx", dict(state)


def _position_tables(model: nn.Module) -> set[str]:
    """Names of the parameters that may be interpolated to another size."""
    return {
        f"{prefix}.{name}"
        for prefix, module in model.named_modules()
        if isinstance(module, (AbsolutePosition, RelativePosition, WindowBias))
        for name, _ in module.named_parameters(recurse=False)
    }


def _resize_table(table: Tensor, shape: tuple[int, ...]) -> Tensor | None:
    """A position table at another size: (rows, C) or (1, *size, C); None when it can't be one."""
    if table.shape[-1] != shape[-1]:
        return None
    if len(shape) == 2 and table.ndim == 2:
        return F.interpolate(table.t()[None].float(), size=shape[0], mode="linear")[0].t().to(table.dtype)
    if table.ndim == 3 and len(shape) == 4:  # (1, N, C): a flattened square grid
        side = round(table.shape[1] ** 0.5)
        if side * side != table.shape[1]:
            return None
        table = table.unflatten(1, (side, side))
    if table.ndim != len(shape):
        return None
    return resize_grid(table, shape[1:-1])


def fit(state: State, model: nn.Module, report: LoadReport) -> State:
    """The part of `state` (our names) that `model` takes, in its shapes; fills `report`."""
    wanted = model.state_dict()
    tables = _position_tables(model)
    fitted = {}
    for name, value in state.items():
        if name not in wanted:
            report.unexpected.append(name)
            continue
        shape = tuple(wanted[name].shape)
        if tuple(value.shape) != shape:
            old = tuple(value.shape)
            same_rows = _squeezed(old) == _squeezed(shape) or (name in tables and old[-1] == shape[-1])
            if value.numel() == wanted[name].numel() and same_rows:
                value = value.reshape(shape)
            elif name in tables and (resized := _resize_table(value, shape)) is not None:
                value = resized
                report.reshaped[name] = (old, shape)
            elif name.startswith("head."):
                report.reshaped[name] = (old, shape)
                continue
            else:
                raise CheckpointError(f"{name} has shape {old} in the file and {shape} in the model")
        fitted[name] = value
        report.loaded.append(name)
    report.missing = [
        name for name in wanted if name not in fitted and name not in report.reshaped and not _is_counter(name)
    ]
    return fitted


def _squeezed(shape: tuple[int, ...]) -> tuple[int, ...]:
    return tuple(n for n in shape if n != 1)


def load_checkpoint(model: nn.Module, path: str | os.PathLike, *, strict: bool = True) -> LoadReport:
    """Load a checkpoint of any known source into a model, print what was done, and return it.

    The source is recognised by its keys: our own files, PySlowFast and facebookresearch/mvit, timm,
    torchvision, official PoolFormer and Inception Transformer, PaddleClas MixFormer. Position tables of
    another size are interpolated. A classifier of another size keeps its initial values and is reported.

    Args:
        model: a model of `create_model`.
        path: file, or anything else that iopath opens.
        strict: refuse a file that lacks a tensor of the model (the classifier apart).

    Raises:
        CheckpointError: a ValueError that names the file and what is wrong: missing or damaged file, code
            inside, a tensor that nothing explains, a shape that does not fit, or missing tensors.
    """
    source, state = recognise(find_state(read_file(path), path))
    report = LoadReport(source)
    if hasattr(model, "prepare_for"):
        model.prepare_for(state)
    try:
        fitted = fit(state, model, report)
    except CheckpointError as error:
        raise CheckpointError(f"checkpoint {path} ({source}): {error}") from None
    if report.unexpected:
        raise CheckpointError(
            f"checkpoint {path} ({source}): {len(report.unexpected)} tensors have no place in "
            f"{type(model).__name__}: {_listed(report.unexpected)}"
        )
    lacking = [name for name in report.missing if not name.startswith("head.")]
    if strict and lacking:
        raise CheckpointError(
            f"checkpoint {path} ({source}): lacks {len(lacking)} tensors of {type(model).__name__}: {_listed(lacking)}"
        )
    with torch.no_grad():
        model.load_state_dict(fitted, strict=False)
    print(report)
    return report


def _is_counter(name: str) -> bool:
    """Whether this is a BatchNorm's count of batches, which Paddle does not have and nothing here reads."""
    return name.endswith("num_batches_tracked")


def _listed(names: list[str], limit: int = 8) -> str:
    more = f" and {len(names) - limit} more" if len(names) > limit else ""
    return ", ".join(names[:limit]) + more
