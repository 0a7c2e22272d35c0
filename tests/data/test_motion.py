"""The motion data set: what is written, that it is written once, and that only motion tells the classes apart."""

import itertools
import os
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path

import av
import cv2
import numpy as np
import pytest

import mvidx
from mvidx.data.motion import CLASSES, SPLITS, ensure_motion_dataset
from mvidx.data.motion_scene import MotionScene

SMALL = {"num_train": 8, "num_val": 2, "num_test": 2, "progress": False}


def read_rows(root, split):
    rows = [line.rsplit(" ", 1) for line in (root / f"{split}.csv").read_text().splitlines()]
    return [(root / name, int(label)) for name, label in rows]


def decode(path):
    """uint8 (T, H, W, 3)."""
    with av.open(str(path)) as container:
        container.streams.video[0].thread_count = 1
        return np.stack([frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)])


def contents(root):
    return {path.relative_to(root): path.read_bytes() for path in root.rglob("*") if path.is_file()}


def start_process(root, arguments):
    code = f"from mvidx.data.motion import ensure_motion_dataset as f; f({str(root)!r}, **{arguments!r})"
    environment = os.environ | {"PYTHONPATH": str(Path(mvidx.__file__).parents[1])}
    return subprocess.Popen([sys.executable, "-c", code], env=environment)


@pytest.fixture(scope="module")
def small(tmp_path_factory):
    return ensure_motion_dataset(tmp_path_factory.mktemp("small"), **SMALL)


@pytest.fixture(scope="module")
def large(tmp_path_factory):
    """Split -> list of (frames, label): the first, middle and last frame, then 8 in a row from anywhere."""
    root = tmp_path_factory.mktemp("large")
    ensure_motion_dataset(root, num_train=128, num_val=0, num_test=96, seed=1, progress=False)
    rng = np.random.default_rng(0)

    def sample(path):
        with av.open(str(path)) as container:
            last = container.streams.video[0].frames - 1
            start = int(rng.integers(0, last - 8))
            frames = list(container.decode(video=0))
            chosen = [0, last // 2, last, *range(start, start + 8)]
            return np.stack([frames[index].to_ndarray(format="rgb24") for index in chosen])

    return {split: [(sample(path), label) for path, label in read_rows(root, split)] for split in ("train", "test")}


def test_layout(small):
    assert (small / "classes.txt").read_text().split() == list(CLASSES)
    for split in SPLITS:
        rows = read_rows(small, split)
        assert len(rows) == SMALL[f"num_{split}"]
        assert len(set(rows)) == len(rows)
        assert all(path.is_relative_to(small / split) for path, _ in rows)
    assert not list(small.rglob("*.tmp"))


def test_balance(tmp_path):
    ensure_motion_dataset(tmp_path, num_train=10, num_val=8, num_test=0, progress=False)
    counts = Counter(label for _, label in read_rows(tmp_path, "train"))
    assert set(counts) == set(range(8)) and set(counts.values()) == {1, 2}
    assert sorted(label for _, label in read_rows(tmp_path, "val")) == list(range(8))
    assert (tmp_path / "test.csv").read_text() == ""


def test_videos_differ_in_length_rate_and_size(small):
    seen = set()
    for path, _ in read_rows(small, "train"):
        with av.open(str(path)) as container:
            stream = container.streams.video[0]
            assert stream.codec_context.name == "h264" and stream.codec_context.pix_fmt == "yuv420p"
            assert 23.9 < stream.average_rate <= 30
            assert 1.9 < float(stream.duration * stream.time_base) < 3.6
            assert min(stream.width, stream.height) in range(96, 121, 2) and stream.width != stream.height
            assert stream.frames == len(decode(path))
            seen.add((stream.average_rate, stream.frames, stream.width, stream.height))
    for values in zip(*seen, strict=True):
        assert len(set(values)) > 2


def test_a_file_shows_its_scene(small):
    for path, label in read_rows(small, "train"):
        scene = MotionScene(0, 0, int(path.stem), CLASSES[label])
        frames, expected = decode(path), scene.frames(0, scene.num_frames)
        assert frames.shape == expected.shape
        # Chroma has half the resolution in the file; the brightness is what must agree.
        assert np.abs(frames.mean(axis=3) - expected.mean(axis=3)).mean() < 6
    assert np.array_equal(expected[5:9], scene.frames(5, 9))


def test_same_seed_same_bytes_whatever_the_number_of_threads(small, tmp_path):
    ensure_motion_dataset(tmp_path, num_threads=1, **SMALL)
    assert contents(tmp_path) == contents(small)


def test_other_seed_and_split_give_other_videos(small):
    (path, label), *_ = read_rows(small, "train")
    index, motion = int(path.stem), CLASSES[label]
    frames = {MotionScene(seed, split, index, motion).frames(0, 1).tobytes() for seed in (0, 1) for split in (0, 1)}
    assert len(frames) == 4


def test_two_classes(tmp_path):
    ensure_motion_dataset(tmp_path, num_train=4, num_val=2, num_test=2, classes=("up", "left"), progress=False)
    assert (tmp_path / "classes.txt").read_text().split() == ["up", "left"]
    assert sorted(label for _, label in read_rows(tmp_path, "train")) == [0, 0, 1, 1]
    for path, label in read_rows(tmp_path, "train"):
        assert estimate_motion(decode(path)) == ("up", "left")[label]


def test_is_reused(small):
    before = {path: path.stat().st_mtime_ns for path in small.rglob("*")}
    assert ensure_motion_dataset(small, **SMALL) == small
    assert {path: path.stat().st_mtime_ns for path in small.rglob("*")} == before


def test_other_arguments_are_refused(small):
    with pytest.raises(ValueError, match=r"num_val is 2, not 3; seed is 0, not 7"):
        ensure_motion_dataset(small, **SMALL | {"num_val": 3, "seed": 7})
    with pytest.raises(ValueError, match=r"classes is .*'right'.*, not \['left'\]"):
        ensure_motion_dataset(small, **SMALL, classes=("left",))


def test_files_of_others_are_not_touched(tmp_path):
    (tmp_path / "train.csv").write_text("mine.mp4 0\n")
    with pytest.raises(ValueError, match=r"holds train\.csv but no motion\.json"):
        ensure_motion_dataset(tmp_path, **SMALL)
    assert (tmp_path / "train.csv").read_text() == "mine.mp4 0\n"
    assert not (tmp_path / "motion.json").exists()


def test_unreadable_manifest_is_refused(tmp_path):
    (tmp_path / "motion.json").write_text("{")
    with pytest.raises(ValueError, match=r"motion\.json is damaged"):
        ensure_motion_dataset(tmp_path, **SMALL)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"num_test": -1}, "num_test must not be negative, got -1"),
        ({"seed": -1}, "seed must not be negative, got -1"),
        ({"classes": ("left", "sideways")}, "sideways"),
        ({"classes": ("left", "left")}, "different names"),
        ({"classes": ()}, "different names"),
    ],
)
def test_bad_arguments(tmp_path, arguments, message):
    with pytest.raises(ValueError, match=message):
        ensure_motion_dataset(tmp_path / "new", **SMALL | arguments)
    assert not (tmp_path / "new").exists()


