"""tools/check_dataset.py finds what was put there, and nothing else."""

import json
import shutil

import pytest

from mvidx.cli.check_dataset import main
from tests.shared import shared_file


@pytest.fixture
def dataset(tmp_path):
    """A list of good, broken, missing, short and double videos."""
    videos = shared_file("videos")
    good = [videos / "numbered" / name for name in ("cfr_b.mp4", "vp9.webm")]
    shutil.copy(good[0], tmp_path / "copy.mp4")
    (tmp_path / "empty.mp4").touch()
    rows = [
        f"{good[0]} 0",
        f"{good[1]} 1",
        f"{tmp_path / 'copy.mp4'} 0",
        f"{tmp_path / 'nowhere.mp4'} 1",
        "",
        f"{tmp_path / 'empty.mp4'} 2",
        f"{videos / 'broken' / 'text.mp4'} 2",
        f"{good[1]} 1",
    ]
    (tmp_path / "train.csv").write_text("\n".join(rows) + "\n")
    (tmp_path / "cfg.yaml").write_text(
        f"TRAIN: {{DATASET: kinetics}}\nDATA: {{PATH_TO_DATA_DIR: {tmp_path}, NUM_FRAMES: 16, SAMPLING_RATE: 400}}\n"
        "MODEL: {MODEL_NAME: mvitv2_s_video, NUM_CLASSES: 4}\n"
    )
    return tmp_path


@pytest.mark.parametrize("full", [(), ("--full",)])
def test_findings(dataset, capsys, full):
    report, fixed = dataset / "report.json", dataset / "fixed.csv"
    arguments = ["--cfg", str(dataset / "cfg.yaml"), "--split", "train", "--report", str(report)]
    assert main([*arguments, "--fix-list", str(fixed), "--workers", "2", *full]) == 1
    (found,) = json.loads(report.read_text())["splits"]
    rows = {name: [row.split("row ")[1] for row, *_ in found[name]] for name in ("missing", "unreadable", "duplicates")}
    assert rows == {"missing": ["4"], "unreadable": ["6", "7"], "duplicates": ["3", "8"]}
    assert len(found["short"]) == 4 and not found["odd_frame_rate"]
    assert found["class_counts"] == [2, 3, 2, 0]
    original = (dataset / "train.csv").read_text().splitlines()
    assert fixed.read_text().splitlines() == [original[number - 1] for number in (1, 2, 3, 5, 8)]
    assert "classes without a video: 3" in capsys.readouterr().out


def test_a_good_list_gives_0_and_bad_arguments_2(dataset, capsys):
    good = (dataset / "train.csv").read_text().splitlines()[:2]
    (dataset / "train.csv").write_text("\n".join(good) + "\n")
    arguments = ["--cfg", str(dataset / "cfg.yaml"), "--report", str(dataset / "report.json")]
    assert main([*arguments, "--split", "train", "DATA.SAMPLING_RATE", "1"]) == 0
    assert "short: 0" in capsys.readouterr().out
    assert main([*arguments, "--fix-list", "x.csv"]) == 2
    assert "--fix-list x.csv needs one split" in capsys.readouterr().err
