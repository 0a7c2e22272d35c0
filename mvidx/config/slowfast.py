"""PySlowFast's keys that are not ours: which do not matter here, and which are refused.

The keys that are taken over stand in `defaults.py` under their own names. Facts from
`slowfast/config/defaults.py` at 287ec00.
"""

import ast
import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Verdict:
    """What becomes of a PySlowFast key that is not ours.

    Attributes:
        key: with dots.
        reason: why it is refused; empty for a key that changes nothing here.
        known: False for a key that PySlowFast does not have either, in a section that it has.
    """

    key: str
    reason: str = ""
    known: bool = True


IGNORED = {
    # Other architectures than MViT.
    *("RESNET", "X3D", "NONLOCAL", "SLOWFAST"),
    *("MODEL.SINGLE_PATHWAY_ARCH", "MODEL.MULTI_PATHWAY_ARCH", "MODEL.DROPCONNECT_RATE", "MODEL.FC_INIT_STD"),
    # How the work is done, not what comes out.
    *("BENCHMARK", "PREFETCH", "DIST_BACKEND", "SHARD_ID", "LOG_MODEL_INFO", "MODEL.FP16_ALLREDUCE"),
    *("DATA_LOADER.ENABLE_MULTI_THREAD_DECODE", "DATA.DECODING_SHORT_SIZE", "TEST.SAVE_RESULTS_PATH"),
    *("TENSORBOARD.PREDICTIONS_PATH", "TENSORBOARD.LOG_DIR", "TENSORBOARD.CLASS_NAMES_PATH"),
    *("TENSORBOARD.CATEGORIES_PATH", "TENSORBOARD.CONFUSION_MATRIX", "TENSORBOARD.HISTOGRAM"),
    *("TENSORBOARD.MODEL_VIS", "TENSORBOARD.WRONG_PRED_VIS"),
    # Read by nothing in PySlowFast either, or only together with a key that is refused.
    *("SOLVER.GAMMA", "SOLVER.STEP_SIZE", "SOLVER.WARMUP_FACTOR", "AUG.RE_SPLIT"),
    *("DATA.SKIP_ROWS", "BN.NUM_SPLITS", "AUG.MASK_TUBE", "AUG.MASK_FRAMES", "AUG.MASK_WINDOW_SIZE"),
    *("AUG.MASK_RATIO", "AUG.MAX_MASK_PATCHES_PER_BLOCK", "DATA.LOADER_CHUNK_OVERALL_SIZE"),
    # Noise on the colours of images when AUG.ENABLE is False; left out.
    *("DATA.TRAIN_PCA_EIGVAL", "DATA.TRAIN_PCA_EIGVEC"),
}
"""Keys, and whole sections, that change no result here."""

_CONTRASTIVE = "contrastive pretraining is not supported"
_MASKED = "masked pretraining is not supported"
_DETECTION = "detection is not supported"
_MULTIGRID = "multigrid training is not supported"
_REVERSIBLE = "reversible MViT is not supported; MODEL.ACT_CHECKPOINT saves memory too"
_DEMO = "there is no demo; tools/predict.py classifies videos"
_NO_CHUNKS = "lists are read whole"
_CAFFE2 = "checkpoints of Caffe2 are not read"

