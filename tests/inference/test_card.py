"""Cards: they survive every file, agree with the configs of the published models, and refuse what is wrong."""

import json
from pathlib import Path

import pytest
import torch

import mvidx
from mvidx.checkpoint.files import read_file
from mvidx.config import load_config
from mvidx.config.card import card_of_config, card_of_text
from mvidx.convert import convert_main, inflate_main
from mvidx.errors import UserError
from mvidx.inference.load import card_in, load_model
from mvidx.models.card import CardError, ModelCard, card_of
from mvidx.models.published import published_class_names, published_preprocessing
from tests.inference.made import NAMES, small_checkpoint
from tests.runs import ROOT

CONFIGS = sorted(path for path in ROOT.glob("configs/*/*.yaml") if not path.name.startswith("base"))


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: f"{path.parent.name}/{path.stem}")
def test_a_card_survives_json_and_the_config_in_a_checkpoint(path):
    cfg = load_config(path)
    card = card_of_config(cfg)
    assert ModelCard.from_json(card.to_json()) == card
    assert card_of_text(cfg.dump(), "x") == card
    if path.parent.name in ("K400", "IN1K"):  # what a bare name gives is what the published test configs say
        assert published_preprocessing(card.name, card.arguments) == card.preprocessing


def test_published_preprocessing_by_source():
    model = mvidx.create_model("mvitv2_t", depth=1, q_stride={}, dim_mul={}, head_mul={})
    assert card_of(model).preprocessing.crop_ratio == 0.875
    assert published_preprocessing("mvitv2_t", {"img_size": 224}, source="timm").crop_ratio == 0.9
    swin = published_preprocessing("tv_swin3d_t", {"img_size": 224, "frames": 32})
    assert (swin.resize, swin.crop, swin.sampling_rate, swin.mean[0]) == (256, 224, 2, 0.485)
    assert published_preprocessing("tv_r3d_18", {"img_size": 112, "frames": 16}).resize == (128, 171)


def test_every_registered_model_has_published_preprocessing():
    from mvidx.models.registry import model_entry

    for name in mvidx.list_models():
        entry = model_entry(name)
        found = published_preprocessing(name, entry.sized_arguments)
        assert found.takes_images != entry.video and found.num_frames == entry.sized_arguments.get("frames")


def test_class_names_of_published_weights():
    kinetics, imagenet = published_class_names(400, True), published_class_names(1000, False)
    assert (kinetics[0], kinetics[5], imagenet[0], imagenet[999]) == ("abseiling", "archery", "tench", "toilet tissue")
    assert published_class_names(174, True) == ()


@pytest.mark.parametrize("ending", [".pth", ".safetensors"])
def test_a_checkpoint_alone_gives_its_model(tmp_path, ending):
    path = small_checkpoint(tmp_path, ending=ending)
    model = load_model(path)
    assert card_of(model).class_names == NAMES and card_of(model).preprocessing.num_views == 2 and not model.training
    same = load_model(path, name="poolformer_s12_video")
    x = torch.randn(1, 3, 4, 64, 64)
    assert torch.equal(model(x), same(x))


def test_converting_and_inflating_keep_the_card(tmp_path):
    source = small_checkpoint(tmp_path, "poolformer_s12")
    sizes = ["depths=(1,1,1,1)", "widths=(32,64,64,96)", "img_size=64"]
    ours, video = tmp_path / "ours.safetensors", tmp_path / "video.pth"
    name = ["--model", "poolformer_s12", "--input", str(source), "--output", str(ours), *sizes]
    assert convert_main(name) == 0
    assert card_in(read_file(ours), ours) == card_in(read_file(source), source)
    name = ["--model", "poolformer_s12_video", "--input", str(ours), "--output", str(video), *sizes, "frames=4"]
    assert inflate_main(name) == 0
    card = card_of(load_model(video))
    assert card.class_names == NAMES and card.preprocessing.num_frames == 4


def test_a_bare_name_takes_the_classifier_of_the_file_and_says_numbers(tmp_path):
    model = mvidx.create_model("mobilenetv2_mixing", num_classes=5)
    torch.save(model.state_dict(), tmp_path / "bare.pth")
    loaded = load_model(tmp_path / "bare.pth", name="mobilenetv2_mixing")
    assert loaded.num_classes == 5 and card_of(loaded).names(5) == ("0", "1", "2", "3", "4")
    with pytest.raises(UserError, match="does not say which model it is of"):
        load_model(tmp_path / "bare.pth")


def test_resetting_the_classifier_drops_the_names(tmp_path):
    model = load_model(small_checkpoint(tmp_path))
    model.reset_classifier(3)
    assert card_of(model).class_names == () and card_of(model).arguments["num_classes"] == 3
    with pytest.raises(CardError, match="nothing is known about this Linear"):
        card_of(torch.nn.Linear(1, 1))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"name": 3}, "name=3"),
        ({"preprocessing": {"crop": 64}}, "lacks 'mean'"),
        ({"preprocessing": {"crop": 0, "mean": [0, 0, 0], "std": [1, 1, 1]}}, "crop=0"),
        ({"preprocessing": {"crop": 8, "mean": [0, 0, 0], "std": [1, 1, 0]}}, "std="),
        ({"preprocessing": {"crop": 8, "mean": [0, 0, 0], "std": [1, 1, 1], "zoom": 2}}, "unknown key 'zoom'"),
        ({"name": "resnet"}, "can't be built"),
        ({"arguments": {"depht": 3}}, "depht"),
    ],
)
def test_a_wrong_card_is_an_error_that_names_it(tmp_path, change, message):
    path = small_checkpoint(tmp_path)
    content = torch.load(path, weights_only=True)
    content["card"].update(change)
    torch.save(content, path)
    with pytest.raises(UserError, match=message) as caught:
        load_model(path)
    assert "\n" not in str(caught.value)


def test_training_writes_the_card(tmp_path):
    """The card in a run's checkpoint has the names of its classes, whatever becomes of its data."""
    from tests.runs import SMALL, run_net

    options = ("TEST.ENABLE", False, "SOLVER.MAX_EPOCH", 1, "SOLVER.WARMUP_EPOCHS", 0)
    done = run_net(*SMALL, *options, "DATA.PATH_TO_DATA_DIR", "motion", "OUTPUT_DIR", "out", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    path = next(Path(tmp_path, "out", "checkpoints").iterdir())
    card = card_of(load_model(path))
    assert card.class_names == ("left", "right") and card.preprocessing.num_frames == 4
    assert json.loads(card.to_json())["preprocessing"]["crop"] == 64
