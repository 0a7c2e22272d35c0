"""One training step: clipping, accumulation, averages, frozen batch norms, mixed targets, steps that fail."""

import pytest
import torch
from torch import nn

from mvidx.checkpoint.files import read_file
from mvidx.config.build import freeze_parts
from mvidx.data.loader import Batch, EpochBatches
from mvidx.engine.hooks import BatchNormHook
from mvidx.engine.trainer import NonFiniteLoss, Trainer
from mvidx.optim.ema import averaged_model
from mvidx.optim.schedule import Schedule


def trainer(model, *, lr=1.0, prepare=None, batches=None, loss=nn.functional.cross_entropy, **options):
    return Trainer(
        model=model,
        raw_model=model,
        optimizer=torch.optim.SGD(model.parameters(), lr=lr),
        schedule=Schedule("cosine", base_lr=lr, max_epochs=1),
        loader=None,
        batches=batches or EpochBatches(4, batch_size=2),
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
    trainer(model, **options).train_step([batch()])
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
        run.train_step([batch()])
        assert (model[0].running_mean == 0).all() == freeze
        assert model[1].training and not torch.equal(model[0].weight, weight)


def test_mixed_targets_count_their_largest_share():
    seen = {}

    def prepare(clips, labels, **where):
        seen.update(where)
        return clips.float(), torch.tensor([[0.4, 0.6], [0.1, 0.9]])

    model = nn.Linear(2, 2, bias=False)
    model.weight.data = torch.tensor([[0.0, 0.0], [1.0, 1.0]])
    result = trainer(model, prepare=prepare).train_step([batch()])
    assert result.correct[0] == 2 and seen == {"indices": [0, 1], "epoch": 0, "step": 0}
    logits = torch.tensor([[0.0, 4.0], [0.0, 7.0]]).log_softmax(1)
    expected = -(torch.tensor([[0.4, 0.6], [0.1, 0.9]]) * logits).sum(1).mean()
    assert result.loss == pytest.approx(float(expected))


def test_accumulated_batches_give_the_gradient_of_the_larger_one():
    torch.manual_seed(0)
    clips, labels = torch.randint(0, 256, (8, 3), dtype=torch.uint8), torch.randint(0, 2, (8,))
    whole = Batch(clips, labels, list(range(8)), [])
    parts = [Batch(clips[i : i + 2], labels[i : i + 2], [i, i + 1], []) for i in range(0, 8, 2)]
    prepare = lambda clips, labels, **where: (clips.float() / 255, labels)  # noqa: E731
    gradients = []
    for batches in ([whole], parts):
        torch.manual_seed(1)
        model = nn.Linear(3, 2)
        before = model.weight.detach().clone()
        result = trainer(model, prepare=prepare).train_step(batches)
        gradients.append(before - model.weight.detach())
        assert result.num_clips == 8
    assert gradients[0].abs().max() > 0.01 and torch.allclose(*gradients, atol=1e-6)


def test_every_accumulated_batch_has_its_own_number():
    seen = []

    def prepare(clips, labels, **where):
        seen.append(where["step"])
        return clips.float(), labels

    run = trainer(nn.Linear(2, 2), prepare=prepare, batches=EpochBatches(12, batch_size=2, accumulate=2))
    assert run.steps_per_epoch == 3
    run.train_step([batch(), batch()])
    run.step = 2
    run.train_step([batch(), batch()])
    assert seen == [0, 1, 4, 5]


def test_batches_of_a_step_are_those_of_the_larger_batch():
    order = [index for items in EpochBatches(13, batch_size=6, seed=3) for _, index in items]
    parts = EpochBatches(13, batch_size=3, seed=3, accumulate=2)
    assert [index for items in parts for _, index in items] == order and len(parts) == 2
    parts.set_position(0, 1)
    assert [index for items in parts for _, index in items] == order[6:]


def test_average_of_the_weights_by_hand():
    model = nn.Linear(2, 2, bias=False)
    average = averaged_model(model, 0.75)
    run = trainer(model, lr=0.1, average=average)
    run.train_step([batch()])
    expected = model.weight.detach().clone()
    assert torch.equal(average.module.weight, expected)  # the first is a copy
    for _ in range(2):
        run.train_step([batch()])
        expected = 0.75 * expected + 0.25 * model.weight.detach()
        assert torch.allclose(average.module.weight, expected)
    again = trainer(nn.Linear(2, 2, bias=False), average=averaged_model(nn.Linear(2, 2, bias=False), 0.75))
    again.load_state_dict(run.state_dict())
    assert torch.equal(again.average.module.weight, average.module.weight) and int(again.average.n_averaged) == 3
    with pytest.raises(ValueError, match="decay=1"):
        averaged_model(model, 1.0)


def test_a_step_that_is_not_finite_leaves_everything_as_it_was(tmp_path):
    """Weights, momentum, running statistics and average; and the run ends at the second in a row."""
    model = nn.Sequential(nn.BatchNorm1d(2), nn.Linear(2, 2))
    poisoned = False

    def prepare(clips, labels, **where):
        return (clips.float() * float("nan") if poisoned else clips.float()), labels

    run = trainer(
        model, lr=0.1, prepare=prepare, average=averaged_model(model, 0.5), max_nonfinite_steps=2,
        dump_folder=tmp_path, path_of=lambda index: f"video{index}.mp4",
    )  # fmt: skip
    run.set_train_mode()
    assert not run.train_step([batch()]).skipped
    before = {name: value.clone() for name, value in (*model.state_dict().items(), ("n", run.average.n_averaged))}
    poisoned = True
    result = run.train_step([batch()])
    assert result.skipped and run.nonfinite_steps == 1
    after = {**model.state_dict(), "n": run.average.n_averaged}
    assert all(torch.equal(before[name], after[name]) for name in before)
    poisoned = False
    assert not run.train_step([batch()]).skipped and run.nonfinite_steps == 0
    poisoned = True
    run.train_step([batch()])
    with pytest.raises(NonFiniteLoss, match=r"loss nan at epoch 1, step 1 .*after 2 skipped.*video0\.mp4, video1\.mp4"):
        run.train_step([batch()])
    (dumped,) = tmp_path.iterdir()
    assert torch.equal(read_file(dumped)["clips"][0], batch().clips)


def test_parts_that_do_not_learn_keep_their_statistics():
    model = nn.Sequential(nn.BatchNorm1d(2), nn.BatchNorm1d(2), nn.Linear(2, 2))
    assert freeze_parts(model, ["0"]) == 4
    run = trainer(model, lr=0.1)
    run.set_train_mode()
    run.train_step([batch()])
    assert (model[0].running_mean == 0).all() and not (model[1].running_mean == 0).all()


def test_precise_statistics_are_those_of_all_batches():
    """Of a norm of the input itself they are the mean and variance over all clips."""
    torch.manual_seed(0)
    clips = torch.randn(6, 4, 2) * 3 + 5
    model = nn.Sequential(nn.Dropout(0.5), nn.BatchNorm1d(2), nn.Linear(2, 2))
    run = trainer(model, average=averaged_model(model, 0.5))
    run.set_train_mode()
    held = model[1].running_mean
    generator = torch.get_rng_state()
    BatchNormHook(lambda epoch: iter(clips), num_batches=6).after_epoch(run)
    everything = clips.reshape(-1, 2)
    for norm in (model[1], run.average.module[1]):
        assert torch.allclose(norm.running_mean, everything.mean(0), atol=1e-5)
        assert torch.allclose(norm.running_var, everything.var(0, unbiased=False), atol=1e-4)
    assert model[1].running_mean is held and model.training and not run.average.module.training
    assert torch.equal(generator, torch.get_rng_state())
    model[1].running_mean.zero_()
    frozen = trainer(model, freeze_batch_norm=True)
    frozen.set_train_mode()
    BatchNormHook(lambda epoch: iter(clips), num_batches=6).after_epoch(frozen)
    assert (model[1].running_mean == 0).all()


def test_bfloat16_on_the_cpu():
    seen = []

    class Seeing(nn.Linear):
        def forward(self, x):
            y = super().forward(x)
            seen.append(y.dtype)
            return y

    result = trainer(Seeing(2, 2), precision="bfloat16").train_step([batch()])
    assert seen == [torch.bfloat16] and result.loss.dtype == torch.float32
