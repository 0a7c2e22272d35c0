"""The Hugging Face Hub's mixin against a local folder, and torch.hub against the checkout."""

import json
import sys

import pytest
import torch

from mvidx.checkpoint.files import read_file
from mvidx.cli.share import main
from mvidx.errors import UserError
from mvidx.inference.hub import HubModel
from mvidx.inference.load import load_model
from mvidx.models.card import card_of
from tests.inference.made import NAMES, small_checkpoint
from tests.runs import ROOT


def test_a_folder_gives_the_model_back(tmp_path):
    model = load_model(small_checkpoint(tmp_path))
    HubModel(model).save_pretrained(tmp_path / "shared")
    assert sorted(path.name for path in (tmp_path / "shared").iterdir()) == [
        "README.md",
        "config.json",
        "model.safetensors",
    ]
    assert json.loads((tmp_path / "shared" / "config.json").read_text())["card"]["class_names"] == list(NAMES)
    again = HubModel.from_pretrained(tmp_path / "shared")
    plain = load_model(tmp_path / "shared")
    x = torch.randn(2, 3, 4, 64, 64)
    with torch.no_grad():
        assert torch.equal(again(x), model(x)) and torch.equal(plain(x), model(x))
    assert card_of(again.model) == card_of(plain) == card_of(model)
    readme = (tmp_path / "shared" / "README.md").read_text()
    assert "poolformer_s12_video" in readme and "video-classification" in readme


def test_config_alone_builds_the_model_and_wrong_ones_are_refused(tmp_path):
    HubModel(load_model(small_checkpoint(tmp_path))).save_pretrained(tmp_path / "shared")
    config = tmp_path / "shared" / "config.json"
    content = json.loads(config.read_text())
    content["card"]["name"] = "os.system"
    config.write_text(json.dumps(content))
    with pytest.raises(UserError, match=r"'os.system' can't be built: unknown model"):
        HubModel.from_pretrained(tmp_path / "shared")
    config.write_text("{}")
    with pytest.raises(UserError, match="no card"):
        HubModel.from_pretrained(tmp_path / "shared")


def test_an_image_model_says_so(tmp_path):
    HubModel(load_model(small_checkpoint(tmp_path, "poolformer_s12"))).save_pretrained(tmp_path / "shared")
    assert "pipeline_tag: image-classification" in (tmp_path / "shared" / "README.md").read_text()


def test_command(tmp_path, capsys):
    path = small_checkpoint(tmp_path)
    assert main(["--checkpoint", str(path), "--folder", str(tmp_path / "out")]) == 0
    assert read_file(tmp_path / "out" / "model.safetensors")["metadata"]["mvidx_card"]
    (tmp_path / "file").write_text("")
    assert main(["--checkpoint", str(path), "--folder", str(tmp_path / "file")]) == 2
    assert main(["--checkpoint", str(path)]) == 2
    assert "--folder --push is required" in capsys.readouterr().err


def test_torch_hub_from_the_checkout(tmp_path, monkeypatch):
    monkeypatch.setattr(sys, "path", list(sys.path))
    model = torch.hub.load(str(ROOT), "mixformer_b0_video", source="local", num_classes=3, frames=4, img_size=64)
    assert model(torch.randn(1, 3, 4, 64, 64)).shape == (1, 3)
    loaded = torch.hub.load(str(ROOT), "load_model", str(small_checkpoint(tmp_path)), source="local")
    assert card_of(loaded).class_names == NAMES
