"""Lists of frames, JSON files and folders, and what is read through them."""

import json
import subprocess
import sys
import time

import cv2
import numpy as np
import pytest
import torch
from PIL import Image
from torchvision import transforms as reference

from mvidx.config import data as config_data
from mvidx.config.load import ConfigError, load_config
from mvidx.data import transforms
from mvidx.data.annotations import DataError, VideoList, read_class_names
from mvidx.data.datasets import TestImages, TestVideos, TrainVideos
from mvidx.data.errors import VideoError
from mvidx.data.folders import read_class_folders
from mvidx.data.images import FrameLists, Frames, ImageList, read_frame
from mvidx.data.read import ClipSampling
from mvidx.data.ssv2 import label_names, read_ssv2
from mvidx.distributed import place_from_environment
from tests.data.guarded import open_and_sleep
from tests.inference.made import write_video
from tests.shared import shared_file

LABELS = {"Pushing something": "1", "Lifting something up": "0", "Turning something": "2"}


def write_frame(path, value):
    path.parent.mkdir(parents=True, exist_ok=True)
    frame = np.full((20, 30, 3), value, np.uint8)
    frame[..., 0] = 255  # red
    Image.fromarray(frame).save(path, quality=100, subsampling=0)


@pytest.fixture
def ssv2(tmp_path):
    """Two training videos and one validation video: JSON files and PySlowFast's frame lists."""
    names = json.dumps(LABELS)
    (tmp_path / "something-something-v2-labels.json").write_text(names)
    train = [{"id": "7", "template": "Turning [something]"}, {"id": "31", "template": "Lifting [something] up"}]
    (tmp_path / "something-something-v2-train.json").write_text(json.dumps(train))
    val = [{"id": "9", "label": "pushing a cup", "template": "Pushing [something]", "placeholders": ["a cup"]}]
    (tmp_path / "something-something-v2-validation.json").write_text(json.dumps(val))
    for split, videos in (("train", {"31": 5, "7": 9}), ("val", {"9": 11})):
        rows = ["original_vido_id video_id frame_id path labels"]
        for video, count in videos.items():
            for number in range(count):
                path = f"{video}/{video}_{number + 1:06d}.jpg"
                write_frame(tmp_path / "frames" / path, 10 * number)
                rows.append(f'{video} 0 {number} {path} ""')
        (tmp_path / f"{split}.csv").write_text("\n".join(rows) + "\n")
    return tmp_path


def test_frame_lists(ssv2):
    videos = read_ssv2(ssv2, "train", num_classes=3, prefix=str(ssv2 / "frames"))
    assert videos.labels.tolist() == [2, 0]  # in the order of the JSON file
    assert [len(videos.frame_paths(i)) for i in range(2)] == [9, 5] and not videos.irregular
    assert videos.path(1) == str(ssv2 / "frames" / "31") and videos.problem(1) is None
    with videos.open(0) as video:
        frames = video.get_frames([8, 0, 8])
    assert frames.shape == (3, 20, 30, 3)
    assert np.abs(frames[0].astype(int) - [255, 80, 80]).max() < 4 and np.array_equal(frames[0], frames[2])
    assert label_names(ssv2) == ["Lifting something up", "Pushing something", "Turning something"]
    assert read_ssv2(ssv2, "test", num_classes=3, prefix=str(ssv2 / "frames")).labels.tolist() == [1]


def test_frames_are_those_that_pyslowfast_reads(ssv2):
    path = str(ssv2 / "frames" / "7" / "7_000003.jpg")
    assert np.array_equal(read_frame(path)[..., ::-1], cv2.imread(path))


def test_a_test_video_of_frames_takes_the_middle_of_segments(ssv2):
    videos = read_ssv2(ssv2, "val", num_classes=3, prefix=str(ssv2 / "frames"))
    clip = ClipSampling(num_frames=4, segments=True)
    dataset = TestVideos(videos, clip=clip, num_views=1, spatial_idx=(0, 1, 2), short_side=16, crop=16)
    sample = dataset[0]
    assert len(sample.clips) == 3 and sample.clips[2].shape == (3, 4, 16, 16)
    assert np.abs(sample.clips[1][1, :, 8, 8].numpy() - 10.0 * np.array([1, 3, 6, 9])).max() < 4


