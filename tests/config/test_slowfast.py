"""PySlowFast's own files load as they are and give the registry's models."""

import logging

import pytest
import torch
import yaml

import mvidx
from mvidx.config import ConfigError, build_model, load_config
from tests.config.slowfast_files import FILES

_DEEP = {2: 2.0, 5: 2.0, 21: 2.0}
MODELS = {
    "Kinetics/MVITv2_S_16x4": ("mvitv2_s_video", {}),
    "Kinetics/MVITv2_B_32x3": ("mvitv2_b_video", {}),
    "Kinetics/MVITv2_L_40x3_test": ("mvitv2_l_video", {}),
    "Kinetics/MVIT_B_16x4_CONV": ("mvit_b_video", {}),
    "Kinetics/MVIT_B_32x3_CONV": (
        "mvit_b_video",
        {
            "frames": 32,
            "depth": 24,
            "dim_mul": _DEEP,
            "head_mul": _DEEP,
            "pool_kernel": None,
            "q_stride": dict.fromkeys(_DEEP, (1, 2, 2)),
        },
    ),
    "SSv2/MVITv2_S_16x4": ("mvitv2_s_video", {"num_classes": 174}),
    "SSv2/MVITv2_B_32x3": ("mvitv2_b_video", {"num_classes": 174}),
    "SSv2/MVITv2_L_40x3": ("mvitv2_l_video", {"num_classes": 174}),
    "ImageNet/MVITv2_T": ("mvitv2_t", {}),
    "ImageNet/MVITv2_S": ("mvitv2_s", {}),
    "ImageNet/MVIT_B_16_CONV": ("mvit_b", {}),
}


@pytest.fixture
def load(tmp_path):
    def load(text, overrides=()):
        path = tmp_path / "theirs.yaml"
        path.write_text(text)
        return load_config(path, overrides)

    return load


@pytest.mark.parametrize("name", FILES)
def test_their_file_gives_the_registered_model(name, load):
    registered, arguments = MODELS[name]
    with torch.device("meta"):
        theirs = build_model(load(FILES[name]))
        ours = mvidx.create_model(registered, **arguments)
    shapes = {key: tuple(value.shape) for key, value in theirs.state_dict().items()}
    assert shapes == {key: tuple(value.shape) for key, value in ours.state_dict().items()}
    assert theirs.input_size == ours.input_size
    for a, b in zip(theirs.blocks, ours.blocks, strict=True):
        assert (a.geometry.q_pool, a.geometry.kv_pool) == (b.geometry.q_pool, b.geometry.kv_pool)


@pytest.mark.parametrize("name", FILES)
def test_every_key_is_taken_over_or_listed(name, load, caplog):
    with caplog.at_level(logging.INFO, "mvidx"):
        cfg = load(FILES[name], ["--opts", "DATA.PATH_TO_DATA_DIR", "somewhere", "SOLVER.MAX_EPOCH", "3"])
    assert (cfg.DATA.PATH_TO_DATA_DIR, cfg.SOLVER.MAX_EPOCH) == ("somewhere", 3)
    listed = caplog.messages[0]
    assert len(caplog.messages) == 1
    for section, keys in yaml.safe_load(FILES[name]).items():
        for key in keys if isinstance(keys, dict) else ():
            quiet = (section, key) in {
                ("TRAIN", "CHECKPOINT_TYPE"),
                ("BN", "USE_PRECISE_STATS"),
                ("MVIT", "POOL_FIRST"),
            }
            assert (section in cfg and key in cfg[section]) or section in listed or quiet, (section, key)
    assert ("PREFETCH" in listed) == name.startswith("SSv2")
    assert cfg.MODEL.LOSS_FUNC == "soft_cross_entropy" and cfg.AUG.RE_PROB == 0.25 and cfg.NUM_GPUS == 8
    assert load(FILES[name], ["SOLVER.MAX_EPOCH", "3"]).SOLVER.MAX_EPOCH == 3  # without --opts


