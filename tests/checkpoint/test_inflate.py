import pytest
import torch

import mvidx
from mvidx.checkpoint.files import CheckpointError
from mvidx.convert import convert_main, inflate_main
from mvidx.models.poolformer import MIXERS
from tests.models.small import small_model
from tests.oracles import TOLERANCE, randomise

LIKE_THE_IMAGE_MODEL = {"class_token": False, "kv_stride": (1, 4, 4)}
CASES = [
    ("poolformer_s12", {}, {}),
    ("iformer_s", {}, {}),
    ("iformer_b", {}, {}),
    ("mixformer_b0", {}, {}),
    ("mixformer_b1", {}, {}),
    ("mvitv2_s", {}, LIKE_THE_IMAGE_MODEL),
    ("mvit_b", {"class_token": False}, LIKE_THE_IMAGE_MODEL),
    *(("metaformer_s12", {"mixers": (mixer,) * 4, "widths": (64, 64, 64, 96)}, {}) for mixer in MIXERS),
]


def pair(name, overrides, video_overrides):
    """A random image model, and a video model of other random weights."""
    image = randomise(small_model(name, **overrides))
    return image, randomise(small_model(f"{name}_video", **{**overrides, **video_overrides}), seed=1)


@pytest.mark.parametrize("side", [(64, 64), (96, 72)])
@pytest.mark.parametrize(("name", "overrides", "video_overrides"), CASES)
def test_a_repeated_image_gives_the_image_models_logits(name, overrides, video_overrides, side):
    image, video = pair(name, overrides, video_overrides)
    video.load_state_dict(mvidx.inflate(image.state_dict(), video))
    x = torch.randn(2, 3, *side)
    with torch.no_grad():
        wanted = image(x)
        assert wanted.std() > 0.1
        for frames in (4, 1, 19):  # as built, alone, and more than a window of the mixing block holds
            logits = video(x[:, :, None].expand(-1, -1, frames, -1, -1))
            assert (logits - wanted).abs().max() < TOLERANCE, frames


def test_mean_is_exact_away_from_the_ends():
    """With mixers and norms that look at their neighbourhood alone, only frames near an end differ."""
    image, video = pair("metaformer_s12", {"mixers": ("depthwise",) * 4, "norm": "layer"}, {})
    video.load_state_dict(mvidx.inflate(image.state_dict(), video, time="mean"))
    x = torch.randn(1, 3, 64, 64)
    with torch.no_grad():
        wanted = image.forward_features(x)
        frames = video.forward_features(x[:, :, None].expand(-1, -1, 32, -1, -1))  # 16 frames
    error = (frames - wanted[:, None]).abs().amax((0, 2, 3, 4))
    assert error[5:11].max() < TOLERANCE < error[0]
    assert error[-1] > TOLERANCE


def test_what_only_the_video_model_has():
    image, video = pair("mvitv2_s", {}, {})
    kept = {name: value.clone() for name, value in video.state_dict().items()}
    inflated = mvidx.inflate(image.state_dict(), video)
    assert inflated.keys() == kept.keys()
    assert all(torch.equal(value, video.state_dict()[name]) for name, value in kept.items()), "the model was changed"
    assert torch.equal(inflated["cls_token"], kept["cls_token"])
    assert not inflated["blocks.1.attn.relative.t"].any()
    kernel = inflated["patch_embed.weight"]
    assert torch.equal(kernel[:, :, 1], image.patch_embed.weight) and not kernel[:, :, ::2].any()
    divided = mvidx.inflate(image.state_dict(), video, time="mean")["patch_embed.weight"]
    assert torch.allclose(divided * 3, image.patch_embed.weight[:, :, None].expand_as(kernel))


def test_window_bias_repeats_along_time():
    image, video = pair("mixformer_b0", {}, {})
    table = mvidx.inflate(image.state_dict(), video)["stages.0.blocks.0.mixer.bias.table"]
    assert table.shape == (1, 15, 13, 13, 3)
    assert all(torch.equal(table[:, t], image.stages[0].blocks[0].mixer.bias.table) for t in range(15))


def test_a_classifier_of_another_size_keeps_the_models_values():
    image = randomise(small_model("poolformer_s12", num_classes=5))
    video = randomise(small_model("poolformer_s12_video"))
    inflated = mvidx.inflate(image.state_dict(), video)
    assert torch.equal(inflated["head.weight"], video.head.weight)
    assert torch.equal(inflated["norm.weight"], image.norm.weight)


def test_tables_are_interpolated_to_another_size():
    image, video = small_model("iformer_s", img_size=96), small_model("iformer_s_video")
    inflated = mvidx.inflate(image.state_dict(), video)
    assert inflated["stages.0.position.space"].shape == (1, 16, 16, 24)
    assert not inflated["stages.0.position.time"].any()