def test_videos_beside_the_json_files(ssv2):
    (ssv2 / "train.csv").unlink()
    (ssv2 / "20bn-something-something-v2").mkdir()
    (ssv2 / "20bn-something-something-v2" / "7.webm").write_bytes(b"x")
    videos = read_ssv2(ssv2, "train", num_classes=3)
    assert videos.path(1).endswith("20bn-something-something-v2/31.webm") and videos.labels.tolist() == [2, 0]
    with pytest.raises(DataError, match=r"no video 7\.webm.*DATA\.PATH_PREFIX"):
        read_ssv2(ssv2, "train", num_classes=3, prefix=str(ssv2 / "elsewhere"))


def test_plain_lists_for_ssv2(ssv2):
    (ssv2 / "val.csv").write_text("a.webm,2\nb.webm,0\n")
    assert read_ssv2(ssv2, "val", num_classes=3).labels.tolist() == [2, 0]


def test_mistakes_in_ssv2_are_named(ssv2):
    with pytest.raises(DataError, match="label 2 is outside the 2 classes"):
        read_ssv2(ssv2, "train", num_classes=2)
    entries = [{"id": "7", "template": "Eating [something]"}]
    (ssv2 / "something-something-v2-train.json").write_text(json.dumps(entries))
    with pytest.raises(DataError, match="entry 1: template 'Eating something'"):
        read_ssv2(ssv2, "train", num_classes=3)
    (ssv2 / "something-something-v2-labels.json").unlink()
    with pytest.raises(DataError, match=r"labels\.json does not exist"):
        read_ssv2(ssv2, "train", num_classes=3)


def test_irregular_frame_names_are_kept():
    frames = FrameLists([["a/x.jpg", "a/y.jpg"], ["b/01.jpg", "b/03.jpg"], ["c/9.jpg", "c/10.jpg"]], [0, 1, 2])
    assert [list(frames.frame_paths(i)) for i in range(3)] == [
        ["a/x.jpg", "a/y.jpg"],
        ["b/01.jpg", "b/03.jpg"],
        ["c/9.jpg", "c/10.jpg"],
    ]


def test_frames_that_cannot_be_read(tmp_path):
    (tmp_path / "a.jpg").write_bytes(b"no image")
    with pytest.raises(VideoError, match="not a readable image"):
        Frames([str(tmp_path / "a.jpg")]).get_frames([0])
    with pytest.raises(VideoError, match="No such file"):
        read_frame(str(tmp_path / "b.jpg"))


@pytest.fixture
def folders(tmp_path):
    for split, count in (("train", 3), ("val", 2)):
        for value, name in enumerate(("n02", "n01", "notes")):
            for i in range(count):
                write_frame(tmp_path / split / name / f"{i}.JPEG", 60 * value + i)
    return tmp_path


def test_folders_of_images_by_wordnet_id(folders):
    images = read_class_folders(folders, "train", num_classes=2)
    assert isinstance(images, ImageList)
    assert images.labels.tolist() == [0, 0, 0, 1, 1, 1]  # n01 before n02; notes is no wordnet id
    assert "n01" in images.path(0)
    assert len(read_class_folders(folders, "test", num_classes=2)) == 4  # no test folder: val
    with pytest.raises(DataError, match=r"2 classes, MODEL\.NUM_CLASSES is 1"):
        read_class_folders(folders, "train", num_classes=1)


def test_a_folder_of_videos(tmp_path):
    for name in ("walk", "run"):
        (tmp_path / "train" / name).mkdir(parents=True)
        (tmp_path / "train" / name / "a.mp4").write_bytes(b"x")
        (tmp_path / "train" / name / "notes.txt").write_bytes(b"x")
    videos = read_class_folders(tmp_path, "train", num_classes=2)
    assert not isinstance(videos, ImageList) and videos.labels.tolist() == [0, 1] and "run" in videos.path(0)
    (tmp_path / "train" / "run" / "b.png").write_bytes(b"x")
    with pytest.raises(DataError, match="holds images"):
        read_class_folders(tmp_path, "train", num_classes=2)
    with pytest.raises(DataError, match="val does not exist"):
        read_class_folders(tmp_path, "val", num_classes=2)


