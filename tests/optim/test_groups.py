"""Weight decay and layer decay by parameter."""

import pytest
import timm
import torch
from timm.optim import param_groups_layer_decay

import mvidx
from mvidx.optim.groups import parameter_groups


def test_scales_by_hand():
    with torch.device("meta"):
        model = mvidx.create_model("mvitv2_s_video")
    groups = parameter_groups(model, weight_decay=0.05, exempt_vectors=True, layer_decay=0.75)
    scale = {name: group["lr_scale"] for group in groups for name in group["names"]}
    decay = {name: group["weight_decay"] for group in groups for name in group["names"]}
    assert scale["head.weight"] == scale["norm.weight"] == 1.0
    assert scale["blocks.15.mlp.fc1.weight"] == pytest.approx(0.75)
    assert scale["blocks.0.attn.qkv.weight"] == pytest.approx(0.75**16)
    assert scale["patch_embed.weight"] == scale["cls_token"] == pytest.approx(0.75**17)
    assert (decay["head.bias"], decay["head.weight"], decay["norm.weight"]) == (0, 0.05, 0)
    assert len(scale) == len(list(model.named_parameters()))


def test_agrees_with_timm():
    """Every parameter's scale and decay, for a vision transformer of timm's whose layers we name."""
    with torch.device("meta"):
        model = timm.create_model("vit_tiny_patch16_224", depth=3, num_classes=5)
    layers = {
        "cls_token": 0,
        "pos_embed": 0,
        "patch_embed": 0,
        "norm": 3,
        "head": 4,
    }  # timm leaves the norm with the last block
    layers.update({f"blocks.{index}": index + 1 for index in range(3)})
    model.layer_groups = layers.items
    names = {id(parameter): name for name, parameter in model.named_parameters()}

    def by_name(groups):
        return {names[id(p)]: (group["lr_scale"], group["weight_decay"]) for group in groups for p in group["params"]}

    theirs = by_name(
        param_groups_layer_decay(
            model, weight_decay=0.05, no_weight_decay_list=["pos_embed"], layer_decay=0.8, min_scale=0
        )
    )
    ours = by_name(
        parameter_groups(model, weight_decay=0.05, exempt_vectors=True, exempt_names=["pos_embed"], layer_decay=0.8)
    )
    assert ours.keys() == theirs.keys()
    for name, pair in theirs.items():
        assert ours[name] == pytest.approx(pair), name


def test_without_layer_decay():
    model = torch.nn.Linear(3, 2)
    first, second = parameter_groups(model, weight_decay=0.1, exempt_vectors=True)
    assert (first["weight_decay"], first["lr_scale"], first["names"]) == (0.1, 1.0, ["weight"])
    assert (second["weight_decay"], second["lr_scale"], second["names"]) == (0.0, 1.0, ["bias"])
