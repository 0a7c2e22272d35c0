"""tools/benchmark.py measures what it says, and both sides compute the same."""

import json

import pytest

from mvidx.benchmark import loader
from mvidx.benchmark.command import main, subcommands
from mvidx.benchmark.model import Case, build_ours, build_theirs, growth, logit_difference, parse_sweep
from mvidx.benchmark.peers import share_weights
from mvidx.errors import UserError
from mvidx.models.base import Backbone

SMALL = ["--model", "poolformer_s12", "--img-size", "64", "--rounds", "2", "--warmup", "1"]


def test_a_model_against_another_library(tmp_path, capsys):
    file = tmp_path / "model.json"
    assert main(["model", *SMALL, "--batch-size", "8", "--against", "timm", "--json", str(file)]) == 0
    content = json.loads(file.read_text())
    assert content["ratio"] > 0 and content["ratio"] == content["rows"][0]["ratio"]
    assert content["same_weights"] and content["logit_difference"] < 1e-3
    for side in ("ours", "theirs"):
        assert content[f"{side}_seconds"] > 0 and content[f"{side}_peak_bytes"] > 2**20
    assert {"torch", "timm"} <= content["versions"].keys()
    assert "poolformer_s12" in capsys.readouterr().out


def test_a_training_step_over_a_sweep_with_a_plot(tmp_path):
    file, plot = tmp_path / "sweep.json", tmp_path / "sweep.png"
    files = ["--plot", str(plot), "--json", str(file)]
    arguments = ["--sweep", "batch_size=1,2", "--train", "--profile", "--no-memory", *files]
    assert main(["model", *SMALL, *arguments]) == 0
    content = json.loads(file.read_text())
    assert [row["batch_size"] for row in content["rows"]] == [1, 2]
    assert len(content["growth"]["poolformer_s12"]["time_ratios"]) == 1
    assert sum(content["rows"][0]["ours_operations"].values()) == pytest.approx(1, abs=0.01)
    assert plot.read_bytes()[:4] == b"\x89PNG"


def test_compiled_against_eager(tmp_path, monkeypatch):
    compiled = []
    monkeypatch.setattr(Backbone, "compile", lambda model: compiled.append(model))
    file = tmp_path / "eager.json"
    arguments = ["--against", "eager", "--compile", "--no-memory", "--json", str(file)]
    assert main(["model", *SMALL, *arguments]) == 0
    content = json.loads(file.read_text())
    assert len(compiled) == 1 and content["ratio"] > 0 and content["against_model"] == "poolformer_s12"


def test_growth_by_hand():
    rows = [{"model": "m", "n": n, "ours_seconds": s, "ours_peak_bytes": b} for n, s, b in [(1, 1, 10), (2, 3, 20)]]
    assert growth(rows, "n") == {"m": {"time_ratios": [3.0], "line_deviation": pytest.approx(0)}}
    rows.append({"model": "m", "n": 3, "ours_seconds": 6, "ours_peak_bytes": 36})  # the line: 9, 22, 35
    assert growth(rows, "n")["m"]["line_deviation"] == pytest.approx(1 / 9)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["model", "--model", "nothing"], "nothing"),
        (["model", *SMALL, "--against", "torchvision"], "torchvision"),
        (["model", *SMALL, "--sweep", "depth=1"], "--sweep depth=1, expected one of frames"),
        (["model", *SMALL, "--plot", "a.png"], "--plot needs --sweep"),
        (["model", *SMALL, "--against", "eager"], "--against eager compares it with --compile"),
        (["model", *SMALL, "--rounds", "0"], "--rounds 0, expected 1 or more"),
        (["loader", "--cfg", "configs/K400/MVITv2_S.yaml", "--memory", "20"], "--memory 20, expected at least 1500"),
        (["nothing"], "invalid choice: 'nothing'"),
    ],
)
def test_mistakes(arguments, message, capsys):
    assert main(arguments) == 2
    assert message in capsys.readouterr().err
    with pytest.raises(UserError):
        parse_sweep("frames=")


@pytest.mark.parametrize(
    ("half", "names"), [("train", loader.TRAININGS), pytest.param("test", list(loader.TESTS), marks=pytest.mark.long)]
)
def test_the_loader_against_pyslowfast_s_way(tmp_path, monkeypatch, capsys, half, names):
    """The command compares the clips of both sides itself, and raises where they differ."""
    monkeypatch.setattr(loader, "SECONDS", 3)
    file = tmp_path / "loader.json"
    arguments = ["--videos", str(tmp_path), "--num-videos", "2", "--batch-size", "2", "--workers", "1", "--rounds", "1"]
    cfg = ["--cfg", "configs/K400/MVITv2_S.yaml", "--backend", "pyav", "--json", str(file), "--only", half]
    assert main(["loader", *cfg, *arguments]) == 0
    content = json.loads(file.read_text())
    assert [row["row"] for row in content["rows"]] == list(names) and "torch" in content["versions"]
    for row in content["rows"]:
        assert row["ratio"] > 0 and row["ours_peak_bytes"] > 1e8 and row["clips_per_second"]["theirs"] > 0
    assert names[-1] in capsys.readouterr().out


@pytest.mark.long
def test_memory_stays_flat(tmp_path):
    file = tmp_path / "memory.json"
    arguments = ["--videos", str(tmp_path), "--backend", "pyav", "--memory", "10000", "--json", str(file)]
    assert main(["loader", "--cfg", "configs/K400/MVITv2_S.yaml", *arguments]) == 0
    assert json.loads(file.read_text())["growth_megabytes"] < 50


def test_growth_of_memory_is_told_by_medians():
    curve = [(100 * n, 1000 + n + (500 if n == 40 else 0)) for n in range(1, 101)]
    assert loader.memory_growth(curve) == pytest.approx(1095.5 - 1009.5, abs=1)


def test_subcommands_are_found():
    assert {"model", "loader"} <= set(subcommands())


def test_a_whole_test_against_single_views(tmp_path, monkeypatch):
    monkeypatch.setattr(loader, "SECONDS", 3)
    file = tmp_path / "test.json"
    arguments = ["--videos", str(tmp_path), "--num-videos", "1", "--rounds", "1", "--workers", "1", "--views", "2x1"]
    small = ["DATA.NUM_FRAMES", "4", "DATA.TEST_CROP_SIZE", "64", "TEST.BATCH_SIZE", "2"]
    cfg = ["--cfg", "configs/K400/POOLFORMER_S12.yaml", "--json", str(file)]
    assert main(["test", *cfg, *arguments, *small]) == 0
    content = json.loads(file.read_text())
    assert content["ratio"] > 0 and content["rows"][0]["views"] == "2x1" and "torch" in content["versions"]
    assert content["score_difference"] < 1e-3
    assert main(["test", *cfg, "--views", "2x2"]) == 2


def test_torchvision_s_model_at_another_size():
    case = Case("mvitv2_s_video", "torchvision", frames=4, img_size=64)
    ours = build_ours(case)
    theirs = build_theirs(case, ours.input_size)
    assert share_weights(ours, theirs)
    assert logit_difference(case, ours, theirs, ours.input_size) < 1e-4
