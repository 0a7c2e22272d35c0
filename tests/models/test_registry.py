"""What holds for every registered model."""

import pytest
import torch
from torch import nn

import mvidx
from mvidx.layers.norm import GroupNorm1
from mvidx.mixers.pooling import Pooling
from mvidx.models.registry import model_entry, register_model
from tests.models.small import input_shape, our_models, small_model

NAMES = our_models()
# Two models of each family, one for images and one for videos, where sizes differ in numbers alone.
TYPICAL = [
    "iformer_s",
    "iformer_s_video",
    "metaformer_s12",
    "mixformer_b1",
    "mixformer_b1_video",
    "mobilenetv2_mixing",
    "mvit_b_video",
    "mvitv2_t",
    "mvitv2_s_video",
    "poolformer_s12",
    "poolformer_s12_video",
    "resnet50_mixing",
]


def test_every_name_of_the_contract_is_there():
    image = [f"mvitv2_{s}" for s in "tsblh"] + ["mvit_b"]
    image += [f"poolformer_{s}" for s in ("s12", "s24", "s36", "m36", "m48")] + ["metaformer_s12"]
    image += [f"iformer_{s}" for s in "sbl"] + [f"mixformer_b{n}" for n in range(7)]
    convnets = ["resnet50_mixing", "mobilenetv2_mixing"]
    video = [f"mvitv2_{s}_video" for s in "sbl"] + ["mvit_b_video"]
    video += [f"{name}_video" for name in image if not name.startswith("mvit")]
    assert set(image + video + convnets) == set(NAMES)
    assert all(model_entry(name).video == name.endswith("_video") for name in NAMES)


def zero_gradients(model) -> set[str]:
    """Parameters whose gradient is zero.

    A pooling mixer takes away what is the same everywhere, and with it the bias of the norm before. After a class
    token's last look at the grid, what acts on the grid alone does nothing.
    """
    if getattr(model, "cls_token", None) is None:
        pooled = {name for name, module in model.named_modules() if isinstance(getattr(module, "mixer", None), Pooling)}
        norms = {name: model.get_submodule(f"{name}.norm1") for name in pooled}
        return {f"{name}.norm1.bias" for name, norm in norms.items() if isinstance(norm, GroupNorm1)}
    last = f"blocks.{len(model.blocks) - 1}.attn."
    return {n for n, _ in model.named_parameters() if n.startswith((f"{last}pool_q.conv.", f"{last}relative."))}


@pytest.mark.parametrize("name", NAMES)
def test_forward_and_gradients(name):
    torch.manual_seed(0)
    model = small_model(name, drop_path_rate=0.0, head_drop_rate=0.0).train()
    logits = model(torch.randn(input_shape(name)))
    assert logits.shape == (2, 7)
    (logits * torch.randn(2, 7)).sum().backward()
    for parameter_name, parameter in model.named_parameters():
        assert parameter.grad is not None, f"{parameter_name} gets no gradient"
        assert parameter.grad.isfinite().all(), parameter_name
    dead = {n for n, p in model.named_parameters() if not p.grad.any()}
    assert dead == zero_gradients(model)


@pytest.mark.parametrize("name", NAMES)
def test_other_sizes_and_autocast(name):
    torch.manual_seed(0)
    model = small_model(name).eval()
    channels = model.num_features
    for side, frames in (((96, 64), 4), ((72, 100), 1), ((64, 64), 7)):
        x = torch.randn(input_shape(name, batch=1, side=side, frames=frames))
        with torch.no_grad():
            grid = model.forward_features(x)
        assert grid.ndim == x.ndim and grid.shape[-1] == channels and grid.isfinite().all()
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
        half = model(x)
    with torch.no_grad():
        full = model(x)
    assert half.dtype == torch.bfloat16
    assert torch.allclose(half.float(), full, atol=0.05 * full.std().item() + 0.01)


