"""A whole run, from its command to its results, on a small motion dataset of two classes."""

import json
import shutil

import numpy as np
import pytest
import torch
from sklearn.metrics import average_precision_score

from mvidx.checkpoint.files import read_file
from mvidx.config import build_model, load_config
from tests.runs import SMALL, records, run_net


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    folder = tmp_path_factory.mktemp("run")
    data = ("DATA.PATH_TO_DATA_DIR", folder / "motion")
    done = run_net(*SMALL, *data, "OUTPUT_DIR", folder / "out", cwd=folder)
    assert done.returncode == 0, done.stderr
    return folder, done, data


def test_the_last_line_tells_the_result(trained):
    folder, done, _ = trained
    results = json.loads((folder / "out" / "results.json").read_text())
    assert done.stdout.count("\n") == 1
    assert f"top-1 {results['top1']:.2f}%  top-5 {results['top5']:.2f}%" in done.stdout
    assert str(folder / "out") in done.stdout
    assert (results["num_videos"], results["num_failed"], results["views"]) == (6, 0, 3)
    assert results["top5"] == 100.0  # two classes: k is cut
    arrays = np.load(folder / "out" / "predictions.npz")
    assert arrays["scores"].shape == (6, 2) and np.allclose(arrays["scores"].sum(1), 1, atol=1e-5)
    assert 100 * (arrays["scores"].argmax(1) == arrays["label"]).mean() == pytest.approx(results["top1"])
    assert (folder / "out" / "per_class.csv").read_text().splitlines()[1].startswith("0,left,3")


def test_metrics_and_events(trained):
    folder, done, _ = trained
    lines = records(folder / "out")
    epoch = ["train_step", "train_step", "train_epoch", "val"]
    assert [line["kind"] for line in lines] == ["start", *epoch, *epoch]
    assert [line["global_step"] for line in lines if line["kind"] == "train_step"] == [2, 3, 5, 6]
    assert all(np.isfinite(line["loss"]) for line in lines[1:])
    assert list((folder / "out" / "tensorboard").glob("events*"))
    assert "\r" not in done.stderr and "epoch 2/2 step 3/3" in done.stderr  # plain lines: not a terminal


def test_the_saved_config_is_whole_and_makes_the_same_model(trained):
    folder, _, _ = trained
    cfg = load_config(folder / "out" / "config.yaml")
    assert cfg.MOTION.NUM_TRAIN == 12
    state = read_file(folder / "out" / "checkpoints" / "step_00000006.pyth")
    build_model(cfg).load_state_dict(state["model"])
    assert load_config(folder / "out" / "config.yaml").dump() == state["cfg"]


def test_testing_alone_and_with_shuffled_frames(trained):
    folder, _, data = trained
    before = np.load(folder / "out" / "predictions.npz")["scores"]
    checkpoint = folder / "out" / "checkpoints" / "step_00000006.pyth"
    common = (*SMALL, *data, "TRAIN.ENABLE", "False", "TEST.CHECKPOINT_FILE_PATH", checkpoint)
    assert run_net(*common, "OUTPUT_DIR", folder / "again", cwd=folder).returncode == 0
    assert np.array_equal(before, np.load(folder / "again" / "predictions.npz")["scores"])
    assert run_net(*common, "OUTPUT_DIR", folder / "mixed", "TEST.SHUFFLE_FRAMES", True, cwd=folder).returncode == 0
    mixed = np.load(folder / "mixed" / "predictions.npz")["scores"]
    assert mixed.shape == before.shape and not np.allclose(mixed, before, atol=1e-4)
    assert json.loads((folder / "mixed" / "results.json").read_text())["shuffled_frames"] is True


