"""The keys and values of PySlowFast's MViT files (`configs/` at 287ec00), in a formatting of our own.

Spellings that matter are kept: tuples as strings, 1e-6 without a dot, keys given twice, a PREFETCH section.
"""

_TRAIN = (
    "TRAIN: {{ENABLE: True, AUTO_RESUME: True, DATASET: {0}, BATCH_SIZE: {1}, EVAL_PERIOD: {2}, "
    "CHECKPOINT_PERIOD: {3}{4}}}"
)
_VIDEO_DATA = """
DATA:
  {sampling}
  DECODING_BACKEND: torchvision
  NUM_FRAMES: {frames}
  SAMPLING_RATE: {rate}
  TRAIN_JITTER_SCALES: {scales}
  TRAIN_CROP_SIZE: {crop}
  TEST_CROP_SIZE: {crop}
  INPUT_CHANNEL_NUM: [3]
"""
_KINETICS_JITTER = "  TRAIN_JITTER_SCALES_RELATIVE: [0.08, 1.0]\n  TRAIN_JITTER_ASPECT_RELATIVE: [0.75, 1.3333]\n"
_SSV2_DATA = "  INV_UNIFORM_SAMPLE: True\n  RANDOM_FLIP: False\n  REVERSE_INPUT_CHANNEL: True\n  #PATH_TO_DATA_DIR:\n"
_IMAGENET_STATISTICS = "  MEAN: [0.485, 0.456, 0.406]\n  STD: [0.229, 0.224, 0.225]\n"
_IMAGE_DATA = f"""
DATA:
{_IMAGENET_STATISTICS}  NUM_FRAMES: 1
  TRAIN_CROP_SIZE: 224
  TEST_CROP_SIZE: 224
  INPUT_CHANNEL_NUM: [3]
"""
_KIND = 'NORM: "layernorm"\n  MODE: "conv"'
_VIDEO_PATCH = f"PATCH_KERNEL: (3, 7, 7)\n  PATCH_STRIDE: (2, 4, 4)\n  PATCH_PADDING: (1, 3, 3)\n  {_KIND}"
_IMAGE_PATCH = f"PATCH_2D: True\n  PATCH_KERNEL: [7, 7]\n  PATCH_STRIDE: [4, 4]\n  PATCH_PADDING: [3, 3]\n  {_KIND}"
_COMMON_MVIT = "ZERO_DECAY_POS_CLS: False\n  MLP_RATIO: 4.0\n  QKV_BIAS: True\n  DROPOUT_RATE: 0.0"


def _starts(starts) -> str:
    rows = [[start, 2.0] for start in starts]
    return f"DIM_MUL: {rows}\n  HEAD_MUL: {rows}"


def _v2_strides(depth: int, starts) -> str:
    return str([[block, 1, 2, 2] if block in starts else [block, 1, 1, 1] for block in range(depth)])


def _v2(depth: int, starts, drop_path: float, *, heads: int = 1, width: int = 96) -> str:
    return f"""
MVIT:
  {_COMMON_MVIT}
  USE_ABS_POS: False
  REL_POS_SPATIAL: True
  REL_POS_TEMPORAL: True
  DEPTH: {depth}
  NUM_HEADS: {heads}
  EMBED_DIM: {width}
  {_VIDEO_PATCH}
  DROPPATH_RATE: {drop_path}
  CLS_EMBED_ON: True
  {_starts(starts)}
  POOL_KVQ_KERNEL: [3, 3, 3]
  POOL_KV_STRIDE_ADAPTIVE: [1, 8, 8]
  POOL_Q_STRIDE: {_v2_strides(depth, starts)}
  DIM_MUL_IN_ATT: True
  RESIDUAL_POOLING: True
"""


def _image_v2(depth: int, starts) -> str:
    stage = [sum(block >= start for start in starts) for block in range(depth)]
    kv = [[block, 1, max(4 >> s, 1), max(4 >> s, 1)] for block, s in enumerate(stage)]
    return f"""
MVIT:
  {_COMMON_MVIT}
  {_IMAGE_PATCH}
  CLS_EMBED_ON: False
  EMBED_DIM: 96
  NUM_HEADS: 1
  DROPPATH_RATE: 0.1
  DEPTH: {depth}
  {_starts(starts)}
  POOL_KVQ_KERNEL: [1, 3, 3]
  POOL_KV_STRIDE: {kv}
  POOL_Q_STRIDE: {_v2_strides(depth, starts)}
  RESIDUAL_POOLING: True
  USE_ABS_POS: False
  REL_POS_SPATIAL: True
  DIM_MUL_IN_ATT: True
"""


def _v1(depth: int, starts, drop_path: float, extra: str, patch: str = _VIDEO_PATCH) -> str:
    return f"""
MVIT:
  {_COMMON_MVIT}
  DEPTH: {depth}
  NUM_HEADS: 1
  EMBED_DIM: 96
  {patch}
  DROPPATH_RATE: {drop_path}
  CLS_EMBED_ON: True
  {_starts(starts)}
  {extra}
  POOL_Q_STRIDE: {[[start, 1, 2, 2] for start in starts]}
"""