REFUSED: dict[str, tuple[str, dict[str, Any]]] = {
    "CONTRASTIVE": (
        _CONTRASTIVE,
        {
            "T": 0.07,
            "DIM": 128,
            "LENGTH": 239975,
            "QUEUE_LEN": 65536,
            "MOMENTUM": 0.5,
            "TYPE": "mem",
            "MOMENTUM_ANNEALING": False,
            "INTERP_MEMORY": False,
            "MEM_TYPE": "1d",
            "NUM_CLASSES_DOWNSTREAM": 400,
            "NUM_MLP_LAYERS": 1,
            "MLP_DIM": 2048,
            "BN_MLP": False,
            "BN_SYNC_MLP": False,
            "LOCAL_SHUFFLE_BN": True,
            "MOCO_MULTI_VIEW_QUEUE": False,
            "DELTA_CLIPS_MIN": -math.inf,
            "DELTA_CLIPS_MAX": math.inf,
            "PREDICTOR_DEPTHS": [],
            "SEQUENTIAL": False,
            "SIMCLR_DIST_ON": True,
            "SWAV_QEUE_LEN": 0,
            "KNN_ON": True,
        },
    ),
    "MASK": (
        _MASKED,
        {
            "ENABLE": False,
            "MAE_ON": False,
            "MAE_RND_MASK": False,
            "PER_FRAME_MASKING": False,
            "TIME_STRIDE_LOSS": True,
            "NORM_PRED_PIXEL": True,
            "SCALE_INIT_BY_DEPTH": False,
            "DECODER_EMBED_DIM": 512,
            "DECODER_SEP_POS_EMBED": False,
            "DEC_KV_KERNEL": [],
            "DEC_KV_STRIDE": [],
            "PRETRAIN_DEPTH": [15],
            "HEAD_TYPE": "separate",
            "DECODER_DEPTH": 0,
            "PRED_HOG": False,
        },
    ),
    "VIS_MASK": (_MASKED, {"ENABLE": False}),
    "MVIT.REV": (
        _REVERSIBLE,
        {"ENABLE": False, "RESPATH_FUSE": "concat", "BUFFER_LAYERS": [], "RES_PATH": "conv", "PRE_Q_FUSION": "avg"},
    ),
    "DETECTION": (
        _DETECTION,
        {"ENABLE": False, "ALIGNED": True, "SPATIAL_SCALE_FACTOR": 16, "ROI_XFORM_RESOLUTION": 7},
    ),
    "AVA": (
        "AVA is a detection dataset, and " + _DETECTION,
        {
            "FRAME_DIR": "/mnt/fair-flash3-east/ava_trainval_frames.img/",
            "FRAME_LIST_DIR": "/mnt/vol/gfsai-flash3-east/ai-group/users/haoqifan/ava/frame_list/",
            "ANNOTATION_DIR": "/mnt/vol/gfsai-flash3-east/ai-group/users/haoqifan/ava/frame_list/",
            "TRAIN_LISTS": ["train.csv"],
            "TEST_LISTS": ["val.csv"],
            "TRAIN_GT_BOX_LISTS": ["ava_train_v2.2.csv"],
            "TRAIN_PREDICT_BOX_LISTS": [],
            "TEST_PREDICT_BOX_LISTS": ["ava_val_predicted_boxes.csv"],
            "DETECTION_SCORE_THRESH": 0.9,
            "BGR": False,
            "TRAIN_USE_COLOR_AUGMENTATION": False,
            "TRAIN_PCA_JITTER_ONLY": True,
            "TEST_FORCE_FLIP": False,
            "FULL_TEST_ON_VAL": False,
            "LABEL_MAP_FILE": "ava_action_list_v2.2_for_activitynet_2019.pbtxt",
            "EXCLUSION_FILE": "ava_val_excluded_timestamps_v2.2.csv",
            "GROUNDTRUTH_FILE": "ava_val_v2.2.csv",
            "IMG_PROC_BACKEND": "cv2",
        },
    ),
    "MULTIGRID": (
        _MULTIGRID,
        {
            "EPOCH_FACTOR": 1.5,
            "SHORT_CYCLE": False,
            "SHORT_CYCLE_FACTORS": [0.5, 0.5**0.5],
            "LONG_CYCLE": False,
            "LONG_CYCLE_FACTORS": [[0.25, 0.5**0.5], [0.5, 0.5**0.5], [0.5, 1], [1, 1]],
            "BN_BASE_SIZE": 8,
            "EVAL_FREQ": 3,
            "LONG_CYCLE_SAMPLING_RATE": 0,
            "DEFAULT_B": 0,
            "DEFAULT_T": 0,
            "DEFAULT_S": 0,
        },
    ),
    "TASK": ("self-supervised tasks are not supported", {"": ""}),
    "TRAIN": (
        _CAFFE2,
        {"CHECKPOINT_TYPE": "pytorch"},
    ),
    "TEST": (_CAFFE2, {"CHECKPOINT_TYPE": "pytorch"}),
    "BN": (
        "BN.NORM_TYPE sync_batchnorm synchronises over all processes",
        {"NUM_SYNC_DEVICES": 1, "GLOBAL_SYNC": False},
    ),
    "DATA": (
        _CONTRASTIVE,
        {
            "TRAIN_CROP_NUM_TEMPORAL": 1,
            "TRAIN_CROP_NUM_SPATIAL": 1,
            "TRAIN_JITTER_MOTION_SHIFT": False,
            "COLOR_RND_GRAYSCALE": 0.0,
            "TIME_DIFF_PROB": 0.0,
            "SSL_COLOR_JITTER": False,
            "SSL_MOCOV2_AUG": False,
            "SSL_COLOR_BRI_CON_SAT": [0.4, 0.4, 0.4],
            "SSL_COLOR_HUE": 0.1,
            "SSL_BLUR_SIGMA_MIN": [0.0, 0.1],
            "SSL_BLUR_SIGMA_MAX": [0.0, 2.0],
        },
    ),
}
"""Section -> (reason, {key: PySlowFast's default}); another value than the default is an error."""

