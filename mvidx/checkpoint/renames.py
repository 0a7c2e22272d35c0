"""Names of other projects' checkpoints: one rename table for each source.

A source is recognised by its keys. Its table is a list of (pattern, replacement): every pattern is applied
to every name, in order, as `re.sub`; a replacement of None drops the name on purpose. What a table leaves
over must be a name of our model, or loading fails and lists it.
"""

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from mvidx.checkpoint.files import CheckpointError

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


def _number_stages(state: State) -> State:
    """Name the parts of PoolFormer's flat `network` list by stage: tables, blocks and what stands between them."""
    kinds: dict[int, str] = {}
    for name in state:
        if match := re.match(r"network\.(\d+)\.(pos_embed|proj|\d)", name):
            kind = match[2]
            kinds[int(match[1])] = {"pos_embed": "position", "proj": "downsample"}.get(kind, "blocks")
    places, stage = {}, 0
    for index, kind in sorted(kinds.items()):
        stage += kind == "downsample"
        places[index] = f"stages.{stage}.{kind}"
    numbered = {}
    for name, value in state.items():
        if name.endswith(".pos_embed"):
            value = value.movedim(1, -1)  # (1, C, H, W) -> (1, H, W, C)
        numbered[re.sub(r"^network\.(\d+)", lambda match: places[int(match[1])], name)] = value
    return numbered


def _flatten_stages(state: State) -> State:
    """Number timm's MViTv2 blocks through all stages, and mark that its class token takes the pooled residual."""
    places = sorted(
        {tuple(map(int, m.groups())) for n in state if (m := re.match(r"stages\.(\d+)\.blocks\.(\d+)\.", n))}
    )
    index = {f"stages.{stage}.blocks.{block}.": f"blocks.{i}." for i, (stage, block) in enumerate(places)}
    prefix = re.compile(r"^stages\.\d+\.blocks\.\d+\.")
    state = {prefix.sub(lambda match: index[match[0]], name): value for name, value in state.items()}
    if "cls_token" in state:
        state["token_residual"] = torch.tensor(True)
    return state


def _untranspose_linear(state: State) -> State:
    """Turn Paddle's Linear weights, stored (in, out), into ours (out, in)."""
    return {name: value.t() if name.endswith(".weight") and value.ndim == 2 else value for name, value in state.items()}


# What PySlowFast, timm and torchvision call the same inside the blocks of MViT.
_MVIT_ATTENTION = (
    (r"\.attn\.norm_([qkv])\.", r".attn.pool_\1.norm."),
    (r"\.attn\.rel_pos_([thw])$", r".attn.relative.\1"),
)

SOURCES = (
    Source(
        "PoolFormer",  # sail-sg/poolformer, models/poolformer.py and metaformer.py at a075575
        (r"^network\.\d\.0\.mlp\.fc1\.", r"^network\.\d\.proj\.", r"^patch_embed\.proj\."),
        (
            (r"^patch_embed\.proj\.", "stem.conv."),
            (r"\.downsample\.proj\.", ".downsample.conv."),
            (r"\.position\.pos_embed$", ".position.space"),
            (r"\.token_mixer\.fc\.weight$", ".mixer.space"),
            (r"\.token_mixer\.", ".mixer."),
            (r"\.layer_scale_(\d)$", r".scale\1"),
        ),
        _number_stages,
    ),
    Source(
        "timm PoolFormer",  # timm/models/metaformer.py at 1.0.31
        (r"^stages\.0\.blocks\.0\.layer_scale1\.scale$", r"^head\.norm\.", r"^stem\.conv\."),
        (
            (r"\.layer_scale(\d)\.scale$", r".scale\1"),
            (r"^head\.norm\.", "mean_norm."),
            (r"^head\.fc\.", "head."),
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
            *_MVIT_ATTENTION,
            (r"^pos_embed(_spatial)?$", "pos_embed.space"),
            (r"^pos_embed_temporal$", "pos_embed.time"),
            (r"^pos_embed_class$", "cls_pos"),
            (r"^head\.projection\.", "head."),
        ),
        lambda state: _split_joint_position(state, "pos_embed"),
    ),
    Source(
        "timm MViTv2",  # timm/models/mvitv2.py at 1.0.31
        (r"^stages\.0\.blocks\.0\.attn\.qkv\.", r"^patch_embed\.proj\.", r"\.attn\.norm_k\.", r"^head\.fc\."),
        (
            (r"^patch_embed\.proj\.", "patch_embed."),
            (r"\.attn\.pool_([qkv])\.", r".attn.pool_\1.conv."),
            *_MVIT_ATTENTION,
            (r"\.shortcut_proj_(attn|mlp)\.", ".proj."),
            (r"^head\.fc\.", "head."),
        ),
        _flatten_stages,
    ),
    Source(
        "torchvision MViT",  # torchvision/models/video/mvit.py at 0.29
        (r"^conv_proj\.", r"^pos_encoding\.class_token$", r"^blocks\.0\.attn\.project\.0\."),
        (
            (r"^conv_proj\.", "patch_embed."),
            (r"^pos_encoding\.class_token$", "cls_token"),
            (r"^pos_encoding\.class_pos$", "cls_pos"),
            (r"^pos_encoding\.spatial_pos$", "pos_embed.space"),
            (r"^pos_encoding\.temporal_pos$", "pos_embed.time"),
            *_MVIT_ATTENTION,
            (r"\.attn\.pool_([qkv])\.pool\.", r".attn.pool_\1.conv."),
            (r"\.attn\.pool_([qkv])\.norm_act\.0\.", r".attn.pool_\1.norm."),
            (r"\.attn\.project\.0\.", ".attn.proj."),
            (r"\.mlp\.0\.", ".mlp.fc1."),
            (r"\.mlp\.3\.", ".mlp.fc2."),
            (r"^(blocks\.\d+)\.project\.", r"\1.proj."),
            (r"^head\.1\.", "head."),
        ),
    ),
)


def recognise(state: State) -> tuple[str, State]:
    """Name of the source, and the state under our names; "mvidx" for anything no table recognises."""
    for source in SOURCES:
        if source.recognises(state):
            renamed = {}
            for name, value in source.convert(dict(state)).items():
                ours = source.rename(name)
                if ours in renamed:
                    raise CheckpointError(f"two tensors of this {source.name} checkpoint are both our {ours!r}")
                if ours is not None:
                    renamed[ours] = value
            return source.name, renamed
    return "mvidx", dict(state)