def _rest(
    *,
    samples: str = "",
    policy: str = "rand-m7-n4-mstd0.5-inc1",
    erase: str = "  RE_PROB: 0.25\n",
    mix: float = 1.0,
    classes: int,
    dropout: float,
    checkpointing: str = "",
    extra: str = "",
) -> str:
    return f"""
AUG:
  {samples}
  ENABLE: True
  COLOR_JITTER: 0.4
  AA_TYPE: {policy}
  INTERPOLATION: bicubic
{erase}  RE_MODE: pixel
  RE_COUNT: 1
  RE_SPLIT: False
MIXUP: {{ENABLE: True, ALPHA: 0.8, CUTMIX_ALPHA: 1.0, PROB: {mix}, SWITCH_PROB: 0.5, LABEL_SMOOTH_VALUE: 0.1}}
MODEL:
  NUM_CLASSES: {classes}
  ARCH: mvit
  MODEL_NAME: MViT
  LOSS_FUNC: soft_cross_entropy
  DROPOUT_RATE: {dropout}
  {checkpointing}
DATA_LOADER: {{NUM_WORKERS: {2 if classes == 174 else 8}, PIN_MEMORY: True}}
NUM_GPUS: 8
NUM_SHARDS: 1
RNG_SEED: 0
OUTPUT_DIR: .
{extra}
"""


_ADAMW = """
SOLVER:
  ZERO_WD_1D_PARAM: True
  BASE_LR_SCALE_NUM_SHARDS: True
  CLIP_GRAD_L2NORM: 1.0
  BASE_LR: 0.0001
  COSINE_AFTER_WARMUP: True
  COSINE_END_LR: 1e-6
  WARMUP_START_LR: 1e-6
  WARMUP_EPOCHS: 30.0
  LR_POLICY: cosine
  MAX_EPOCH: 200
  MOMENTUM: 0.9
  WEIGHT_DECAY: 5e-2
  OPTIMIZING_METHOD: adamw
  COSINE_AFTER_WARMUP: True
"""
_IMAGE_ADAMW = """
SOLVER: {BASE_LR_SCALE_NUM_SHARDS: True, BASE_LR: 0.00025, LR_POLICY: cosine, MAX_EPOCH: 300, MOMENTUM: 0.9,
  WEIGHT_DECAY: 0.05, WARMUP_EPOCHS: 70.0, WARMUP_START_LR: 1e-8, OPTIMIZING_METHOD: adamw,
  COSINE_AFTER_WARMUP: True, COSINE_END_LR: 1e-6, ZERO_WD_1D_PARAM: True, CLIP_GRAD_L2NORM: 1.0}
"""
_BN = "BN: {USE_PRECISE_STATS: False, NUM_BATCHES_PRECISE: 200}"
_PREFETCH = "PREFETCH:\n  NUM_LOADERS: 3"


def _sgd(lr: float, *, epochs: int = 100, start: str = "1e-4", clip: str = "") -> str:
    return f"""
SOLVER: {{{clip}ZERO_WD_1D_PARAM: True, BASE_LR_SCALE_NUM_SHARDS: True, BASE_LR: {lr}, COSINE_AFTER_WARMUP: True,
  COSINE_END_LR: 1e-6, WARMUP_START_LR: {start}, WARMUP_EPOCHS: 3.0, LR_POLICY: cosine, MAX_EPOCH: {epochs},
  MOMENTUM: 0.9, WEIGHT_DECAY: 1e-4, OPTIMIZING_METHOD: sgd}}
"""


def _test(dataset: str, batch: int, views: str = "", crops: int = 1, enable: bool = True) -> str:
    return f"TEST: {{ENABLE: {enable}, DATASET: {dataset}, BATCH_SIZE: {batch}, {views}NUM_SPATIAL_CROPS: {crops}}}\n"


def _kinetics_data(frames: int, rate: int, crop: int = 224, scales=(256, 320), more: str = "") -> str:
    data = _VIDEO_DATA.format(
        sampling="USE_OFFSET_SAMPLING: True", frames=frames, rate=rate, crop=crop, scales=list(scales)
    )
    return data + _KINETICS_JITTER + more


def _ssv2_data(frames: int, rate: int, crop: int = 224, scales=(256, 320), more: str = "") -> str:
    return _VIDEO_DATA.format(sampling="", frames=frames, rate=rate, crop=crop, scales=list(scales)) + _SSV2_DATA + more