def test_foreign_states_and_timms_variant():
    """Any state that load_checkpoint recognises; timm's norm after the mean comes with it."""
    timm = pytest.importorskip("timm")
    reference = randomise(timm.create_model("poolformer_s12", num_classes=10))
    video = mvidx.create_model("poolformer_s12_video", num_classes=10).eval()
    video.load_state_dict(mvidx.inflate(reference.state_dict(), video))
    x = torch.randn(1, 3, 64, 96)
    with torch.no_grad():
        assert (video(x[:, :, None].expand(-1, -1, 2, -1, -1)) - reference(x)).abs().max() < TOLERANCE


def test_what_does_not_fit_is_named():
    image = small_model("poolformer_s12").state_dict()
    video = small_model("poolformer_s12_video")
    with pytest.raises(ValueError, match="time='middle', expected 'center' or 'mean'"):
        mvidx.inflate(image, video, time="middle")
    with pytest.raises(CheckpointError, match=r"no place in PoolFormer: odd\.weight"):
        mvidx.inflate({**image, "odd.weight": torch.zeros(1)}, video)
    without = {name: value for name, value in image.items() if name != "stages.0.blocks.0.mlp.fc1.bias"}
    with pytest.raises(CheckpointError, match=r"lacks 1 tensors.*stages\.0\.blocks\.0\.mlp\.fc1\.bias"):
        mvidx.inflate(without, video)
    with pytest.raises(CheckpointError, match=r"stem\.conv\.weight has shape \(1, 3, 7, 7\)"):
        mvidx.inflate({**image, "stem.conv.weight": torch.zeros(1, 3, 7, 7)}, video)
    with_token = small_model("mvitv2_s", class_token=True).state_dict()
    with pytest.raises(CheckpointError, match="cls_token"):
        mvidx.inflate(with_token, small_model("mvitv2_s_video", class_token=False))


@pytest.mark.parametrize("suffix", [".pth", ".safetensors"])
def test_commands(suffix, tmp_path, capsys):
    image = mvidx.create_model("mixformer_b0", num_classes=3).eval()
    published, ours, inflated = tmp_path / "in.pth", tmp_path / f"ours{suffix}", tmp_path / f"video{suffix}"
    torch.save(image.state_dict(), published)
    assert convert_main(["--model", "mixformer_b0", "--input", str(published), "--output", str(ours)]) == 0
    assert inflate_main(["--model", "mixformer_b0_video", "--input", str(ours), "--output", str(inflated)]) == 0
    if suffix == ".pth":
        assert list(torch.load(ours, weights_only=True)) == ["model", "card"]
    video = mvidx.create_model("mixformer_b0_video", num_classes=3, checkpoint=str(inflated)).eval()
    x = torch.randn(1, 3, 32, 64)
    with torch.no_grad():
        assert torch.allclose(video(x[:, :, None].expand(-1, -1, 4, -1, -1)), image(x), atol=TOLERANCE)
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted([published.name, ours.name, inflated.name])


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--model", "mixformer_b9_video", "--input", "IN", "--output", "OUT"], "unknown model 'mixformer_b9_video'"),
        (["--model", "mixformer_b1_video", "--input", "IN", "--output", "OUT"], "has shape"),
        (["--model", "mixformer_b0_video", "--input", "none.pth", "--output", "OUT"], "no such file"),
        (["--model", "mixformer_b0_video", "--input", "IN", "--output", "nowhere/out.pth"], "no such folder"),
        (["--model", "mixformer_b0_video", "--input", "IN"], "--output"),
        (["--model", "mixformer_b0", "--input", "IN", "--output", "OUT"], "is an image model"),
        (["--model", "mixformer_b0_video", "--input", "IN", "--output", "OUT", "depth"], "expected KEY=VALUE"),
        (["--model", "mixformer_b0_video", "--input", "IN", "--output", "OUT", "windows=(8,7,7)"], "no argument"),
    ],
)
def test_bad_commands_end_with_one_line_and_status_2(arguments, message, tmp_path, capsys):
    torch.save(mvidx.create_model("mixformer_b0", num_classes=3).state_dict(), tmp_path / "in.pth")
    files = {"IN": "in.pth", "OUT": "out.pth", "none.pth": "none.pth", "nowhere/out.pth": "nowhere/out.pth"}
    places = {word: str(tmp_path / name) for word, name in files.items()}
    assert inflate_main([places.get(argument, argument) for argument in arguments]) == 2
    error = capsys.readouterr().err
    assert message in error and error.startswith("error: ") and error.count("\n") == 1
    assert not (tmp_path / "out.pth").exists()