REFUSED_KEYS: dict[str, tuple[Any, str]] = {
    "TRAIN.KILL_LOSS_EXPLOSION_FACTOR": (0.0, "a run is not ended for its loss"),
    "TRAIN.CHECKPOINT_CLEAR_NAME_PATTERN": ([], "names in checkpoints are recognised without it"),
    "TEST.NUM_TEMPORAL_CLIPS": ([], "one test a run; set TEST.NUM_ENSEMBLE_VIEWS"),
    "AUG.GEN_MASK_LOADER": (False, _MASKED),
    "MODEL.DETACH_FINAL_FC": (False, "linear probing is not supported"),
    "MVIT.POOL_FIRST": (False, "pooling before the projection is not supported"),
    "MVIT.LAYER_SCALE_INIT_VALUE": (0.0, "MViT has no layer scale here"),
    "MVIT.NORM_STEM": (False, "MViT has no norm after the patch embedding here"),
    "MVIT.REL_POS_ZERO_INIT": (False, "relative positions start from a truncated normal"),
    "MVIT.SEPARATE_QKV": (False, "query, key and value share one weight in checkpoints"),
    "MVIT.USE_FIXED_SINCOS_POS": (False, "fixed sine positions are not supported"),
    "SOLVER.LARS_ON": (False, "LARS is not supported"),
    "DATA.LOADER_CHUNK_SIZE": (0, _NO_CHUNKS),
    "DATA.PATH_TO_PRELOAD_IMDB": ("", "image lists in JSON are not read; images lie in a folder a class"),
    "DATA.IN22K_TRAINVAL": (False, "ImageNet-21k is not supported"),
    "DATA.IN22k_VAL_IN1K": ("", "ImageNet-21k is not supported"),
    "DATA.DUMMY_LOAD": (False, "tools/benchmark.py measures models without data"),
}
"""Key -> (PySlowFast's default, why another value is an error)."""

for _section, (_reason, _keys) in REFUSED.items():
    REFUSED_KEYS.update({f"{_section}.{name}".rstrip("."): (value, _reason) for name, value in _keys.items()})


def verdicts(key: str, value: Any) -> Iterator[Verdict] | None:
    """What becomes of a key, or of every key of a section, that is not among ours.

    Returns:
        A verdict for each key that says something: keys that are refused at their default value in PySlowFast
        are passed over. None when PySlowFast has no such key either.
    """
    if any(key == name or key.startswith(f"{name}.") for name in IGNORED):
        return iter([Verdict(key)])
    if key == "DEMO" or key.startswith("DEMO."):
        enabled = value.get("ENABLE", False) if isinstance(value, Mapping) else key == "DEMO.ENABLE" and _literal(value)
        return iter([Verdict("DEMO.ENABLE", _DEMO) if enabled is True else Verdict(key)])
    if key == "MODEL.ARCH":
        refusal = "of PySlowFast's architectures only mvit is here; MODEL.MODEL_NAME takes the models of mvidx"
        return iter([Verdict(key, "" if str(value).lower() == "mvit" else refusal)])
    if key in REFUSED_KEYS:
        default, reason = REFUSED_KEYS[key]
        return iter([] if _equal(value, default) else [Verdict(key, reason)])
    if isinstance(value, Mapping) and any(name.startswith(f"{key}.") for name in {*REFUSED_KEYS, *IGNORED}):
        found: list[Verdict] = []
        for name, entry in value.items():
            inner = verdicts(f"{key}.{name}", entry)
            found += [Verdict(f"{key}.{name}", known=False)] if inner is None else inner
        return iter(found)
    return None


def _literal(value: Any) -> Any:
    try:
        return ast.literal_eval(value) if isinstance(value, str) else value
    except (ValueError, SyntaxError):
        return value


def _equal(value: Any, default: Any) -> bool:
    """Whether a value from YAML or the command line is the default: tuples are lists, 0 is 0.0, '[]' is []."""
    if isinstance(default, str):
        return value == default or (default == "" and value is None)
    value = _literal(value)
    if isinstance(default, (list, tuple)):
        same_length = isinstance(value, (list, tuple)) and len(value) == len(default)
        return same_length and all(_equal(a, b) for a, b in zip(value, default, strict=True))
    if isinstance(default, float):
        number = isinstance(value, (int, float)) and not isinstance(value, bool)
        return number and (value == default or math.isclose(value, default, rel_tol=1e-6))
    return value == default
