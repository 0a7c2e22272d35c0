"""Optimizers, schedules and losses that the SOLVER and MODEL keys describe."""

import pytest
import torch
import torch.nn.functional as F

from mvidx.config import ConfigError, build, load_config
from mvidx.config.run import precision
from tests.config.slowfast_files import FILES


@pytest.fixture
def load(tmp_path):
    def load(text="", *overrides):
        path = tmp_path / "cfg.yaml"
        path.write_text(FILES.get(text, text))
        return load_config(path, [str(word) for word in overrides])

    return load


class Model(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.table = torch.nn.Parameter(torch.ones(1, 4))
        self.body = torch.nn.Linear(4, 4)
        self.head = torch.nn.Linear(4, 2)

    def no_weight_decay(self):
        return {"table"}

    def layer_groups(self):
        return [("table", 0), ("body", 1), ("head", 2)]


def decays(model, optimizer):
    names = {id(parameter): name for name, parameter in model.named_parameters()}
    return {names[id(p)]: group["weight_decay"] for group in optimizer.param_groups for p in group["params"]}


def test_what_decays(load):
    model = Model()
    options = ("SOLVER.WEIGHT_DECAY", 0.05, "SOLVER.OPTIMIZING_METHOD", "adamw")
    zero_1d = decays(model, build.build_optimizer(load("", *options, "SOLVER.ZERO_WD_1D_PARAM", True), model))
    assert zero_1d == {"table": 0, "body.weight": 0.05, "body.bias": 0, "head.weight": 0.05, "head.bias": 0}
    all_but_tables = decays(model, build.build_optimizer(load("", *options), model))
    assert all_but_tables == {**dict.fromkeys(zero_1d, 0.05), "table": 0}
    everything = decays(model, build.build_optimizer(load("", *options, "MVIT.ZERO_DECAY_POS_CLS", False), model))
    assert set(everything.values()) == {0.05}


@pytest.mark.parametrize(
    ("method", "kind"), [("adamw", "AdamW"), ("mt_adamw", "AdamW"), ("adam", "Adam"), ("sgd", "SGD")]
)
def test_methods_take_their_numbers(method, kind, load):
    cfg = load(
        "SOLVER: {BETAS: [0.8, 0.95], MOMENTUM: 0.7, NESTEROV: False, DAMPENING: 0.2, BASE_LR: 0.3}",
        *("SOLVER.OPTIMIZING_METHOD", method),
    )
    optimizer = build.build_optimizer(cfg, Model())
    group = optimizer.param_groups[0]
    assert type(optimizer).__name__ == kind and group["lr"] == 0.3
    if kind == "SGD":
        assert (group["momentum"], group["dampening"], group["nesterov"]) == (0.7, 0.2, False)
    else:
        assert group["betas"] == (0.8, 0.95)


def test_unknown_values_are_named(load):
    with pytest.raises(ConfigError, match="OPTIMIZING_METHOD='lars'"):
        build.build_optimizer(load("", "SOLVER.OPTIMIZING_METHOD", "lars"), Model())
    with pytest.raises(ConfigError, match=r"LAYER_DECAY=1\.5"):
        build.build_optimizer(load("", "SOLVER.LAYER_DECAY", 1.5), Model())
    with pytest.raises(ConfigError, match="LOSS_FUNC='mse'"):
        build.build_loss(load("", "MODEL.LOSS_FUNC", "mse"))


def test_schedule_of_their_file_by_hand(load):
    """Two nodes: every rate doubles. Warm-up from 2e-6 to 2e-4 over 30 epochs, then half a cosine to 2e-6."""
    schedule = build.build_schedule(load("Kinetics/MVITv2_S_16x4", "NUM_SHARDS", 2))
    assert schedule.lr(0) == pytest.approx(2e-6)
    assert schedule.lr(15) == pytest.approx((2e-6 + 2e-4) / 2)
    assert schedule.lr(30) == pytest.approx(2e-4)
    assert schedule.lr(115) == pytest.approx((2e-4 + 2e-6) / 2)
    assert schedule.lr(200) == pytest.approx(2e-6)
    alone = build.build_schedule(load("Kinetics/MVITv2_S_16x4", "SOLVER.BASE_LR_SCALE_NUM_SHARDS", False))
    assert alone.lr(30) == pytest.approx(1e-4)


def test_losses_by_hand(load):
    logits, labels = torch.tensor([[1.0, -1.0, 0.5], [0.0, 2.0, -2.0]]), torch.tensor([0, 2])
    soft = torch.tensor([[0.7, 0.2, 0.1], [0.0, 0.5, 0.5]])
    hard = F.one_hot(labels, 3).float()
    for name in ("cross_entropy", "soft_cross_entropy"):
        loss = build.build_loss(load("", "MODEL.LOSS_FUNC", name))
        for targets, given in ((soft, soft), (hard, labels)):
            assert loss(logits, given) == pytest.approx(float(-(targets * logits.log_softmax(1)).sum(1).mean()))
    for name in ("bce", "bce_logit"):
        loss = build.build_loss(load("", "MODEL.LOSS_FUNC", name))
        for targets, given in ((soft, soft), (hard, labels)):
            p = logits.sigmoid()
            expected = -(targets * p.log() + (1 - targets) * (1 - p).log()).mean()
            assert loss(logits, given) == pytest.approx(float(expected), abs=1e-6)


def test_precision(load):
    cpu, gpu = torch.device("cpu"), torch.device("cuda")
    mixed = load("", "TRAIN.MIXED_PRECISION", True)
    assert (precision(mixed, gpu), precision(mixed, cpu)) == ("float16", "float32")
    assert precision(load("", "TRAIN.MIXED_PRECISION", True, "TRAIN.PRECISION", "bfloat16"), gpu) == "bfloat16"
    assert precision(load(""), gpu) == "float32"


def test_dropout_and_activation_checkpointing(load):
    model = build.build_model(load("ImageNet/MVITv2_T", "MODEL.DROPOUT_RATE", 0.3, "MODEL.ACT_CHECKPOINT", True))
    assert model.head_drop.p == 0.3 and model.grad_checkpointing