def test_damaged_files_are_written_again(small, tmp_path):
    ensure_motion_dataset(tmp_path, **SMALL)
    (tmp_path / "train/00001.mp4").unlink()
    os.truncate(tmp_path / "test/00000.mp4", 100)
    (tmp_path / "val.csv").unlink()
    intact = (tmp_path / "train/00002.mp4").stat().st_mtime_ns
    ensure_motion_dataset(tmp_path, **SMALL)
    assert contents(tmp_path) == contents(small)
    assert (tmp_path / "train/00002.mp4").stat().st_mtime_ns == intact


def test_what_a_killed_process_left_is_finished(tmp_path):
    arguments = {"num_train": 40, "num_val": 0, "num_test": 0, "progress": False}
    process = start_process(tmp_path, arguments)
    deadline = time.monotonic() + 60
    while len(list(tmp_path.glob("train/*.mp4"))) < 2 and time.monotonic() < deadline:
        time.sleep(0.02)
    process.kill()
    process.wait()
    assert 2 <= len(list(tmp_path.glob("train/*.mp4"))) < 40
    assert not (tmp_path / "train.csv").exists()

    with pytest.raises(ValueError, match="seed is 0, not 1"):
        ensure_motion_dataset(tmp_path, **arguments, seed=1)
    ensure_motion_dataset(tmp_path, **arguments)
    rows = read_rows(tmp_path, "train")
    assert len(rows) == 40
    for path, _ in rows:
        assert len(decode(path)) >= 47
    assert not list(tmp_path.rglob("*.tmp"))


def test_processes_that_start_at_once_share_one_dataset(small, tmp_path):
    processes = [start_process(tmp_path / "root", SMALL) for _ in range(3)]
    assert [process.wait() for process in processes] == [0, 0, 0]
    assert contents(tmp_path / "root") == contents(small)


def test_plain_lines_without_a_terminal(tmp_path, capsys):
    ensure_motion_dataset(tmp_path, num_train=4, num_val=2, num_test=2)
    lines = capsys.readouterr().err.splitlines()
    assert [line.rsplit(": ", 1)[1] for line in lines] == ["8 videos", "2 of 8", "4 of 8", "6 of 8", "8 of 8"]


# What tells the classes apart


def test_first_frame_does_not_depend_on_the_class():
    for index in range(3):
        scenes = [MotionScene(0, 0, index, motion) for motion in CLASSES]
        assert len({(scene.fps, scene.num_frames, scene.height, scene.width) for scene in scenes}) == 1
        assert len({scene.frames(0, 1).tobytes() for scene in scenes}) == 1
        assert len({scene.frames(10, 11).tobytes() for scene in scenes}) == len(CLASSES)