def test_images_are_resized_as_torchvision_resizes_pil_images():
    rng = np.random.default_rng(0)
    pixels = cv2.resize(rng.integers(0, 256, (9, 13, 3), dtype=np.uint8), (317, 240), interpolation=cv2.INTER_CUBIC)
    for ratio, size in ((0.875, int(1 / 0.875 * 96)), (0.0, (96, 96))):
        theirs = reference.Compose(
            [
                reference.Resize(size, interpolation=reference.InterpolationMode.BICUBIC),
                *([] if ratio == 0 else [reference.CenterCrop(96)]),
                reference.PILToTensor(),
            ]
        )(Image.fromarray(pixels))
        ours = transforms.test_image(pixels[None], crop=96, crop_ratio=ratio)
        assert ours.shape == (1, 3, 96, 96)
        assert (ours[0].float() - theirs.float()).abs().max() <= 1


def test_image_datasets(folders):
    images = read_class_folders(folders, "train", num_classes=2)
    transform = transforms.TrainImageTransform(crop=16)
    dataset = TrainVideos(images, clip=ClipSampling(1), transform=transform, seed=3, num_augmentations=2)
    sample = dataset[(0, 4)]
    assert sample.clips.shape == (2, 3, 16, 16) and sample.label == 1
    assert torch.equal(sample.clips, dataset[(0, 4)].clips)
    (folders / "train" / "n01" / "0.JPEG").write_bytes(b"broken")
    assert TestImages(images, crop=16, crop_ratio=0.875)[0].failures[0][1].startswith("not a readable image")
    replaced = dataset[(0, 0)]
    assert replaced.failures and replaced.index != 0


def test_jittered_frame_rate_widens_clips():
    rng = np.random.default_rng(0)
    spans = []
    for _ in range(300):
        clip = ClipSampling(8, 4, 30, jitter_fps=30.0).random(1000, 30, rng)
        spans.append(clip[-1] - clip[0])
    assert min(spans) in (14, 15, 16, 17) and max(spans) in (29, 30, 31)  # 32 frames at 30 fps, 16 at 60
    exact = ClipSampling(8, 4, 30).random(1000, 30, rng)
    assert exact[-1] - exact[0] in (30, 31)


def test_target_fps_by_hand():
    """8 frames 4 apart at 15 a second are 32 / 15 seconds: 64 frames of a video at 30, in its middle."""
    view = ClipSampling(8, 4, 15).views(164, 30, 1)[0]
    assert view.tolist() == [50, 59, 68, 77, 86, 95, 104, 113]


def test_short_sides_are_drawn_evenly_or_inversely():
    frames = np.zeros((1, 400, 400, 3), np.uint8)
    sides = {True: [], False: []}
    rng = np.random.default_rng(0)
    original = transforms.resize
    for uniform in (True, False):
        seen = sides[uniform]
        transform = transforms.TrainTransform(crop=8, short_sides=(100, 300), uniform_sides=uniform)
        transforms.resize = lambda clip, size, seen=seen, **k: (seen.append(min(size)), original(clip, size, **k))[1]
        try:
            for _ in range(200):
                transform(frames, rng)
        finally:
            transforms.resize = original
    assert np.mean(sides[True]) == pytest.approx(200, abs=12)
    assert np.mean(sides[False]) == pytest.approx(np.log(3) / (1 / 100 - 1 / 300), abs=12)  # 165


def test_augmented_frames_are_shrunk_first():
    seen = []
    transform = transforms.TrainTransform(
        crop=16, scale=(0.5, 1), short_sides=(32, 40), augment=lambda frames, rng: (seen.append(frames), frames)[1]
    )
    transform(np.zeros((2, 64, 96, 3), np.uint8), np.random.default_rng(0))
    assert seen[0].shape == (2, 32, 48, 3)


