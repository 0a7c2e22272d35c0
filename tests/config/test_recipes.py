"""Recipes: optimizers from libraries, frozen and slower parts, synchronized batch norms, compiling, bad values."""

import numpy as np
import pytest
import torch
from torch import nn

import mvidx
from mvidx.config import ConfigError, build, load_config
from mvidx.config.run import check
from mvidx.optim.groups import parameter_groups
from tests import synchronized


@pytest.fixture
def load(tmp_path):
    (tmp_path / "cfg.yaml").write_text("NUM_GPUS: 0\n")
    return lambda *overrides: load_config(tmp_path / "cfg.yaml", [str(word) for word in overrides])


def test_lamb_by_hand(load):
    """Two steps of arXiv 1904.00962, algorithm 2, with phi the identity."""
    model = nn.Linear(3, 2, bias=False)
    model.no_weight_decay = set
    rng = np.random.default_rng(0)
    weight = model.weight.detach().numpy().astype(np.float64)
    optimizer = build.build_optimizer(load("SOLVER.OPTIMIZING_METHOD", "lamb", "SOLVER.WEIGHT_DECAY", 0.1), model)
    optimizer.param_groups[0]["lr"] = 0.01
    m = v = 0.0
    for t in (1, 2):
        gradient = rng.normal(0, 5, (2, 3))  # of a norm above 1, which is not clipped
        model.weight.grad = torch.from_numpy(gradient).float()
        optimizer.step()
        m, v = 0.9 * m + 0.1 * gradient, 0.999 * v + 0.001 * gradient**2
        update = m / (1 - 0.9**t) / (np.sqrt(v / (1 - 0.999**t)) + 1e-6) + 0.1 * weight
        weight = weight - 0.01 * np.linalg.norm(weight) / np.linalg.norm(update) * update
    assert np.allclose(model.weight.detach().numpy(), weight, atol=1e-5)


def test_backbone_learns_slower_and_batch_norms_have_their_own_decay():
    model = nn.Sequential()
    model.add_module("body", nn.Sequential(nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4)))
    model.add_module("head", nn.Linear(4, 2))
    groups = parameter_groups(model, weight_decay=0.05, batch_norm_decay=0.0, backbone_lr_scale=0.1)
    found = {name: (group["lr_scale"], group["weight_decay"]) for group in groups for name in group["names"]}
    assert found == {
        "body.0.weight": (0.1, 0.05), "body.0.bias": (0.1, 0.05), "body.1.weight": (0.1, 0.0),
        "body.1.bias": (0.1, 0.0), "head.weight": (1.0, 0.05), "head.bias": (1.0, 0.05),
    }  # fmt: skip


def small_model():
    return mvidx.create_model("poolformer_s12", num_classes=3, img_size=32, depths=(1, 1, 1, 1), widths=(8, 8, 8, 8))


def test_frozen_parts_by_name_and_pattern():
    model = small_model()
    count = build.freeze_parts(model, ["stem", "stages.[01]"])
    frozen = {name for name, parameter in model.named_parameters() if not parameter.requires_grad}
    assert frozen == {n for n, _ in model.named_parameters() if n.startswith(("stem.", "stages.0.", "stages.1."))}
    assert count == sum(dict(model.named_parameters())[name].numel() for name in frozen) > 0
    with pytest.raises(ConfigError, match=r"'stagse' is no part of the model, which has head, norm, stages, stem"):
        build.freeze_parts(model, ["stagse"])
    with pytest.raises(ConfigError, match="nothing that learns"):
        build.freeze_parts(model, ["*"])


def test_two_processes_with_synchronized_batch_norms_give_the_gradients_of_one(tmp_path):
    model, clips = synchronized.model_and_clips()
    synchronized.loss_of(model, clips).backward()
    torch.multiprocessing.spawn(synchronized.work, (2, str(tmp_path)), nprocs=2)
    for rank in range(2):
        found = torch.load(tmp_path / f"{rank}.pyth")
        for name, parameter in model.named_parameters():
            assert torch.allclose(found["gradients"][name], parameter.grad, atol=1e-5), name
        assert torch.allclose(found["mean"], model[1].running_mean, atol=1e-6)
        # each has its own part of the running variance when norms are not synchronized; averaging makes it that of all
        assert torch.allclose(found["averaged_mean"], clips.mean((0, 2, 3, 4)), atol=1e-6)
        assert torch.allclose(found["averaged_variance"], clips.var((0, 2, 3, 4), unbiased=False), atol=1e-5)


def test_a_compiled_model_gives_the_same_logits():
    torch.manual_seed(0)
    model = small_model().eval()
    x = torch.randn(2, 3, 32, 32)
    expected = model(x)
    names = list(model.state_dict())
    model.compile(backend="aot_eager")
    assert torch.allclose(model(x), expected, atol=1e-5) and list(model.state_dict()) == names


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["MODEL.SHARDING", "zero"], "MODEL.SHARDING='zero', expected one of ddp, fsdp"),
        (["SOLVER.ACCUMULATION_STEPS", 0], "SOLVER.ACCUMULATION_STEPS=0, expected at least 1"),
        (["EMA.DECAY", 1.0], "EMA.DECAY=1.0"),
        (["SOLVER.BACKBONE_LR_SCALE", 0.0], "MODEL.FROZEN_PARTS freezes"),
        (["DATA.MULTI_LABEL", True], "MODEL.HEAD_ACT='softmax', expected 'sigmoid'"),
        (["MODEL.COMPILE", True, "MODEL.COMPILE_BACKEND", "gcc"], "MODEL.COMPILE_BACKEND='gcc'"),
        (["MODEL.SHARDING", "fsdp", "TRAIN.PRECISION", "float16"], "bfloat16 needs none"),
        (["BN.NORM_TYPE", "sub_batchnorm"], "BN.NORM_TYPE='sub_batchnorm'"),
    ],
)
def test_values_that_no_run_can_have(load, overrides, message):
    with pytest.raises(ConfigError) as caught:
        check(load(*overrides))
    assert message in str(caught.value)


def test_several_labels_need_their_loss(load):
    with pytest.raises(ConfigError, match=r"expected 'bce' with DATA\.MULTI_LABEL"):
        build.build_loss(load("DATA.MULTI_LABEL", True, "MODEL.HEAD_ACT", "sigmoid"))
