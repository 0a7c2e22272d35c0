"""What config keys make of clips, views and colours."""

import numpy as np
import pytest
import torch

from mvidx.config import ConfigError, data, load_config
from mvidx.data.annotations import VideoList
from mvidx.distributed import Place
from tests.config.slowfast_files import FILES

ONE = Place()


@pytest.fixture
def load(tmp_path):
    def load(text="", *overrides):
        path = tmp_path / "cfg.yaml"
        path.write_text(FILES.get(text, text))
        return load_config(path, [str(word) for word in overrides])

    return load


@pytest.mark.parametrize(
    ("name", "views", "crops", "short_side"),
    [
        ("Kinetics/MVITv2_S_16x4", 5, (1,), 256),
        ("Kinetics/MVITv2_L_40x3_test", 5, (0, 1, 2), 312),
        ("Kinetics/MVIT_B_16x4_CONV", 10, (1,), 256),
        ("SSv2/MVITv2_S_16x4", 1, (0, 1, 2), 224),
    ],
)
def test_views_and_crops(name, views, crops, short_side, load):
    cfg = load(name, "DATA_LOADER.NUM_WORKERS", 0)
    test = cfg.TEST
    videos = VideoList(["a.mp4"] * 3, [0, 1, 2])
    loader = data.build_test_loader(
        cfg, videos, ONE, split="test", num_views=test.NUM_ENSEMBLE_VIEWS, num_crops=test.NUM_SPATIAL_CROPS
    )
    dataset = loader.dataset
    assert (dataset.num_views, dataset.spatial_idx, dataset.short_side) == (views, crops, short_side)
    assert dataset.clip.segments == name.startswith("SSv2")
    assert loader.batch_size == max(1, test.BATCH_SIZE // (views * len(crops)))
    assert dataset.backend == "decord"


def test_crops_that_do_not_exist(load):
    with pytest.raises(ConfigError, match=r"TEST\.NUM_SPATIAL_CROPS=2"):
        data.spatial_crops(2)
    with pytest.raises(ConfigError, match=r"TEST_CROP_SIZE=300 does not fit"):
        data.test_short_side(load("", "DATA.TEST_CROP_SIZE", 300), "test", 1)


def pyslowfast_input(rgb, *, blue_first, mean, std, reverse):
    """PySlowFast's steps, one after the other, on an RGB pixel."""
    loaded = rgb[::-1] if blue_first else rgb
    normalised = (np.array(loaded) / 255 - mean) / std
    return normalised[::-1] if reverse else normalised


@pytest.mark.parametrize("dataset", ["kinetics", "ssv2"])
@pytest.mark.parametrize("reverse", [True, False])
def test_colours_come_in_pyslowfasts_order(dataset, reverse, load):
    mean, std = [0.485, 0.456, 0.406], [0.229, 0.224, 0.225]
    cfg = load(
        "", *("TRAIN.DATASET", dataset, "DATA.REVERSE_INPUT_CHANNEL", reverse, "DATA.MEAN", mean, "DATA.STD", std)
    )
    rgb = [250, 120, 10]
    clips = torch.tensor(rgb, dtype=torch.uint8).view(1, 3, 1, 1, 1)
    got = data.normalization(cfg, "train")(clips).flatten()
    expected = pyslowfast_input(rgb, blue_first=dataset == "ssv2", mean=mean, std=std, reverse=reverse)
    assert torch.allclose(got, torch.from_numpy(expected.copy()).float(), atol=1e-5)


def test_training_keys(load):
    cfg = load("Kinetics/MVITv2_S_16x4", "DATA.TRAIN_JITTER_FPS", 5.0)
    transform = data.train_transform(cfg)
    assert (transform.scale, transform.aspect) == ((0.08, 1.0), (0.75, 1.3333))
    assert (transform.augment.num_operations, transform.augment.level) == (4, 7)
    assert transform.augment.interpolation == "bicubic" and transform.augment.fill == (128, 128, 128)
    assert data.clip_sampling(cfg, "train").jitter_fps == 5.0
    batch = data.batch_transform(cfg, ONE)
    assert (batch.erasing.probability, batch.erasing.mode, batch.erasing.max_boxes) == (0.25, "pixel", 1)
    mix = batch.mix
    assert (mix.mixup_alpha, mix.cutmix_alpha, mix.probability, mix.switch_probability) == (0.8, 1.0, 1.0, 0.5)
    assert (mix.smoothing, mix.num_classes) == (0.1, 400)

    ssv2 = data.train_transform(load("SSv2/MVITv2_S_16x4"))
    assert (ssv2.scale, ssv2.short_sides, ssv2.uniform_sides, ssv2.flip) == ((), (256, 320), False, False)
    assert data.train_transform(load("", "DATA.INV_UNIFORM_SAMPLE", False)).uniform_sides

    image = data.train_transform(load("ImageNet/MVITv2_T"))
    assert (image.scale, image.interpolation, image.crop) == ((0.08, 1.0), "bicubic", 224)
    assert image.augment.fill == (124, 116, 104) and image.augment.level == 9

    plain = load("", "MVIT.PATCH_2D", True)
    assert data.train_transform(plain).augment is None and data.batch_transform(plain, ONE).mix is None
    jittered = load("", "MVIT.PATCH_2D", True, "AUG.ENABLE", True, "AUG.AA_TYPE", "")
    assert data.train_transform(jittered).augment is not None


def test_repeated_augmentation(load, tmp_path):
    videos = VideoList(["a.mp4"] * 40, [0] * 40)
    for enabled, count in ((True, 2), (False, 1)):
        cfg = load("Kinetics/MVITv2_S_16x4", "AUG.ENABLE", enabled, "DATA_LOADER.NUM_WORKERS", 0)
        batches = data.train_batches(cfg, videos, ONE)
        loader = data.build_train_loader(cfg, videos, batches, torch.device("cpu"))
        assert loader.dataset.num_augmentations == count and batches.batch_size == 16


@pytest.mark.parametrize(
    ("overrides", "match"),
    [
        (("TRAIN.DATASET", "ucf"), r"TRAIN\.DATASET='ucf'"),
        (("DATA.PATH_TO_DATA_DIR", ""), "PATH_TO_DATA_DIR is empty"),
    ],
)
def test_mistakes(overrides, match, load):
    with pytest.raises(ConfigError, match=match):
        data.read_videos(load("", *overrides), "train")


def test_mistakes_in_augmentation(load):
    with pytest.raises(ConfigError, match="INTERPOLATION='nearest'"):
        data.train_transform(load("", "AUG.ENABLE", True, "AUG.INTERPOLATION", "nearest"))
    with pytest.raises(ConfigError, match="RE_MODE"):
        data.batch_transform(load("", "AUG.ENABLE", True, "AUG.RE_MODE", "grey"), ONE)


def test_images_for_a_video_model(load, tmp_path):
    (tmp_path / "train" / "cat").mkdir(parents=True)
    (tmp_path / "train" / "cat" / "1.png").write_bytes(b"x")
    cfg = load("", "TRAIN.DATASET", "imagenet", "DATA.PATH_TO_DATA_DIR", tmp_path)
    with pytest.raises(ConfigError, match="holds images, but the model MViT takes clips"):
        data.read_videos(cfg, "train")


def test_names_of_classes(load, tmp_path):
    for name in ("walk", "run"):
        (tmp_path / "train" / name).mkdir(parents=True)
    overrides = ("TEST.DATASET", "folder", "DATA.PATH_TO_DATA_DIR", tmp_path, "MODEL.NUM_CLASSES", 3)
    assert data.class_names(load("", *overrides)) == ["run", "walk", "2"]
    (tmp_path / "names.txt").write_text("a\nb\nc\n")
    assert data.class_names(load("", *overrides, "DATA.CLASS_NAMES", tmp_path / "names.txt")) == ["a", "b", "c"]
