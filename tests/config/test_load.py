import subprocess
import sys
from pathlib import Path

import pytest

from mvidx.config import ConfigError, load_config

ROOT = Path(__file__).resolve().parents[2]


def write(folder, text, name="cfg.yaml"):
    path = folder / name
    path.write_text(text)
    return path


def test_values_and_overrides(tmp_path):
    file = write(tmp_path, "SOLVER:\n  BASE_LR: 1e-4\n  MAX_EPOCH: 7.0\nMVIT:\n  PATCH_KERNEL: (3, 5, 5)\n")
    cfg = load_config(file, ["--opts", "TRAIN.ENABLE", "false", "DATA.MEAN", "[0.1, 0.2, 0.3]", "SOLVER.BASE_LR", "3"])
    assert cfg.SOLVER.BASE_LR == 3.0 and isinstance(cfg.SOLVER.BASE_LR, float)
    assert cfg.SOLVER.MAX_EPOCH == 7 and isinstance(cfg.SOLVER.MAX_EPOCH, int)
    assert cfg.MVIT.PATCH_KERNEL == [3, 5, 5]
    assert cfg.TRAIN.ENABLE is False and cfg.DATA.MEAN == [0.1, 0.2, 0.3]
    assert load_config(file).SOLVER.BASE_LR == 1e-4


def test_lists_need_no_quotes(tmp_path):
    cfg = load_config(write(tmp_path, "{}"), ["MOTION.CLASSES", "[left, right]", "DATA.MEAN", "[1,2,3]"])
    assert cfg.MOTION.CLASSES == ["left", "right"] and cfg.DATA.MEAN == [1, 2, 3]


def test_frozen(tmp_path):
    cfg = load_config(write(tmp_path, "{}"))
    with pytest.raises(AttributeError):
        cfg.SOLVER.BASE_LR = 1.0


def test_base_is_read_first(tmp_path):
    write(tmp_path, "SOLVER: {BASE_LR: 0.5, MAX_EPOCH: 3}\nNUM_GPUS: 0\n", "base.yaml")
    cfg = load_config(write(tmp_path, "_BASE_: base.yaml\nSOLVER: {MAX_EPOCH: 9}\n"))
    assert (cfg.SOLVER.BASE_LR, cfg.SOLVER.MAX_EPOCH, cfg.NUM_GPUS) == (0.5, 9, 0)


def test_dump_loads_again(tmp_path):
    first = load_config(write(tmp_path, "MODEL: {ARGUMENTS: {depths: [1, 1], x: {0: 2}}}"), ["SOLVER.BASE_LR", "0.3"])
    again = load_config(write(tmp_path, first.dump(), "again.yaml"))
    assert again == first


@pytest.mark.parametrize(
    ("text", "overrides", "expected"),
    [
        ("TRAIN: {BATCHSIZE: 3}", [], ["TRAIN.BATCHSIZE", "TRAIN.BATCH_SIZE"]),
        ("SOLVR: {BASE_LR: 3}", [], ["unknown key SOLVR", "SOLVER"]),
        ("", ["DATA.NUM_FRAME", "3"], ["command line", "DATA.NUM_FRAME", "DATA.NUM_FRAMES"]),
        ("", ["TRAIN.BATCH_SIZE", "lots"], ["TRAIN.BATCH_SIZE", "'lots'", "whole number"]),
        ("", ["TRAIN.BATCH_SIZE", "2.5"], ["TRAIN.BATCH_SIZE", "2.5"]),
        ("TRAIN: {ENABLE: 1}", [], ["TRAIN.ENABLE", "true or false"]),
        ("TRAIN: 3", [], ["TRAIN", "section"]),
        ("OUTPUT_DIR: {a: 1}", [], ["OUTPUT_DIR", "section"]),
        ("OUTPUT_DIR: 3", [], ["OUTPUT_DIR", "string"]),
        ("", ["TRAIN.ENABLE"], ["TRAIN.ENABLE has no value"]),
        ("a: [", [], ["not YAML"]),
        ("- 1", [], ["list"]),
    ],
)
def test_mistakes_are_named(tmp_path, text, overrides, expected):
    with pytest.raises(ConfigError) as caught:
        load_config(write(tmp_path, text), overrides)
    message = str(caught.value)
    assert "\n" not in message
    for part in expected:
        assert part in message


def run_net(*arguments, cwd):
    command = [sys.executable, str(ROOT / "tools" / "run_net.py"), *map(str, arguments)]
    return subprocess.run(command, cwd=cwd, capture_output=True, text=True, timeout=120, check=False)


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["--cfg", "nowhere.yaml"], "nowhere.yaml does not exist"),
        (["--cfg", "cfg.yaml", "SOLVER.BASE_LRR", "1"], "SOLVER.BASE_LRR, the nearest known one is SOLVER.BASE_LR"),
        (["--cfg", "cfg.yaml", "MODEL.MODEL_NAME", "mvitv2_s_vido"], "mvitv2_s_video"),
        (["--cfg", "cfg.yaml", "MVIT.EMBED_DIM", "50"], "does not divide"),
    ],
)
def test_exit_status_2_and_one_line(tmp_path, arguments, expected):
    text = "MVIT: {NUM_HEADS: 3, DEPTH: 1, USE_ABS_POS: False, PATCH_PADDING: [1, 3, 3]}\nNUM_GPUS: 0\n"
    write(tmp_path, text)
    done = run_net(*arguments, cwd=tmp_path)
    assert done.returncode == 2, done.stderr
    assert done.stderr.count("\n") == 1 and expected in done.stderr
    assert done.stdout == ""
    assert [path.name for path in tmp_path.iterdir()] == ["cfg.yaml"]
