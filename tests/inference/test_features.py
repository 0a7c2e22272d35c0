"""Features: what the model computes, a row a clip; resumable, whole or not at all."""

import json

import numpy as np
import pytest
import torch
from safetensors.numpy import load_file

from mvidx.cli.features import main
from mvidx.data.batch import Normalization
from mvidx.inference.clips import ClipWindows, Windows
from mvidx.inference.inputs import find_inputs
from mvidx.inference.load import load_model
from mvidx.models.card import card_of
from tests.inference.made import small_checkpoint, write_video


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    folder = tmp_path_factory.mktemp("features")
    small_checkpoint(folder)
    (folder / "videos" / "inner").mkdir(parents=True)
    write_video(folder / "videos" / "a.mp4")
    write_video(folder / "videos" / "inner" / "b.mp4", 70)
    (folder / "videos" / "broken.mp4").write_text("not a video")
    return folder


def run(made, out, *options, videos="videos"):
    common = ["--checkpoint", str(made / "poolformer_s12_video.pth"), "--workers", "0", "--window-seconds", "1"]
    return main([str(made / videos), "--output", str(out), *common, *options])


def clips_of(made, name):
    model = load_model(made / "poolformer_s12_video.pth")
    wanted = card_of(model).preprocessing.with_views(1)
    inputs = find_inputs([made / "videos" / name], images=False)
    clips = torch.cat([window.clips for window in ClipWindows(inputs, wanted, Windows(1.0))])
    return model, Normalization(wanted.mean, wanted.std)(clips)


def test_pooled_features_are_what_the_head_reads(made, tmp_path):
    assert run(made, tmp_path / "out") == 1  # for the broken one
    assert not (tmp_path / "out" / "broken.npy").exists()
    model, clips = clips_of(made, "a.mp4")
    features = np.load(tmp_path / "out" / "a.npy")
    with torch.no_grad():
        logits = model.head(torch.from_numpy(features))
        assert torch.allclose(logits, model(clips), atol=1e-5)
    assert features.shape == (3, 96) and np.load(tmp_path / "out" / "inner" / "b.npy").shape == (3, 96)


def test_grids_of_a_stage_with_times(made, tmp_path):
    assert run(made, tmp_path, "--grid", "--stage", "2", "--format", "safetensors", "--dtype", "float16") == 1
    content = load_file(tmp_path / "inner" / "b.safetensors")
    model, clips = clips_of(made, "inner/b.mp4")
    with torch.no_grad():
        expected = model.forward_pyramid(clips)[1].numpy()
    assert content["features"].dtype == np.float16 and content["features"].shape == expected.shape == (3, 2, 8, 8, 64)
    assert np.allclose(content["features"], expected, atol=1e-2 * np.abs(expected).max())
    assert content["start_seconds"].tolist() == pytest.approx([0, 1, 4 / 3], abs=1e-5)
    assert content["end_seconds"].tolist() == pytest.approx([1, 2, 7 / 3], abs=1e-5)


def test_it_goes_on_where_it_stopped_and_refuses_other_settings(made, tmp_path, capsys):
    assert run(made, tmp_path / "out", videos="videos/a.mp4") == 0
    before = (tmp_path / "out" / "a.npy").stat().st_mtime_ns
    assert run(made, tmp_path / "out") == 1
    assert "1 written, 1 were there, 1 unreadable" in capsys.readouterr().out
    assert (tmp_path / "out" / "a.npy").stat().st_mtime_ns == before
    assert run(made, tmp_path / "out", "--grid") == 2
    error = capsys.readouterr().err
    assert "grid false, now true" in error and error.count("\n") == 1
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == ["a.npy", "features.json", "inner"]
    assert json.loads((tmp_path / "out" / "features.json").read_text())["window_seconds"] == 1.0


def test_bad_requests_write_nothing(made, tmp_path, capsys):
    out = tmp_path / "out"
    assert run(made, out, "--stage", "5") == 2 and "stage 5, expected 1 to 4" in capsys.readouterr().err
    twice = [str(made / "videos" / "a.mp4")] * 2
    assert main([*twice, "--output", str(out), "--checkpoint", str(made / "poolformer_s12_video.pth")]) == 2
    assert "would both be" in capsys.readouterr().err and not out.exists()
    (tmp_path / "file").write_text("")
    assert run(made, tmp_path / "file") == 2 and "cannot write" in capsys.readouterr().err