def test_resuming_gives_the_uninterrupted_run(trained, tmp_path):
    folder, _, data = trained
    out = tmp_path / "out"
    shutil.copytree(folder / "out", out)
    (out / "checkpoints" / "step_00000006.pyth").write_bytes(b"cut short by a crash")
    done = run_net(*SMALL, *data, "OUTPUT_DIR", out, "TEST.ENABLE", False, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "step_00000006.pyth: not a readable checkpoint" in done.stderr and "resumed" in done.stderr
    whole = read_file(folder / "out" / "checkpoints" / "step_00000006.pyth")["model"]
    resumed = read_file(out / "checkpoints" / "step_00000006.pyth")["model"]
    assert all(torch.equal(whole[name], resumed[name]) for name in whole)
    without_timing = [{k: v for k, v in line.items() if k != "timing"} for line in records(folder / "out")]
    assert [{k: v for k, v in line.items() if k != "timing"} for line in records(out)] == without_timing


def test_unreadable_videos(trained, tmp_path):
    """In training another video takes their place; in testing they are listed, and the others scored."""
    folder, _, _ = trained
    motion = tmp_path / "motion"
    shutil.copytree(folder / "motion", motion)
    for split in ("train", "test"):
        video = motion / (motion / f"{split}.csv").read_text().splitlines()[1].split()[0]
        content = video.read_bytes()
        video.write_bytes(content[: len(content) // 2])  # no index any more
    data = ("DATA.PATH_TO_DATA_DIR", motion, "TRAIN.DATASET", "kinetics", "TEST.DATASET", "kinetics")
    done = run_net(*SMALL, *data, "OUTPUT_DIR", tmp_path / "out", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "unreadable video replaced" in done.stderr
    assert records(tmp_path / "out")[-3]["num_replaced"] >= 1
    results = json.loads((tmp_path / "out" / "results.json").read_text())
    assert (results["num_videos"], results["num_failed"]) == (6, 1)
    assert results["failures"][0]["row"].endswith("test.csv, row 2") and results["failures"][0]["reason"]


def corrupt(motion, what):
    rows = (motion / "train.csv").read_text().splitlines()
    if what == "missing":
        (motion / "train.csv").unlink()
        return "train.csv does not exist"
    if what == "no label":
        rows[2] = rows[2].split()[0]
    elif what == "label outside":
        rows[2] = rows[2].split()[0] + " 2"
    elif what == "no file":
        rows[2] = "nowhere.mp4 0"
    elif what == "no video":
        (motion / "text.mp4").write_text("not a video\n")
        rows[2] = "text.mp4 1"
    (motion / "train.csv").write_text("\n".join(rows) + "\n")
    return "train.csv, row 3"


@pytest.mark.parametrize("what", ["missing", "no label", "label outside", "no file", "no video"])
def test_bad_annotations_end_before_the_first_step(trained, tmp_path, what):
    folder, _, _ = trained
    motion = tmp_path / "motion"
    shutil.copytree(folder / "motion", motion)
    expected = corrupt(motion, what)
    data = ("DATA.PATH_TO_DATA_DIR", motion, "TRAIN.DATASET", "kinetics")
    done = run_net(*SMALL, *data, "OUTPUT_DIR", tmp_path / "out", cwd=tmp_path)
    assert done.returncode == 2
    assert expected in done.stderr and done.stderr.count("\n") == 1
    assert not (tmp_path / "out").exists()


def test_videos_with_several_labels(trained, tmp_path):
    """Motion with a second label for every second video: bce, sigmoid and mAP, in one process and at the end."""
    folder, _, _ = trained
    motion = tmp_path / "motion"
    shutil.copytree(folder / "motion", motion)
    (motion / "classes.txt").write_text("left\nright\nodd\n")
    for split in ("train", "val", "test"):
        rows = (motion / f"{split}.csv").read_text().splitlines()
        rows = [f"{row},2" if number % 2 else row for number, row in enumerate(rows)]
        (motion / f"{split}.csv").write_text("\n".join(rows) + "\n")
    done = run_net(
        *(*SMALL, "DATA.PATH_TO_DATA_DIR", motion, "TRAIN.DATASET", "kinetics", "TEST.DATASET", "kinetics"),
        *("DATA.MULTI_LABEL", True, "MODEL.NUM_CLASSES", 3, "MODEL.LOSS_FUNC", "bce", "MODEL.HEAD_ACT", "sigmoid"),
        *("OUTPUT_DIR", tmp_path / "out"),
        cwd=tmp_path,
    )
    assert done.returncode == 0, done.stderr
    results = json.loads((tmp_path / "out" / "results.json").read_text())
    arrays = np.load(tmp_path / "out" / "predictions.npz")
    assert arrays["label"].shape == (6, 3) and arrays["label"][:, 2].tolist() == [0, 1] * 3
    expected = average_precision_score(arrays["label"], arrays["scores"], average="macro")
    assert results["map"] == pytest.approx(100 * expected)
    assert [line["map"] for line in records(tmp_path / "out") if line["kind"] == "val"]
    assert "(best map so far)" in done.stderr and done.stdout.startswith("mAP ")


@pytest.mark.long
def test_weights_and_biases_takes_the_same_numbers(trained, tmp_path):
    """A stand-in for its package writes down what it is given."""
    _, _, data = trained
    (tmp_path / "wandb.py").write_text(
        "import json\n"
        "from types import SimpleNamespace\n"
        "errors = SimpleNamespace(Error=RuntimeError)\n"
        "def init(**options):\n"
        "    out = open('said.jsonl', 'a')\n"
        "    say = lambda *words: print(json.dumps(words), file=out, flush=True)\n"
        "    say('init', {k: v for k, v in options.items() if k != 'config'})\n"
        "    return SimpleNamespace(id='abc', log=lambda values: say('log', values), finish=lambda: say('finish'))\n"
    )
    out = tmp_path / "out"
    words = [*SMALL, *data, "WANDB.ENABLE", True, "WANDB.PROJECT", "p", "OUTPUT_DIR", out, "TEST.ENABLE", False]
    for _ in range(2):
        done = run_net(*words, cwd=tmp_path, path=tmp_path)
        assert done.returncode == 0, done.stderr
    said = [json.loads(line) for line in (tmp_path / "said.jsonl").read_text().splitlines()]
    starts = [options for kind, *rest in said if kind == "init" for options in rest]
    assert [(options["project"], options["id"], options["resume"]) for options in starts] == [
        ("p", None, "allow"), ("p", "abc", "allow"),
    ]  # fmt: skip
    logged = [values for kind, *rest in said if kind == "log" for values in rest]
    losses = [values["train/loss"] for values in logged if "train/loss" in values]
    assert losses == [line["loss"] for line in records(out) if line["kind"] == "train_step"]
    assert said[-1] == ["finish"]
    done = run_net(*words, cwd=tmp_path)
    assert done.returncode == 2 and "pip install 'mvidx[wandb]'" in done.stderr
