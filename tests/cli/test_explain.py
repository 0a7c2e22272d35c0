import json

import av
import numpy as np
import pytest
import torch
from PIL import Image

from mvidx.cli.explain import find_class, heat_between, main, stems
from mvidx.data.motion_scene import MotionScene
from mvidx.errors import UserError
from mvidx.explain.draw import overlaid
from mvidx.inference.inputs import Input
from mvidx.models.card import card_of
from tests.models.small import small_model


def checkpoint(folder, name, **arguments):
    """A checkpoint of a small model with random weights, which says what it is of."""
    torch.manual_seed(0)
    model = small_model(name, **arguments)
    path = folder / f"{name}.pyth"
    torch.save({"model": model.state_dict(), "card": card_of(model).to_dict()}, path)
    return str(path)


@pytest.fixture
def video(tmp_path):
    path = tmp_path / "one.mp4"
    MotionScene(0, 0, 0, "left").write(path)
    return str(path)


def test_a_video(tmp_path, video, capsys):
    (tmp_path / "broken.mp4").write_bytes(b"no video")
    weights, out = checkpoint(tmp_path, "iformer_s_video"), tmp_path / "out"
    assert main([video, str(tmp_path / "broken.mp4"), "--checkpoint", weights, "--output", str(out)]) == 1
    assert sorted(path.name for path in out.iterdir()) == [
        *("explained.json", "fourier.png", "one_attention.png", "one_gradcam.mp4", "one_gradcam.png")
    ]
    captured = capsys.readouterr()
    assert "unreadable: " in captured.err and "1 of 2 could not be read" in captured.err
    content = json.loads((out / "explained.json").read_text())
    assert content["model"] == "iformer_s_video" and content["failures"][0]["path"].endswith("broken.mp4")
    (view,) = content["videos"][0]["views"]
    assert len(view["mean_heat"]) == len(view["seconds"]) == 4 and 0 < view["probability"] <= 1
    assert {one["branch"] for one in content["spectra"]} == {"block", "convolution", "max pool", "attention"}
    for path in out.glob("*.png"):
        with Image.open(path) as picture:
            assert len(np.unique(np.asarray(picture.convert("L")))) > 50  # something is drawn
    with av.open(str(out / "one_gradcam.mp4")) as container:
        stream = container.streams.video[0]
        frames = [frame.to_ndarray(format="rgb24") for frame in container.decode(stream)]
        assert float(stream.average_rate) == pytest.approx(float(MotionScene(0, 0, 0, "left").fps), rel=1e-3)
    fps = float(MotionScene(0, 0, 0, "left").fps)
    assert len(frames) == round((view["seconds"][-1] - view["seconds"][0]) * fps) + 1
    left, right = np.split(frames[0][30:], 2, axis=1)
    assert left.shape == right.shape and np.abs(left.astype(int) - right).mean() > 3


def test_an_image(tmp_path):
    Image.fromarray(np.random.default_rng(0).integers(0, 255, (90, 120, 3), np.uint8)).save(tmp_path / "a.png")
    out = tmp_path / "out"
    weights = checkpoint(tmp_path, "mvitv2_s")
    assert main([str(tmp_path / "a.png"), "--checkpoint", weights, "--output", str(out), "--class", "3"]) == 0
    assert sorted(path.name for path in out.iterdir()) == [
        *("a_attention.png", "a_gradcam.png", "explained.json", "fourier.png")
    ]
    assert json.loads((out / "explained.json").read_text())["videos"][0]["views"][0]["class"] == "3"


def test_what_is_shown_and_how_many_views(tmp_path, video):
    out, weights = tmp_path / "out", checkpoint(tmp_path, "poolformer_s12_video")
    options = ["--show", "gradcam", "--views", "2", "--stage", "2", "--method", "layercam"]
    assert main([video, "--checkpoint", weights, "--output", str(out), *options]) == 0
    assert sorted(path.name for path in out.iterdir()) == [
        *("explained.json", "one_1_gradcam.mp4", "one_1_gradcam.png", "one_2_gradcam.mp4", "one_2_gradcam.png")
    ]
    content = json.loads((out / "explained.json").read_text())
    assert [view["block"] for view in content["videos"][0]["views"]] == ["stages.1.blocks.0"] * 2


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--class", "nothing"], "--class nothing: expected a name of a class or a number from 0 to 6"),
        (["--stage", "9"], "stage 9, expected one of 1, 2, 3, 4"),
        (["--show", "attention"], "--show attention: no mixer of this PoolFormer attends"),
        (["--blocks", "x"], "--blocks x: expected blocks that attend"),
        (["--query", "0.5"], "--query takes 3 numbers, t y x, got 1"),
        (["--query", "0.5", "2", "0"], "expected fractions from 0 to 1"),
        (["--views", "0"], "views 0, expected 1 or more"),
        (["--method", "x"], "invalid choice"),
    ],
)
def test_bad_arguments(tmp_path, video, capsys, options, message):
    weights, out = checkpoint(tmp_path, "poolformer_s12_video"), tmp_path / "out"
    assert main([video, "--checkpoint", weights, "--output", str(out), *options]) == 2
    error = capsys.readouterr().err
    assert error.startswith("error: ") and error.count("\n") == 1 and message in error
    assert not out.exists()


def test_output_that_is_a_file(tmp_path, video, capsys):
    weights = checkpoint(tmp_path, "poolformer_s12_video")
    assert main([video, "--checkpoint", weights, "--output", video]) == 2
    assert "is a file, expected a folder" in capsys.readouterr().err


def test_classes_by_name_and_number():
    names = ("left", "right", "7")
    assert [find_class(wanted, names) for wanted in (None, "right", "0", "7")] == [None, 1, 0, 2]
    with pytest.raises(UserError, match="did you mean 'right'"):
        find_class("rigth", names)


def test_file_names_differ():
    inputs = [Input("a/x.mp4", "x.mp4"), Input("b/x.avi", "x.avi"), Input("b/c/y.mp4", "c/y.mp4")]
    assert stems(inputs) == ["x", "x_2", "c_y"]


def test_heat_between_frames_is_linear():
    heat = np.array([0.0, 1.0, 3.0]).reshape(3, 1, 1)
    assert [float(heat_between(heat, [10, 14, 16], frame)[0, 0]) for frame in (10, 11, 14, 15, 16)] == [
        0,
        0.25,
        1,
        2,
        3,
    ]


def test_cold_places_keep_their_picture():
    frames = np.full((1, 2, 2, 3), 100, np.uint8)
    heat = np.array([[[0.0, 1.0], [0.5, 0.0]]])
    shown = overlaid(frames, heat)
    assert (shown[0, 0, 0] == 100).all() and (shown[0, 1, 1] == 100).all() and (shown[0, 0, 1] != 100).any()