@pytest.mark.parametrize("name", TYPICAL)
def test_pyramid_is_what_feature_info_says(name):
    model = small_model(name).eval()
    x = torch.randn(input_shape(name, side=(64, 96)))
    with torch.no_grad():
        pyramid = model.forward_pyramid(x)
    assert len(pyramid) == len(model.feature_info) == 4
    for grid, info in zip(pyramid, model.feature_info, strict=True):
        sides = tuple(side // stride for side, stride in zip(x.shape[2:], info["strides"], strict=True))
        assert grid.shape == (2, *sides, info["channels"])


@pytest.mark.parametrize("name", TYPICAL)
def test_activation_checkpointing_changes_nothing(name):
    results = []
    for enable in (False, True):
        torch.manual_seed(0)
        model = small_model(name, drop_path_rate=0.5).train()
        x = torch.randn(input_shape(name, batch=3))
        model.set_grad_checkpointing(enable)
        torch.manual_seed(1)
        model(x).square().sum().backward()
        results.append((model, {n: p.grad for n, p in model.named_parameters()}))
    (plain, plain_grads), (recomputed, recomputed_grads) = results
    for name_, grad in plain_grads.items():
        assert torch.allclose(grad, recomputed_grads[name_], atol=1e-6, rtol=1e-5), name_
    for (name_, left), right in zip(plain.named_buffers(), recomputed.buffers(), strict=True):
        assert torch.equal(left, right), name_


@pytest.mark.parametrize("name", TYPICAL)
def test_stochastic_depth_drops_branches_in_training_alone(name):
    model = small_model(name, drop_path_rate=0.9, head_drop_rate=0.0)
    for module in model.modules():  # statistics of a batch would differ between training and evaluation
        if isinstance(module, (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d)):
            module.momentum = 0.0
    for parameter_name, parameter in model.named_parameters():
        if parameter_name.endswith(("scale1", "scale2")):
            nn.init.ones_(parameter)
    x = torch.randn(input_shape(name))
    with torch.no_grad():
        model.eval()
        assert torch.equal(model(x), model(x))
        model.train()
        torch.manual_seed(0)
        draws = [model(x) for _ in range(8)]
        assert not all(torch.equal(draw, draws[0]) for draw in draws)
    with pytest.raises(ValueError, match=r"drop_path_rate=1\.0"):
        small_model(name, drop_path_rate=1.0)


@pytest.mark.parametrize("name", TYPICAL)
def test_reset_classifier(name):
    model = small_model(name).eval()
    x = torch.randn(input_shape(name, batch=1))
    model.reset_classifier(3)
    assert model(x).shape == (1, 3) and model.num_classes == 3
    model.reset_classifier(0)
    assert model(x).shape == (1, model.num_features)
    with pytest.raises(ValueError, match="num_classes=-1"):
        model.reset_classifier(-1)


@pytest.mark.parametrize("name", NAMES)
def test_layer_groups_cover_every_parameter_once(name):
    model = small_model(name)
    groups = list(model.layer_groups())
    for parameter, _ in model.named_parameters():
        owners = [g for g, _ in groups if parameter == g or parameter.startswith(g + ".")]
        assert len(owners) == 1, f"{parameter} belongs to {owners}"
    depths = [depth for _, depth in groups]
    assert depths == sorted(depths) and set(depths) == set(range(max(depths) + 1))
    assert dict(groups)["head"] == max(depths)
    assert model.no_weight_decay() <= {n for n, _ in model.named_parameters()}


@pytest.mark.parametrize("name", TYPICAL)
def test_inputs_of_another_kind_are_refused(name):
    model = small_model(name)
    with pytest.raises(ValueError, match="expected"):
        model(torch.zeros(2, 4, *input_shape(name)[2:]))
    with pytest.raises(ValueError, match="expected"):
        model(torch.zeros(input_shape(name)[1:]))
    with pytest.raises(ValueError, match="floating point"):
        model(torch.zeros(input_shape(name), dtype=torch.uint8))


@pytest.mark.parametrize("name", TYPICAL)
def test_sizes_too_small_are_refused_at_construction(name):
    with pytest.raises(ValueError, match=r"too small"):
        small_model(name, img_size=16)
    if model_entry(name).video:
        with pytest.raises(ValueError, match=r"0"):
            small_model(name, frames=0)
        small_model(name, frames=1)


def test_unknown_names_name_the_nearest():
    with pytest.raises(ValueError, match="did you mean 'poolformer_s12'"):
        mvidx.create_model("poolfomer_s12")
    with pytest.raises(ValueError, match="did you mean 'drop_path_rate'"):
        mvidx.create_model("poolformer_s12", drop_path=0.1)
    with pytest.raises(ValueError, match="frames=8 does not apply"):
        mvidx.create_model("poolformer_s12", frames=8)


def test_names_and_arguments_are_checked_when_registered():
    build = model_entry("poolformer_s12").build
    with pytest.raises(ValueError, match="registered twice"):
        register_model("poolformer_s12", build)
    with pytest.raises(ValueError, match="colour"):
        register_model("poolformer_new", build, colour=1)


def test_list_models_takes_patterns():
    assert mvidx.list_models("iformer_?") == ["iformer_b", "iformer_l", "iformer_s"]
