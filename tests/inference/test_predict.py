"""Predictions: those of a test, of a whole video or in windows, in order, and drawn onto pictures."""

import json
import subprocess
import sys

import av
import numpy as np
import pytest
import torch
from PIL import Image

import mvidx
from mvidx.cli.predict import main
from mvidx.data.decode import open_video
from mvidx.data.sampling import uniform_view_indices
from mvidx.data.transforms import test_view as make_view
from mvidx.errors import UserError
from mvidx.inference.clips import ClipWindows, Windows
from mvidx.inference.draw import covering, mean_top, timeline_strip
from mvidx.inference.inputs import find_inputs
from mvidx.inference.load import load_model
from mvidx.inference.predict import ClassScore, WindowPrediction, in_order
from mvidx.models.card import Preprocessing, card_of
from tests.inference.made import NAMES, small_checkpoint, write_video
from tests.runs import ROOT


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """A folder with a checkpoint, two videos, a file that is none, and an image."""
    folder = tmp_path_factory.mktemp("predict")
    small_checkpoint(folder)
    (folder / "videos" / "inner").mkdir(parents=True)
    write_video(folder / "videos" / "a.mp4")
    write_video(folder / "videos" / "inner" / "b.mp4", 40)
    (folder / "videos" / "c.mp4").write_text("not a video")
    Image.fromarray(np.random.default_rng(0).integers(0, 255, (90, 120, 3), np.uint8)).save(folder / "image.png")
    return folder


def test_scores_are_the_mean_over_the_views_of_a_test(made):
    """Against the public pieces, put together here: indices, crops, the model, softmax."""
    model = load_model(made / "poolformer_s12_video.pth")
    wanted = card_of(model).preprocessing
    path = made / "videos" / "a.mp4"
    with open_video(path) as video:
        views = uniform_view_indices(video.num_frames, video.fps, num_frames=4, sampling_rate=16, num_views=2)
        clips = [
            make_view(video.get_frames(v), short_side=72, crop=64, spatial_idx=1, mean=wanted.mean, std=wanted.std)
            for v in views
        ]
    with torch.no_grad():
        expected = model(torch.stack(clips)).softmax(1).mean(0).numpy()
    (found,) = mvidx.predict(model, path, topk=3)
    assert np.allclose(found.scores, expected, atol=1e-6)
    best = np.argsort(-expected)[:3]
    assert [score.label for score in found.top] == best.tolist()
    assert [score.name for score in found.top] == [NAMES[i] for i in best]
    assert [score.probability for score in found.top] == pytest.approx(expected[best], abs=1e-6)
    assert found.duration_seconds == pytest.approx(3.0) and found.failure is None and len(found.windows) == 1


def test_folders_lists_and_workers_give_the_same_in_order(made, tmp_path):
    model = load_model(made / "poolformer_s12_video.pth")
    found = mvidx.predict(model, made / "videos")
    assert [result.path for result in found] == [str(made / "videos" / n) for n in ("a.mp4", "c.mp4", "inner/b.mp4")]
    assert [bool(result.failure) for result in found] == [False, True, False] and found[1].top == ()
    rows = tmp_path / "list.csv"
    rows.write_text(f"{made / 'videos' / 'a.mp4'} 3\n\n{made / 'videos' / 'c.mp4'}\n{made}/videos/inner/b.mp4,0\n")
    again = mvidx.predict(str(made / "poolformer_s12_video.pth"), [rows], num_workers=2, batch_size=3)
    for one, other in zip(found, again, strict=True):
        assert one.path == other.path and one.failure == other.failure
        assert one.scores is other.scores is None or np.allclose(one.scores, other.scores, atol=1e-6)


def test_a_window_is_predicted_as_a_video_of_its_own(made, tmp_path):
    model = load_model(made / "poolformer_s12_video.pth")
    path = made / "videos" / "a.mp4"
    (found,) = mvidx.predict(model, path, window_seconds=2.2, stride_seconds=0.5)
    assert [(w.start_seconds, w.end_seconds) for w in found.windows] == [
        pytest.approx(span) for span in ((0, 2.2), (0.5, 2.7), (0.8, 3.0))
    ]
    wanted = card_of(model).preprocessing
    with open_video(path) as video:
        indices = 15 + uniform_view_indices(66, 30, num_frames=4, sampling_rate=16, num_views=1)[0]
        clip = make_view(
            video.get_frames(indices), short_side=72, crop=64, spatial_idx=1, mean=wanted.mean, std=wanted.std
        )
    with torch.no_grad():
        expected = model(clip[None]).softmax(1)[0].numpy()
    assert np.allclose(found.windows[1].scores, expected, atol=1e-6)
    assert np.allclose(found.scores, np.mean([w.scores for w in found.windows], axis=0), atol=1e-6)