def frame_features(frame):
    """Colours on a coarse grid, and how strong edges of each direction are in it: float64 (F,)."""
    grey = cv2.cvtColor(frame, cv2.COLOR_RGB2GRAY).astype(np.float32) / 255
    x, y = cv2.Sobel(grey, cv2.CV_32F, 1, 0), cv2.Sobel(grey, cv2.CV_32F, 0, 1)
    height, width = grey.shape
    from_x, from_y = np.arange(width) - width / 2, np.arange(height)[:, None] - height / 2
    radius = np.hypot(from_x, from_y) + 1
    radial, around = (x * from_x + y * from_y) / radius, (y * from_x - x * from_y) / radius
    fine = grey - cv2.GaussianBlur(grey, (0, 0), 1.5)
    planes = [np.abs(plane) for plane in (x, y, radial, around, x + y, fine)]
    planes = [cv2.resize(plane, (4, 4), interpolation=cv2.INTER_AREA).ravel() for plane in planes]
    colours = cv2.resize(frame, (6, 6), interpolation=cv2.INTER_AREA).ravel() / 255
    return np.concatenate([colours, *planes]).astype(np.float64)


def fit_and_score(train, test, num_classes):
    """Accuracy of ridge regression on random features; each side is (features (N, F), labels (N,))."""
    rng = np.random.default_rng(0)
    mean, deviation = train[0].mean(axis=0), train[0].std(axis=0) + 1e-6
    weights = rng.standard_normal((train[0].shape[1], 300)) / np.sqrt(train[0].shape[1])

    def expand(features):
        standard = (features - mean) / deviation
        return np.concatenate([standard, np.maximum(standard @ weights, 0), np.ones((len(standard), 1))], axis=1)

    inputs, targets = expand(train[0]), np.eye(num_classes)[train[1]]
    solution = np.linalg.solve(inputs.T @ inputs + 100 * np.eye(inputs.shape[1]), inputs.T @ targets)
    return float(((expand(test[0]) @ solution).argmax(axis=1) == test[1]).mean())


@pytest.mark.parametrize("chosen", [[0], [1], [2], [0, 1, 2, 3, 7]], ids=["first", "middle", "last", "any"])
def test_one_frame_does_not_tell_the_class(large, chosen):
    def side(videos):
        pairs = [(frame_features(frames[index]), label) for frames, label in videos for index in chosen]
        return [np.array(values) for values in zip(*pairs, strict=True)]

    # Chance is 0.125; its standard deviation over 96 videos is 0.034.
    assert fit_and_score(side(large["train"]), side(large["test"]), len(CLASSES)) < 0.25


def estimate_motion(frames):
    """The class that optical flow between neighbouring frames speaks for: frames are uint8 (T, H, W, 3)."""
    flow_of = cv2.DISOpticalFlow_create(cv2.DISOPTICAL_FLOW_PRESET_FAST)
    grey = [cv2.cvtColor(frame, cv2.COLOR_RGB2GRAY) for frame in frames]
    height, width = grey[0].shape
    y, x = (np.mgrid[:height, :width] - np.array([height, width])[:, None, None] / 2) / min(height, width)
    x, y = x.ravel(), y.ravel()
    zeros, ones = np.zeros_like(x), np.ones_like(x)
    # The horizontal and vertical part of a flow to the right, down, clockwise and outwards.
    columns = [[ones, zeros], [zeros, ones], [-2 * y, 2 * x], [2 * x, 2 * y]]
    basis = np.stack([np.concatenate(column) for column in columns], axis=1)
    fits = []
    for first, second in itertools.pairwise(grey):
        flow = flow_of.calc(first, second, None)
        fits.append(np.linalg.lstsq(basis, flow.transpose(2, 0, 1).ravel(), rcond=None)[0])
    right, down, clockwise, growing = np.median(fits, axis=0)
    scores = {"right": right, "down": down, "clockwise": clockwise, "growing": growing}
    scores |= {"left": -right, "up": -down, "counterclockwise": -clockwise, "shrinking": -growing}
    return max(scores, key=scores.get)


def test_motion_tells_the_class_anywhere_in_a_video(large):
    correct = [estimate_motion(frames[3:]) == CLASSES[label] for frames, label in large["test"]]
    assert np.mean(correct) > 0.95


def test_cover_is_where_the_leaves_are():
    """Where nothing is covered the still background shows, and covered places change from frame to frame."""
    scene = MotionScene(0, 0, 3, "left")
    frames, cover = scene.frames(0, 12).astype(int), scene.cover(0, 12)
    assert cover.shape == frames.shape[:3] and cover.dtype == np.float32
    assert -1e-6 <= cover.min() < 0.01 and 0.99 < cover.max() <= 1 and 0.2 < cover.mean() < 0.9
    never = (cover < 0.005).all(0)
    assert never.any() and np.ptp(frames[:, never], axis=0).max() <= 3
    always = (cover > 0.995).all(0)
    assert np.ptp(frames[:, always], axis=0).mean() > 20