_FINETUNE = ", CHECKPOINT_TYPE: pytorch, CHECKPOINT_EPOCH_RESET: True"
_KINETICS_TRAIN = _TRAIN.format("kinetics", 16, 10, 10, "")
_IMAGE_TRAIN = _TRAIN.format("imagenet", 256, 10, 1, "")
_S, _B, _L, _T = (1, 3, 14), (2, 5, 21), (2, 8, 44), (1, 3, 8)
_K400 = {"classes": 400, "dropout": 0.5}
_SSV2 = {"classes": 174, "dropout": 0.5, "samples": "NUM_SAMPLE: 1"}
_IN1K = {"classes": 1000, "dropout": 0.0, "policy": "rand-m9-n6-mstd0.5-inc1"}
_FIVE = "NUM_ENSEMBLE_VIEWS: 5, "
_ONE = "NUM_ENSEMBLE_VIEWS: 1, "
_TWICE = "NUM_SAMPLE: 2"
_ADAPTIVE = "SEP_POS_EMBED: True\n  POOL_KV_STRIDE_ADAPTIVE: [1, 8, 8]"

FILES: dict[str, str] = {
    "Kinetics/MVITv2_S_16x4": _KINETICS_TRAIN
    + (_kinetics_data(16, 4) + _v2(16, _S, 0.2) + _ADAMW + _test("kinetics", 64, _FIVE))
    + _rest(**_K400, samples=_TWICE),
    "Kinetics/MVITv2_B_32x3": _KINETICS_TRAIN
    + (_kinetics_data(32, 3) + _v2(24, _B, 0.3) + _ADAMW + _test("kinetics", 64, _FIVE))
    + _rest(**_K400, samples=_TWICE),
    "Kinetics/MVITv2_L_40x3_test": "TRAIN:\n  ENABLE: False\n"
    + _kinetics_data(40, 3, 312, (356, 446), _IMAGENET_STATISTICS)
    + _v2(48, _L, 0.75, heads=2, width=144)
    + (_test("kinetics", 8, _FIVE, 3) + _rest(**_K400, mix=0.0, checkpointing="ACT_CHECKPOINT: True")),
    "Kinetics/MVIT_B_16x4_CONV": _KINETICS_TRAIN
    + _kinetics_data(16, 4)
    + _v1(16, _S, 0.2, f"{_ADAPTIVE}\n  POOL_KVQ_KERNEL: [3, 3, 3]")
    + (_ADAMW + _test("kinetics", 64) + _rest(**_K400, samples=_TWICE, extra=_BN)),
    "Kinetics/MVIT_B_32x3_CONV": _KINETICS_TRAIN
    + _kinetics_data(32, 3)
    + _v1(24, _B, 0.3, _ADAPTIVE)
    + (_ADAMW + _test("kinetics", 64) + _rest(**_K400, samples=_TWICE, erase="")),
    "SSv2/MVITv2_S_16x4": _TRAIN.format("ssv2", 16, 2, 2, _FINETUNE)
    + (_ssv2_data(16, 4) + _v2(16, _S, 0.4) + _sgd(0.0025) + _test("ssv2", 64, _ONE, 3))
    + _rest(**_SSV2, extra=_PREFETCH),
    "SSv2/MVITv2_B_32x3": _TRAIN.format("ssv2", 16, 2, 2, _FINETUNE)
    + (_ssv2_data(32, 3) + _v2(24, _B, 0.4) + _sgd(0.0015) + _test("ssv2", 64, _ONE, 3))
    + _rest(**_SSV2, extra=f"{_BN}\n{_PREFETCH}"),
    "SSv2/MVITv2_L_40x3": _TRAIN.format("ssv2", 8, 2, 1, f", CHECKPOINT_IN_INIT: True{_FINETUNE}")
    + _ssv2_data(40, 3, 312, (356, 446), _IMAGENET_STATISTICS)
    + (_v2(48, _L, 0.75, heads=2, width=144) + "  POOL_FIRST: False # default: False\n")
    + (_sgd(0.00125, epochs=40, start="1e-6", clip="CLIP_GRAD_L2NORM: 2.0, ") + _test("ssv2", 8, _ONE, 3))
    + _rest(**_SSV2, mix=0.0, checkpointing="ACT_CHECKPOINT: True", extra=f"{_BN}\n{_PREFETCH}"),
    "ImageNet/MVITv2_T": _IMAGE_TRAIN
    + (_IMAGE_DATA + _image_v2(10, _T) + _IMAGE_ADAMW + _test("imagenet", 256, _ONE) + _rest(**_IN1K)),
    "ImageNet/MVITv2_S": _IMAGE_TRAIN
    + (_IMAGE_DATA + _image_v2(16, _S) + _IMAGE_ADAMW + _test("imagenet", 256, _ONE) + _rest(**_IN1K)),
    "ImageNet/MVIT_B_16_CONV": _IMAGE_TRAIN
    + _IMAGE_DATA
    + _v1(16, _S, 0.1, "POOL_KVQ_KERNEL: [1, 3, 3]\n  POOL_KV_STRIDE_ADAPTIVE: [1, 4, 4]", _IMAGE_PATCH)
    + (_IMAGE_ADAMW + "TEST: {ENABLE: False, DATASET: imagenet, BATCH_SIZE: 256}\n" + _rest(**_IN1K)),
}
"""File name in PySlowFast's `configs/` without .yaml -> its content."""
