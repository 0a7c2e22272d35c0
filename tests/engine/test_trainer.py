"""One training step: clipping, frozen batch norms, mixed targets."""

import pytest
import torch
from torch import nn

from mvidx.data.loader import Batch, EpochBatches
from mvidx.engine.trainer import Trainer
from mvidx.optim.schedule import Schedule


def trainer(model, *, lr=1.0, prepare=None, loss=nn.functional.cross_entropy, **options):
    return Trainer(
        model=model,
        raw_model=model,
        optimizer=torch.optim.SGD(model.parameters(), lr=lr),
        schedule=Schedule("cosine", base_lr=lr, max_epochs=1),
        loader=None,
        batches=EpochBatches(4, batch_size=2),
        loss=loss,
        prepare=prepare or (lambda clips, labels, **where: (clips.float(), labels)),
        device=torch.device("cpu"),
        max_epochs=1,
        **options,
    )


def batch():
    return Batch(torch.tensor([[3, 1], [2, 5]], dtype=torch.uint8), torch.tensor([0, 1]), [0, 1], [])


def stepped(**options):
    """Change of the weights in one step of SGD with a rate of 1: the negative of the clipped gradient."""
    torch.manual_seed(0)
    model = nn.Linear(2, 2, bias=False)
    before = model.weight.detach().clone()
    trainer(model, **options).train_step(batch())
    return before - model.weight.detach()


def test_clipping():
    gradient = stepped()
    assert gradient.abs().max() > 0.1
    assert torch.allclose(stepped(clip_norm=0.05), gradient * 0.05 / gradient.norm(), atol=1e-6)
    assert torch.allclose(stepped(clip_value=0.1), gradient.clamp(-0.1, 0.1))
    assert torch.allclose(stepped(clip_value=0.1, clip_norm=0.01), gradient.clamp(-0.1, 0.1))
    assert torch.allclose(stepped(clip_norm=100.0), gradient)


def test_frozen_batch_norms_keep_their_statistics():
    for freeze in (True, False):
        model = nn.Sequential(nn.BatchNorm1d(2), nn.Linear(2, 2))
        run = trainer(model, lr=0.1, freeze_batch_norm=freeze)
        weight = model[0].weight.detach().clone()
        run.set_train_mode()
        run.train_step(batch())
        assert (model[0].running_mean == 0).all() == freeze
        assert model[1].training and not torch.equal(model[0].weight, weight)


def test_mixed_targets_count_their_largest_share():
    seen = {}

    def prepare(clips, labels, **where):
        seen.update(where)
        return clips.float(), torch.tensor([[0.4, 0.6], [0.1, 0.9]])

    model = nn.Linear(2, 2, bias=False)
    model.weight.data = torch.tensor([[0.0, 0.0], [1.0, 1.0]])
    result = trainer(model, prepare=prepare).train_step(batch())
    assert result.correct[0] == 2 and seen == {"indices": [0, 1], "epoch": 0, "step": 0}
    logits = torch.tensor([[0.0, 4.0], [0.0, 7.0]]).log_softmax(1)
    expected = -(torch.tensor([[0.4, 0.6], [0.1, 0.9]]) * logits).sum(1).mean()
    assert result.loss == pytest.approx(float(expected))