def test_names_from_json(tmp_path):
    (tmp_path / "names.json").write_text('{"b": 0, "a": "1"}')
    assert read_class_names(tmp_path / "names.json", 2) == ["b", "a"]
    (tmp_path / "list.json").write_text('["x", "y"]')
    assert read_class_names(tmp_path / "list.json", 2) == ["x", "y"]
    (tmp_path / "bad.json").write_text("3")
    with pytest.raises(DataError, match=r"bad\.json"):
        read_class_names(tmp_path / "bad.json", 2)


class OneHangs(VideoList):
    """A list whose first video never ends."""

    def opener(self, index, backend="decord"):
        return super().opener(index, backend) if index else open_and_sleep


@pytest.fixture
def one_hangs():
    path = str(shared_file("videos") / "numbered" / "cfr_b.mp4")
    return OneHangs(["hangs.mp4", path], [0, 1])


def test_a_decoder_that_hangs_costs_one_video(one_hangs):
    clip = ClipSampling(num_frames=4, sampling_rate=2)
    train = TrainVideos(one_hangs, clip=clip, transform=lambda frames, rng: torch.zeros(1), timeout_seconds=0.5)
    start = time.monotonic()
    sample = train[0, 0]
    assert sample.index == sample.label == 1 and sample.decoder in ("decord", "pyav")
    assert set(sample.failures) == {("hangs.mp4", "decoding took longer than 0.5 s")}
    test = TestVideos(one_hangs, clip=clip, num_views=2, short_side=32, crop=32, timeout_seconds=0.5)
    assert test[0].clips is None and test[0].failures == [("hangs.mp4", "decoding took longer than 0.5 s")]
    assert len(test[1].clips) == 2
    assert time.monotonic() - start < 20


def test_the_limit_comes_from_the_config():
    cfg = load_config("configs/Motion/MVITv2_tiny.yaml", ["DATA.DECODE_TIMEOUT_SECONDS", "7", "TRAIN.BATCH_SIZE", "1"])
    videos, place, cpu = VideoList(["a.mp4"], [0]), place_from_environment(), torch.device("cpu")
    batches = config_data.train_batches(cfg, videos, place)
    assert config_data.build_train_loader(cfg, videos, batches, cpu).dataset.timeout_seconds == 7
    loader = config_data.build_test_loader(cfg, videos, place, split="test", num_views=3, num_crops=1)
    assert loader.dataset.timeout_seconds == 7
    cfg = load_config("configs/Motion/MVITv2_tiny.yaml", ["DATA.DECODE_TIMEOUT_SECONDS", "-1"])
    with pytest.raises(ConfigError, match=r"DECODE_TIMEOUT_SECONDS=-1\.0, expected at least 0"):
        config_data.build_train_loader(cfg, videos, batches, cpu)


def test_views_of_a_large_video_weigh_as_much_as_its_frames(tmp_path):
    """10 x 3 views of 16 frames of 1080p: 480 frames of a side of 224 would be 72 MB, decoded ones 6.2 MB each."""
    path = tmp_path / "large.mp4"
    write_video(path, 40, height=1080, width=1920)
    code = f"""
import resource
from mvidx.data.annotations import VideoList
from mvidx.data.datasets import TestVideos
from mvidx.data.read import ClipSampling
videos = VideoList([{str(path)!r}], [0])
clip = ClipSampling(num_frames=16, sampling_rate=2)
dataset = TestVideos(videos, clip=clip, num_views=10, spatial_idx=(0, 1, 2), short_side=224, crop=224, backend="pyav")
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
sample = dataset[0]
after = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
print(len(sample.clips), sample.clips.frames.nbytes / 1e6, (after - before) / 1e3)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    views, kept, peak = (float(word) for word in done.stdout.split())
    assert views == 30 and kept < 40 * 3 * 224 * 399 / 1e6
    assert peak < 300
