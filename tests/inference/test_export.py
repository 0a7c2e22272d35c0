"""Exported models give the model's logits for batches of any size, in torch.export's format and in ONNX Runtime."""

import json
from dataclasses import replace

import pytest
import torch

from mvidx.inference import export
from mvidx.inference.export import CARD_NAME, ExportError, export_model, onnx_function
from mvidx.models.card import KEY, ModelCard, card_of
from mvidx.models.iformer import IFormer
from mvidx.models.mixformer import MixFormer
from mvidx.models.mvit import MViT
from mvidx.models.poolformer import PoolFormer
from mvidx.models.registry import model_entry
from tests.models.small import input_shape, our_models, small_arguments, small_model
from tests.oracles import randomise

# What takes seconds rather than minutes, of every family; all others with -m long.
IN_BRIEF = {"mvitv2_t", "mixformer_b0_video", "iformer_s_video", "poolformer_s12", "poolformer_s12_video"}
NAMES = [name if name in IN_BRIEF else pytest.param(name, marks=pytest.mark.long) for name in our_models()]


def small(name: str):
    """A model of few blocks, whose input is small in its card too."""
    build = model_entry(name).build
    fewer = {}
    if build is MViT:
        stride = (1,) * name.endswith("_video") + (2, 2)
        pools = {0: tuple(1 for _ in stride)} if name.startswith("mvitv2") else {}
        fewer = {"depth": 2, "dim_mul": {1: 2.0}, "head_mul": {1: 2.0}, "q_stride": {**pools, 1: stride}}
    elif build in (PoolFormer, MixFormer):
        fewer = {"depths": (1, 0, 0, 1)}
    elif build is IFormer:
        heads = small_arguments(model_entry(name))["attention_heads"]
        fewer = {"depths": (1, 0, 0, 1), "attention_heads": (heads[0], heads[3])}
    model = randomise(small_model(name, **fewer))
    card = card_of(model)
    frames = card.arguments.get("frames")
    model.card = replace(card, preprocessing=replace(card.preprocessing, crop=64, num_frames=frames))
    return model


@pytest.mark.parametrize("name", NAMES)
@torch.no_grad()
def test_both_formats_agree_with_the_model(tmp_path, monkeypatch, name):
    model = small(name)
    traced = {}
    monkeypatch.setattr(export, "trace", lambda *a, real=export.trace, **k: traced.setdefault("x", real(*a, **k)))
    for ending in (".pt2", ".onnx"):  # traced once: that is what takes long
        report = export_model(model, tmp_path / f"model{ending}")
        assert report.difference < 1e-4 and report.input_shape[0] == "batch"
    files = {CARD_NAME: ""}
    program = torch.export.load(tmp_path / "model.pt2", extra_files=files).module()
    assert ModelCard.from_json(files[CARD_NAME]) == card_of(model)
    session = onnx_function(tmp_path / "model.onnx")
    for batch in (1, 2, 5):
        x = torch.randn(input_shape(name, batch=batch))
        expected = model(x)
        assert expected.std() > 0.05 and expected.shape == (batch, 7)
        for other in (program, session):
            assert (other(x) - expected).abs().max() < 1e-4
    assert sorted(path.name for path in tmp_path.iterdir()) == ["model.onnx", "model.pt2"]


def test_onnx_says_what_it_is_and_large_weights_lie_beside(tmp_path, monkeypatch):
    onnx = pytest.importorskip("onnx")
    monkeypatch.setattr(export, "ONNX_FILE_BYTES", 1000)
    model = small("poolformer_s12")
    report = export_model(model, tmp_path / "model.onnx", batch=1)
    assert report.input_shape == (1, 3, 64, 64)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["model.onnx", "model.onnx.data"]
    content = onnx.load(tmp_path / "model.onnx")
    metadata = {entry.key: entry.value for entry in content.metadata_props}
    assert ModelCard.from_json(metadata[KEY]) == card_of(model)
    assert [value.name for value in (*content.graph.input, *content.graph.output)] == ["images", "logits"]
    assert json.loads(metadata[KEY])["name"] == "poolformer_s12"


class Unexportable(torch.nn.Module):
    def forward(self, x):
        return x.sum().item() * x.flatten(1)[:, :7] if x.sum() > 0 else x.flatten(1)[:, :7]


def test_what_cannot_be_done_is_one_line_and_leaves_nothing(tmp_path, monkeypatch):
    model = small("poolformer_s12")
    with pytest.raises(export.UserError, match=r"\.pt2 or \.onnx"):
        export_model(model, tmp_path / "model.pb")
    with pytest.raises(export.UserError, match="takes images"):
        export_model(model, tmp_path / "model.pt2", frames=4)
    with pytest.raises(export.UserError, match="batch 0"):
        export_model(model, tmp_path / "model.pt2", batch=0)
    model.stages[0].blocks[0].mixer = Unexportable()
    with pytest.raises(ExportError, match=r"torch.export can't do poolformer_s12 for batchx3x64x64") as caught:
        export_model(model, tmp_path / "model.onnx")
    assert "\n" not in str(caught.value) and not list(tmp_path.iterdir())


def test_a_disagreement_is_an_error(tmp_path, monkeypatch):
    model = small("poolformer_s12")
    real = export.trace

    def wrong(*arguments, **options):
        program = real(*arguments, **options)
        with torch.no_grad():
            program.state_dict["head.bias"].add_(0.1)
        return program

    monkeypatch.setattr(export, "trace", wrong)
    check, untouched = export.largest_difference, small("poolformer_s12")
    monkeypatch.setattr(export, "largest_difference", lambda _, *rest, **options: check(untouched, *rest, **options))
    with pytest.raises(ExportError, match="differ by"):
        export_model(model, tmp_path / "model.pt2")
    assert not list(tmp_path.iterdir())
