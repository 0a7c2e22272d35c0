"""The weights a run starts from, and where it starts."""

from types import SimpleNamespace

import pytest
import torch

from mvidx.checkpoint.files import CheckpointError
from mvidx.config import build_model, load_config, weights
from mvidx.config.weights import load_weights, start_from_checkpoint

SMALL = """
MVIT: {DEPTH: 2, EMBED_DIM: 16, DIM_MUL: [[1, 2.0]], HEAD_MUL: [[1, 2.0]], USE_ABS_POS: False, CLS_EMBED_ON: False,
  REL_POS_SPATIAL: True, DIM_MUL_IN_ATT: True, RESIDUAL_POOLING: True, POOL_KV_STRIDE_ADAPTIVE: [1, 2, 2],
  POOL_Q_STRIDE: [[0, 1, 1, 1], [1, 1, 2, 2]]}
DATA: {NUM_FRAMES: 4, TRAIN_CROP_SIZE: 32}
MODEL: {NUM_CLASSES: 3}
"""
VIDEO = ["MVIT.POOL_KVQ_KERNEL", "[3, 3, 3]", "MVIT.PATCH_PADDING", "[1, 3, 3]", "MVIT.REL_POS_TEMPORAL", "True"]
IMAGE = ["MVIT.POOL_KVQ_KERNEL", "[1, 3, 3]", "MVIT.PATCH_2D", "True", "DATA.NUM_FRAMES", "1"]
IMAGE += ["MVIT.PATCH_KERNEL", "[7, 7]", "MVIT.PATCH_STRIDE", "[4, 4]", "MVIT.PATCH_PADDING", "[3, 3]"]


@pytest.fixture
def load(tmp_path):
    (tmp_path / "cfg.yaml").write_text(SMALL)
    return lambda *overrides: load_config(tmp_path / "cfg.yaml", [str(word) for word in overrides])


@pytest.fixture
def image_file(load, tmp_path):
    torch.manual_seed(0)
    model = build_model(load(*IMAGE))
    torch.save({"model": model.state_dict()}, tmp_path / "image.pyth")
    return model, tmp_path / "image.pyth"


@pytest.mark.parametrize(("key", "factor"), [("CHECKPOINT_INFLATE", 1 / 3), ("CHECKPOINT_IN_INIT", 1.0)])
def test_image_weights_are_divided_or_repeated(key, factor, load, image_file):
    image, path = image_file
    cfg = load(*VIDEO, f"TRAIN.{key}", True, "TRAIN.CHECKPOINT_FILE_PATH", path)
    model = build_model(cfg)
    load_weights(cfg, model)
    theirs, ours = image.state_dict(), model.state_dict()
    for name in ("patch_embed.weight", "blocks.1.attn.pool_k.conv.weight"):
        expected = theirs[name].unsqueeze(2).expand_as(ours[name]) * factor
        assert torch.allclose(ours[name], expected), name
    assert torch.equal(ours["blocks.0.mlp.fc1.weight"], theirs["blocks.0.mlp.fc1.weight"])


def test_a_checkpoint_of_another_run_is_named(load, tmp_path):
    torch.save({"model": {}, "optimizer": {}, "generators": {}, "epoch": 7}, tmp_path / "run.pyth")  # no step
    with pytest.raises(CheckpointError, match=r"run\.pyth is of another run, TRAIN\.CHECKPOINT_EPOCH_RESET True"):
        start_from_checkpoint(
            load(*VIDEO, "TRAIN.CHECKPOINT_FILE_PATH", tmp_path / "run.pyth"), None, FakeTrainer(epoch=0, step=0)
        )


def test_image_weights_with_pools_of_one_frame(load, image_file, tmp_path):
    image, _ = image_file
    state = {name: value.unsqueeze(2) if ".attn.pool" in name and value.ndim == 4 else value
             for name, value in image.state_dict().items()}  # fmt: skip
    assert any(value.ndim == 5 for value in state.values())
    torch.save({"model": state}, tmp_path / "theirs.pyth")
    cfg = load(*VIDEO, "TRAIN.CHECKPOINT_IN_INIT", True, "TRAIN.CHECKPOINT_FILE_PATH", tmp_path / "theirs.pyth")
    model = build_model(cfg)
    load_weights(cfg, model)
    name = "blocks.1.attn.pool_k.conv.weight"
    assert torch.allclose(model.state_dict()[name], image.state_dict()[name].unsqueeze(2).expand(-1, -1, 3, -1, -1))


def test_pyslowfasts_epoch_is_taken_over(load, tmp_path, monkeypatch):
    monkeypatch.setattr(weights, "load_checkpoint", lambda model, path: None)
    torch.save({"model_state": {}, "epoch": 4}, tmp_path / "theirs.pyth")
    trainer = FakeTrainer(epoch=0, step=0, loaded=False)
    start_from_checkpoint(load(*VIDEO, "TRAIN.CHECKPOINT_FILE_PATH", tmp_path / "theirs.pyth"), None, trainer)
    assert (trainer.epoch, trainer.loaded) == (5, False)


@pytest.mark.parametrize("key", ["CHECKPOINT_INFLATE", "CHECKPOINT_IN_INIT"])
def test_video_weights_load_as_they_are(key, load, tmp_path):
    source = build_model(load(*VIDEO))
    torch.save({"model": source.state_dict()}, tmp_path / "video.pyth")
    cfg = load(*VIDEO, f"TRAIN.{key}", True, "TRAIN.CHECKPOINT_FILE_PATH", tmp_path / "video.pyth")
    model = build_model(cfg)
    load_weights(cfg, model)
    assert all(
        torch.equal(a, b) for a, b in zip(model.state_dict().values(), source.state_dict().values(), strict=True)
    )


class FakeTrainer(SimpleNamespace):
    def load_state_dict(self, state):
        self.loaded, self.epoch, self.step = True, state["epoch"], state["step"]


@pytest.mark.parametrize("reset", [False, True])
def test_epoch_reset(reset, load, tmp_path):
    model = build_model(load(*VIDEO))
    run = {"model": model.state_dict(), "optimizer": {}, "generators": {}, "epoch": 7, "step": 3}
    torch.save(run, tmp_path / "run.pyth")
    options = ("TRAIN.CHECKPOINT_EPOCH_RESET", reset, "TRAIN.CHECKPOINT_FILE_PATH", tmp_path / "run.pyth")
    trainer = FakeTrainer(epoch=0, step=0, loaded=False)
    start_from_checkpoint(load(*VIDEO, *options), build_model(load(*VIDEO)), trainer)
    assert (trainer.epoch, trainer.loaded) == ((0, False) if reset else (7, True))