def test_values_by_hand(load):
    cfg = load(FILES["SSv2/MVITv2_L_40x3"])
    assert cfg.TRAIN.CHECKPOINT_IN_INIT and cfg.TRAIN.CHECKPOINT_EPOCH_RESET and cfg.MODEL.ACT_CHECKPOINT
    assert (cfg.SOLVER.CLIP_GRAD_L2NORM, cfg.SOLVER.BASE_LR, cfg.SOLVER.COSINE_END_LR) == (2.0, 0.00125, 1e-6)
    assert (cfg.DATA.INV_UNIFORM_SAMPLE, cfg.DATA.RANDOM_FLIP, cfg.DATA.REVERSE_INPUT_CHANNEL) == (True, False, True)
    assert (cfg.TEST.NUM_ENSEMBLE_VIEWS, cfg.TEST.NUM_SPATIAL_CROPS, cfg.MIXUP.PROB) == (1, 3, 0.0)
    assert cfg.MVIT.PATCH_KERNEL == [3, 7, 7] and cfg.DATA.TRAIN_JITTER_SCALES == [356, 446]


REFUSED = [
    ("MULTIGRID: {SHORT_CYCLE: True}", "MULTIGRID.SHORT_CYCLE", "multigrid"),
    ("MULTIGRID: {LONG_CYCLE: True}", "MULTIGRID.LONG_CYCLE", "multigrid"),
    ("DETECTION: {ENABLE: True}", "DETECTION.ENABLE", "detection"),
    ("AVA: {FRAME_DIR: somewhere}", "AVA.FRAME_DIR", "detection"),
    ("CONTRASTIVE: {T: 0.1}", "CONTRASTIVE.T", "contrastive"),
    ("TASK: ssl", "TASK", "self-supervised"),
    ("MASK: {ENABLE: True, MAE_ON: True}", "MASK.ENABLE", "masked"),
    ("AUG: {GEN_MASK_LOADER: True}", "AUG.GEN_MASK_LOADER", "masked"),
    ("MVIT: {REV: {ENABLE: True}}", "MVIT.REV.ENABLE", "reversible"),
    ("MVIT: {SEPARATE_QKV: True}", "MVIT.SEPARATE_QKV", "one weight"),
    ("MODEL: {ARCH: slowfast}", "MODEL.ARCH", "mvit"),
    ("TRAIN: {CHECKPOINT_TYPE: caffe2}", "TRAIN.CHECKPOINT_TYPE", "Caffe2"),
    ("DATA: {TRAIN_CROP_NUM_TEMPORAL: 2}", "DATA.TRAIN_CROP_NUM_TEMPORAL", "contrastive"),
    ("BN: {NUM_SYNC_DEVICES: 4}", "BN.NUM_SYNC_DEVICES", "all processes"),
    ("DEMO: {ENABLE: True}", "DEMO.ENABLE", "demo"),
    ("SOLVER: {LARS_ON: True}", "SOLVER.LARS_ON", "LARS"),
]


@pytest.mark.parametrize(("text", "key", "reason"), REFUSED)
def test_what_is_not_supported_is_refused_by_name(text, key, reason, load):
    with pytest.raises(ConfigError) as caught:
        load(text)
    assert key in str(caught.value) and reason in str(caught.value) and "\n" not in str(caught.value)


def test_refused_on_the_command_line_and_at_their_default(load, caplog):
    with pytest.raises(ConfigError, match=r"command line: MVIT.REV.ENABLE of PySlowFast is set, but reversible"):
        load("", ["MVIT.REV.ENABLE", "True"])
    defaults = """
    MULTIGRID: {LONG_CYCLE_FACTORS: [(0.25, 0.7071067), (0.5, 0.7071068), (0.5, 1), (1, 1)], EPOCH_FACTOR: 1.5}
    CONTRASTIVE: {DELTA_CLIPS_MIN: -.inf, PREDICTOR_DEPTHS: []}
    TASK: ''
    MVIT: {REV: {ENABLE: False}}
    """
    defaults = defaults.replace("(", "[").replace(")", "]")
    with caplog.at_level(logging.INFO, "mvidx"):
        load(defaults, ["DETECTION.ENABLE", "False", "TRAIN.CHECKPOINT_CLEAR_NAME_PATTERN", "()"])
    assert caplog.messages == []


def test_what_neither_has_is_unknown(load):
    with pytest.raises(ConfigError, match=r"unknown key MULTIGRID.SHORT_CYCL"):
        load("MULTIGRID: {SHORT_CYCL: True}")
    with pytest.raises(ConfigError, match=r"unknown key MVIT.DEPHT, the nearest known one is MVIT.DEPTH"):
        load("MVIT: {DEPHT: 3}")