@pytest.mark.parametrize(
    ("windows", "num_frames", "expected"),
    [
        (Windows(), 100, [(0, 100)]),
        (Windows(2.0), 100, [(0, 20), (20, 40), (40, 60), (60, 80), (80, 100)]),
        (Windows(3.0), 100, [(0, 30), (30, 60), (60, 90), (70, 100)]),
        (Windows(3.0, 6.0), 100, [(0, 30), (60, 90)]),  # the end lies in a gap
        (Windows(None, 5.0), 100, [(0, 40), (50, 90)]),  # a clip's 4 s
        (Windows(20.0), 100, [(0, 100)]),
        (Windows(0.01), 3, [(0, 1), (1, 2), (2, 3)]),
    ],
)
def test_windows_by_hand(windows, num_frames, expected):
    assert windows.of(num_frames, 10.0, 4.0) == expected


@pytest.mark.parametrize("bad", [0, -1.0, float("inf"), float("nan")])
def test_windows_have_a_length(bad):
    with pytest.raises(UserError, match="seconds"):
        Windows(bad)


class CountingVideo:
    """A video of 4000 frames that counts what is decoded, and how many frames are alive."""

    num_frames, fps = 4000, 30.0

    def __init__(self):
        self.decoded = []

    def __enter__(self):
        return self

    def __exit__(self, *_):
        pass

    def get_frames(self, indices, transform=None):
        self.decoded += list(indices)
        return np.stack([transform(np.full((8, 10, 3), number % 251, np.uint8)) for number in indices])


def test_each_frame_is_decoded_once_and_few_are_kept(monkeypatch):
    from mvidx.inference import clips

    video, most = CountingVideo(), []
    monkeypatch.setattr(clips.Input, "open", lambda *_, **__: video)
    kept = clips._ResizedFrames.fetch

    def fetch(self, numbers):
        kept(self, numbers)
        most.append(len(self.kept))

    monkeypatch.setattr(clips._ResizedFrames, "fetch", fetch)
    wanted = Preprocessing(crop=8, resize=8, num_frames=8, sampling_rate=2, mean=(0, 0, 0), std=(1, 1, 1))
    found = list(ClipWindows([clips.Input("x.mp4", "x.mp4")], wanted, Windows(1.0, 0.2)))
    assert len(found) == 663 and found[-1].is_last
    assert len(video.decoded) == len(set(video.decoded))
    assert max(most) < 3 * clips.GROUP_FRAMES
    for window in found[::50]:
        assert window.clips[0, 0, :, 0, 0].tolist() == (window.frames[0] % 251).tolist()


def test_damage_costs_the_windows_from_there_on(made, tmp_path):
    cut = write_video(tmp_path / "cut.mkv", 200)
    cut.write_bytes(cut.read_bytes()[: int(cut.stat().st_size * 0.6)])
    (found,) = mvidx.predict(str(made / "poolformer_s12_video.pth"), cut, window_seconds=1)
    assert found.windows and found.windows[-1].end_seconds < 200 / 30


def test_folders_of_frames_and_images(made, tmp_path):
    folder = tmp_path / "frames"
    folder.mkdir()
    with open_video(made / "videos" / "a.mp4") as video:
        for number, frame in enumerate(video.get_frames(range(20))):
            Image.fromarray(frame).save(folder / f"{number:03d}.png")
    (one,) = find_inputs([folder], images=False)
    assert len(one.frames) == 20 and one.name == "frames"
    (found,) = mvidx.predict(str(made / "poolformer_s12_video.pth"), folder)
    assert found.top and found.duration_seconds == pytest.approx(20 / 30)
    (found,) = mvidx.predict(str(made / "poolformer_s12_video.pth"), made / "image.png")
    assert found.failure == "is an image, but the model takes clips"

    images = small_checkpoint(tmp_path, "poolformer_s12")
    results = mvidx.predict(str(images), [made / "image.png", made / "videos" / "a.mp4"])
    assert results[0].top and results[1].failure == "is a video, but the model takes images"
    with pytest.raises(UserError, match="windows of time"):
        mvidx.predict(str(images), made / "image.png", window_seconds=1)


def test_command_table_json_and_status(made, tmp_path, capsys):
    checkpoint = ["--checkpoint", str(made / "poolformer_s12_video.pth")]
    out = tmp_path / "out.json"
    assert main([str(made / "videos"), *checkpoint, "--json", str(out), "--topk", "2", "--workers", "0"]) == 1
    printed = capsys.readouterr()
    assert printed.out.count("class ") == 4 and "a.mp4  (0:03.0)" in printed.out
    assert "c.mp4" in printed.err and "1 of 3 could not be read" in printed.err and "Traceback" not in printed.err
    content = json.loads(out.read_text())
    assert [len(one["top"]) for one in content["predictions"]] == [2, 2] and len(content["failures"]) == 1
    assert set(content["predictions"][0]["top"][0]) == {"label", "name", "probability"}
    assert main([str(made / "videos" / "a.mp4"), *checkpoint, "--json", "-", "--workers", "0"]) == 0
    assert json.loads(capsys.readouterr().out)["predictions"][0]["top"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--topk", "0"], "topk 0"),
        (["--window-seconds", "-1"], "window of -1.0 seconds"),
        (["--json", "/nowhere/x.json"], "/nowhere"),
        (["--render", "x.gif"], "expected a name that ends in .mp4 or .png"),
        (["--model", "poolformer_s12"], "has no place in|lacks|shape|mvidx.inflate"),
        (["--model", "poolformr_s12"], "did you mean"),
        (["--checkpoint", "nothing.pth"], "no such file"),
        (["--classes", "nothing.txt"], "does not exist"),
        (["--crops", "2"], "invalid choice"),
    ],
)
def test_bad_arguments_are_one_line(made, tmp_path, capsys, monkeypatch, arguments, message):
    import re

    monkeypatch.chdir(tmp_path)
    video = str(made / "videos" / "a.mp4")
    assert main([video, "--checkpoint", str(made / "poolformer_s12_video.pth"), *arguments]) == 2
    error = capsys.readouterr().err
    assert re.search(message, error) and error.count("\n") == 1 and not list(tmp_path.iterdir())


def test_rendered_video_and_sheet(made, tmp_path):
    """The video has every frame, labels where the panel is and the picture itself where it is not."""
    path = made / "videos" / "a.mp4"
    targets = tmp_path / "out.mp4", tmp_path / "out.png"
    arguments = ["--window-seconds", "1", "--render", str(targets[0]), "--render", str(targets[1])]
    command = [sys.executable, str(ROOT / "tools" / "predict.py"), str(path), *arguments]
    done = subprocess.run(
        [*command, "--checkpoint", str(made / "poolformer_s12_video.pth")], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0 and done.stdout.count(" - ") == 3, done.stderr
    with av.open(str(targets[0])) as container, open_video(path) as video:
        stream = container.streams.video[0]
        assert stream.codec_context.name == "h264" and (stream.width, stream.height) == (432, 360)
        shown = [frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)]
        assert len(shown) == video.num_frames == 90
        original = np.asarray(Image.fromarray(video.get_frames([45])[0]).resize((432, 360), Image.BICUBIC), float)
    difference = np.abs(shown[45] - original).mean(2)
    assert difference[200:340].mean() < 12 < 25 < difference[10:60, 10:150].mean()
    sheet = Image.open(targets[1])
    assert sheet.width >= 640 and sheet.height > 3 * 112
    assert sorted(file.name for file in tmp_path.iterdir()) == ["out.mp4", "out.png"]


def windows_of(*spans):
    scores = [np.eye(3, dtype=np.float32)[label] for _, _, label in spans]
    top = [tuple(ClassScore(i, f"c{i}", float(s[i])) for i in np.argsort(-s)) for s in scores]
    return [WindowPrediction(a, b, t, s) for (a, b, _), t, s in zip(spans, top, scores, strict=True)]


def test_what_is_drawn_at_a_moment():
    windows = windows_of((0.0, 2.0, 0), (1.0, 3.0, 1), (4.0, 6.0, 1))
    assert [covering(windows, t) for t in (0.5, 1.5, 2.5, 3.5, 4.0, 6.0)] == [(0,), (0, 1), (1,), (), (2,), ()]
    mean = mean_top(windows, (0, 1))
    assert {score.label: score.probability for score in mean} == {0: 0.5, 1: 0.5, 2: 0.0}
    strip = timeline_strip(windows, 6.0, 60, 8)
    assert (strip[0, 5] != strip[0, 45]).any() and (strip[0, 35] == strip[0, 38]).all()


def test_values_come_in_order():
    assert list(in_order(iter([(1, "b"), (0, "a"), (3, "d"), (2, "c")]))) == ["a", "b", "c", "d"]
