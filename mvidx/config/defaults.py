"""Every config key, its default and what it means.

Names are PySlowFast's where PySlowFast has the concept. Keys are grouped as they stand in a YAML file. A file
may begin with `_BASE_: other.yaml`, a path relative to it, whose keys it then changes.
"""

from fvcore.common.config import CfgNode

_C = CfgNode()

# ---------------------------------------------------------------------------- training
_C.TRAIN = CfgNode()
# Train a model.
_C.TRAIN.ENABLE = True
# Dataset, see docs/datasets.md: "kinetics" (path-label lists train.csv, val.csv, test.csv), "ssv2" (frame lists or
# videos with the official JSON files), "folder" (a folder per class of videos), "imagenet" (a folder per class of
# images) or "motion" (made on first use).
_C.TRAIN.DATASET = "kinetics"
# Videos (or images) in a step, over all GPUs of a node.
_C.TRAIN.BATCH_SIZE = 64
# Epochs between evaluations on the validation split.
_C.TRAIN.EVAL_PERIOD = 10
# Epochs between checkpoints.
_C.TRAIN.CHECKPOINT_PERIOD = 10
# Steps between checkpoints inside an epoch; 0 for none.
_C.TRAIN.CHECKPOINT_STEPS = 0
# How many of the newest checkpoints stay in OUTPUT_DIR/checkpoints.
_C.TRAIN.CHECKPOINTS_KEPT = 2
# Write checkpoints while training goes on, from a copy of the state in memory.
_C.TRAIN.CHECKPOINT_BACKGROUND = True
# By what OUTPUT_DIR/checkpoints/best.pyth is chosen: a value of the "val" records in metrics.jsonl ("top1", "map",
# "loss", "ema_top1"); "auto" for top1, with DATA.MULTI_LABEL for map; empty to keep no best one.
_C.TRAIN.BEST_METRIC = "auto"
# Go on from the newest checkpoint in OUTPUT_DIR, when there is one.
_C.TRAIN.AUTO_RESUME = True
# Weights to start from when nothing is resumed: any file that mvidx.load_checkpoint reads.
_C.TRAIN.CHECKPOINT_FILE_PATH = ""
# Those are weights of an image model, for a video model: inflate them (see mvidx.inflate). CHECKPOINT_INFLATE puts a
# kernel in the middle frame; CHECKPOINT_IN_INIT, PySlowFast's other key for it, does the same.
_C.TRAIN.CHECKPOINT_INFLATE = False
_C.TRAIN.CHECKPOINT_IN_INIT = False
# Take the weights alone, and start at epoch 0. Otherwise a checkpoint of a run is continued at its epoch, with its
# optimizer (PySlowFast's: at its epoch alone).
_C.TRAIN.CHECKPOINT_EPOCH_RESET = False
# float16 on a GPU, PySlowFast's name for PRECISION "float16".
_C.TRAIN.MIXED_PRECISION = False
# "float32", "bfloat16" or "float16" (with loss scaling), for training and testing.
_C.TRAIN.PRECISION = "float32"

# ---------------------------------------------------------------------------- testing
_C.TEST = CfgNode()
# Test after training, or alone when TRAIN.ENABLE is False.
_C.TEST.ENABLE = True
# Dataset, as TRAIN.DATASET.
_C.TEST.DATASET = "kinetics"
# The most views in one forward pass, over all GPUs of a node.
_C.TEST.BATCH_SIZE = 8
# Weights to test; empty: the newest checkpoint in OUTPUT_DIR, else TRAIN.CHECKPOINT_FILE_PATH.
_C.TEST.CHECKPOINT_FILE_PATH = ""
# Temporal views of a video.
_C.TEST.NUM_ENSEMBLE_VIEWS = 10
# Spatial crops of a temporal view: 1 (centre) or 3 (along the longer side).
_C.TEST.NUM_SPATIAL_CROPS = 3
# Shuffle the frames of every view in time: shows how much a model relies on their order.
_C.TEST.SHUFFLE_FRAMES = False

# ---------------------------------------------------------------------------- data
_C.DATA = CfgNode()
# Folder of the annotation files.
_C.DATA.PATH_TO_DATA_DIR = ""
# Folder put before every path in the annotation files.
_C.DATA.PATH_PREFIX = ""
# What stands between path and label; a space, a comma and a tab are recognised anyway.
_C.DATA.PATH_LABEL_SEPARATOR = " "
# File with the name of one class a line; empty: classes.txt in PATH_TO_DATA_DIR when it is there.
_C.DATA.CLASS_NAMES = ""
# How many files of a list are looked at before the first step (missing, empty, no video at all).
_C.DATA.CHECK_FILES = 20000
# Decoder: "decord", "pyav" or "torchcodec"; PySlowFast's "torchvision" means "decord".
_C.DATA.DECODING_BACKEND = "decord"
# Seconds that reading a video may take, from opening to its last frame; one that takes longer counts as unreadable.
# 0 for no limit. The limit holds inside the decoder's C code too: videos are then decoded in a process beside each
# worker, and one that crashes its decoder counts as unreadable as well.
_C.DATA.DECODE_TIMEOUT_SECONDS = 60.0
# Several labels a video, rows of "path label,label,..." (docs/datasets.md). Needs LOSS_FUNC bce and HEAD_ACT sigmoid.
_C.DATA.MULTI_LABEL = False
# Frames of a clip.
_C.DATA.NUM_FRAMES = 8
# Distance between the frames of a clip, in frames at TARGET_FPS.
_C.DATA.SAMPLING_RATE = 8
# Frame rate that SAMPLING_RATE refers to; clips of videos with another rate span the same time.
_C.DATA.TARGET_FPS = 30
# Training clips are sampled for a frame rate of TARGET_FPS plus up to this.
_C.DATA.TRAIN_JITTER_FPS = 0.0
# Test views from the very start to the very end of a video (one view: the middle).
_C.DATA.USE_OFFSET_SAMPLING = False
# Mean and standard deviation of the channels, with pixels in [0, 1].
_C.DATA.MEAN = [0.45, 0.45, 0.45]
_C.DATA.STD = [0.225, 0.225, 0.225]
# Input channels, as a list for PySlowFast's sake; the first entry counts.
_C.DATA.INPUT_CHANNEL_NUM = [3]
# Side of training and test crops, pixels.
_C.DATA.TRAIN_CROP_SIZE = 224
_C.DATA.TEST_CROP_SIZE = 256
# Smallest and largest short side of training clips, pixels, when TRAIN_JITTER_SCALES_RELATIVE is empty. The
# first is also the short side of test clips with one spatial crop.
_C.DATA.TRAIN_JITTER_SCALES = [256, 320]
# Area of the random training region over the frame's, (smallest, largest); empty: use TRAIN_JITTER_SCALES.
_C.DATA.TRAIN_JITTER_SCALES_RELATIVE = []
# Aspect ratio of that region, (smallest, largest).
_C.DATA.TRAIN_JITTER_ASPECT_RELATIVE = []
# Draw the inverse of the short side evenly, rather than the short side (with TRAIN_JITTER_SCALES).
_C.DATA.INV_UNIFORM_SAMPLE = False
# Side of the centre crop over the short side of test images ("imagenet"); 0: squeeze the whole image into the crop.
_C.DATA.IN_VAL_CROP_RATIO = 0.875
# Reverse the colours' order. Dataset "ssv2" has blue first, as PySlowFast reads it; all others have red first.
_C.DATA.REVERSE_INPUT_CHANNEL = False
# Join the views of a test video by their "sum" or "max".
_C.DATA.ENSEMBLE_METHOD = "sum"
# Mirror half of the training clips.
_C.DATA.RANDOM_FLIP = True
# Smooth before scaling down; the published numbers are without.
_C.DATA.ANTIALIAS = False

# ---------------------------------------------------------------------------- augmentation of training clips
_C.AUG = CfgNode()
# Use what follows in this section.
_C.AUG.ENABLE = False
# Clips made from each decoded video of a batch (repeated augmentation).
_C.AUG.NUM_SAMPLE = 1
# Random augmentation, in timm's words: rand-m7-n4-mstd0.5-inc1 is 4 operations of magnitude 7 +- 0.5; empty for none.
_C.AUG.AA_TYPE = "rand-m9-mstd0.5-inc1"
# Brightness, contrast and saturation change by up to this, alike in all frames of a clip, when AA_TYPE is empty.
_C.AUG.COLOR_JITTER = 0.4
# How warped (and, of images, resized) pixels are computed: "bilinear", "bicubic" or "random".
_C.AUG.INTERPOLATION = "bicubic"
# Erase a random box of each clip with this probability, after normalisation.
_C.AUG.RE_PROB = 0.25
# What goes into the box: "pixel" (noise), "rand" (one random colour) or "const" (zeros).
_C.AUG.RE_MODE = "pixel"
# Up to this many boxes; with more than one the first 1/RE_COUNT of the frames is spared, as in PySlowFast.
_C.AUG.RE_COUNT = 1
# Draw the boxes for every frame by itself, rather than once for all frames of a clip.
_C.AUG.RE_PER_FRAME = False

# ---------------------------------------------------------------------------- mixing clips of a batch
_C.MIXUP = CfgNode()
# Mix each clip with another of its batch, and smooth the labels.
_C.MIXUP.ENABLE = False
# Beta distributions of the share, for mixup and cutmix; 0 switches one off.
_C.MIXUP.ALPHA = 0.8
_C.MIXUP.CUTMIX_ALPHA = 1.0
# Probability of mixing a batch, and of taking cutmix when both are on.
_C.MIXUP.PROB = 1.0
_C.MIXUP.SWITCH_PROB = 0.5
# Label smoothing, mixed or not.
_C.MIXUP.LABEL_SMOOTH_VALUE = 0.1

# ---------------------------------------------------------------------------- the motion dataset
_C.MOTION = CfgNode()
# Videos of each split.
_C.MOTION.NUM_TRAIN = 960
_C.MOTION.NUM_VAL = 128
_C.MOTION.NUM_TEST = 192
# Seed of all that is drawn.
_C.MOTION.SEED = 0
# Names of the classes to make, in the order of their labels; empty: all eight.
_C.MOTION.CLASSES = []

# ---------------------------------------------------------------------------- loading
_C.DATA_LOADER = CfgNode()
# Worker processes of a loader, a GPU.
_C.DATA_LOADER.NUM_WORKERS = 8
# Copy batches to page-locked memory (with a GPU).
_C.DATA_LOADER.PIN_MEMORY = True

# ---------------------------------------------------------------------------- model
_C.MODEL = CfgNode()
# "MViT" (built from the MVIT section) or a name of mvidx.list_models().
_C.MODEL.MODEL_NAME = "MViT"
# Number of classes.
_C.MODEL.NUM_CLASSES = 400
# Dropout before the classifier.
_C.MODEL.DROPOUT_RATE = 0.5
# Loss: "cross_entropy" or "soft_cross_entropy" (the same: both take labels and mixed ones), "bce_logit" or "bce"
# (the same: a yes or no for each class).
_C.MODEL.LOSS_FUNC = "cross_entropy"
# What is done with the logits of each test view before views are joined: "softmax", "sigmoid" or "none" (views are
# joined as logits).
_C.MODEL.HEAD_ACT = "softmax"
# Leave the running statistics of batch norms as they are while training.
_C.MODEL.FROZEN_BN = False
# Parts of the model that do not learn: names of modules or parameters, with all that is in them, or patterns such as
# "blocks.[0-3]". Batch norms in them keep their statistics.
_C.MODEL.FROZEN_PARTS = []
# Compile the model by torch.compile, and its backend.
_C.MODEL.COMPILE = False
_C.MODEL.COMPILE_BACKEND = "inductor"
# How several processes share a model: "ddp" (each has it whole) or "fsdp" (weights, gradients and optimizer state are
# split over them, by FSDP2).
_C.MODEL.SHARDING = "ddp"
# Recompute activations in the backward pass.
_C.MODEL.ACT_CHECKPOINT = False
# Other arguments of the model's constructor, for models chosen by name.
_C.MODEL.ARGUMENTS = CfgNode(new_allowed=True)

# ---------------------------------------------------------------------------- batch norms
_C.BN = CfgNode()
# "batchnorm", or "sync_batchnorm": training statistics of the batches of all processes.
_C.BN.NORM_TYPE = "batchnorm"
# Before every evaluation, compute the running statistics anew with the weights as they are, over this many batches.
_C.BN.USE_PRECISE_STATS = False
_C.BN.NUM_BATCHES_PRECISE = 200
# Weight decay of batch norms' parameters.
_C.BN.WEIGHT_DECAY = 0.0

# ---------------------------------------------------------------------------- MViT
_C.MVIT = CfgNode()
# Pooling: "conv" (depthwise convolution).
_C.MVIT.MODE = "conv"
# Carry a class token and classify from it.
_C.MVIT.CLS_EMBED_ON = True
# Kernel, stride and padding of the patch embedding, ([T,] H, W).
_C.MVIT.PATCH_KERNEL = [3, 7, 7]
_C.MVIT.PATCH_STRIDE = [2, 4, 4]
_C.MVIT.PATCH_PADDING = [2, 4, 4]
# Image model: a patch embedding of two axes, and one frame.
_C.MVIT.PATCH_2D = False
# Channels after the patch embedding.
_C.MVIT.EMBED_DIM = 96
# Heads of the first block.
_C.MVIT.NUM_HEADS = 1
# Hidden width of the MLPs over their input width.
_C.MVIT.MLP_RATIO = 4.0
# Bias of the query, key and value projections.
_C.MVIT.QKV_BIAS = True
# Stochastic depth of the last block; grows linearly from 0.
_C.MVIT.DROPPATH_RATE = 0.1
# Dropout inside the blocks.
_C.MVIT.DROPOUT_RATE = 0.0
# Blocks.
_C.MVIT.DEPTH = 16
# Norm: "layernorm".
_C.MVIT.NORM = "layernorm"
# [[block, factor], ...] by which width and heads grow.
_C.MVIT.DIM_MUL = []
_C.MVIT.HEAD_MUL = []
# [[block, *stride], ...] of key and value, or one stride for block 0 that every query stride divides.
_C.MVIT.POOL_KV_STRIDE = []
_C.MVIT.POOL_KV_STRIDE_ADAPTIVE = None
# [[block, *stride], ...] of the blocks that pool their query.
_C.MVIT.POOL_Q_STRIDE = []
# Kernel of all pools; None: stride + 1.
_C.MVIT.POOL_KVQ_KERNEL = None
# Learned absolute positions, in one table or one for space and one for time.
_C.MVIT.USE_ABS_POS = True
_C.MVIT.SEP_POS_EMBED = False
# Decomposed relative positions in space and time.
_C.MVIT.REL_POS_SPATIAL = False
_C.MVIT.REL_POS_TEMPORAL = False
# Widen in the attention rather than in the MLP.
_C.MVIT.DIM_MUL_IN_ATT = False
# Add the pooled query to what is attended.
_C.MVIT.RESIDUAL_POOLING = False
# Classify from the mean of the last grid, normed after the mean.
_C.MVIT.USE_MEAN_POOLING = False
# Factor on the classifier's initial weights.
_C.MVIT.HEAD_INIT_SCALE = 1.0
# No weight decay for position tables and the class token.
_C.MVIT.ZERO_DECAY_POS_CLS = True

# ---------------------------------------------------------------------------- optimization
_C.SOLVER = CfgNode()
# "adamw", "adam", "sgd" or "lamb" (timm's: bias correction, decay inside the trust ratio).
_C.SOLVER.OPTIMIZING_METHOD = "sgd"
# Learning rate after the warm-up, for the batch of one node.
_C.SOLVER.BASE_LR = 0.1
# Multiply all learning rates by NUM_SHARDS.
_C.SOLVER.BASE_LR_SCALE_NUM_SHARDS = False
# "cosine" or "steps_with_relative_lrs".
_C.SOLVER.LR_POLICY = "cosine"
# Learning rate at the end of the cosine.
_C.SOLVER.COSINE_END_LR = 0.0
# Start the cosine where the warm-up ends.
_C.SOLVER.COSINE_AFTER_WARMUP = False
# First epoch of every step, and the factor on BASE_LR from there on.
_C.SOLVER.STEPS = []
_C.SOLVER.LRS = []
# Epochs.
_C.SOLVER.MAX_EPOCH = 300
# Epochs of linear warm-up, and the learning rate it starts at.
_C.SOLVER.WARMUP_EPOCHS = 0.0
_C.SOLVER.WARMUP_START_LR = 0.01
# SGD's momentum, its dampening, and whether it is Nesterov's.
_C.SOLVER.MOMENTUM = 0.9
_C.SOLVER.DAMPENING = 0.0
_C.SOLVER.NESTEROV = True
# Adam's and AdamW's beta1 and beta2.
_C.SOLVER.BETAS = [0.9, 0.999]
# Weight decay, and whether parameters of one axis (biases, norms) are exempt.
_C.SOLVER.WEIGHT_DECAY = 1e-4
_C.SOLVER.ZERO_WD_1D_PARAM = False
# Learning rate of a layer over that of the next deeper one.
_C.SOLVER.LAYER_DECAY = 1.0
# Learning rate of all but the classifier over that of the classifier, for fine-tuning.
_C.SOLVER.BACKBONE_LR_SCALE = 1.0
# Batches of TRAIN.BATCH_SIZE whose gradients make one step: the effective batch is that many times as large.
_C.SOLVER.ACCUMULATION_STEPS = 1
# A step whose loss or gradient is not finite is skipped; this many of them in a row end the run.
_C.SOLVER.MAX_NONFINITE_STEPS = 5
# Largest norm of the gradient; None for no clipping.
_C.SOLVER.CLIP_GRAD_L2NORM = None
# Largest value in the gradient; None for no clipping. Goes before CLIP_GRAD_L2NORM.
_C.SOLVER.CLIP_GRAD_VAL = None

# ---------------------------------------------------------------------------- moving average of the weights
_C.EMA = CfgNode()
# Keep one, evaluate and test it beside the weights (ema_* in metrics.jsonl, OUTPUT_DIR/ema), and save it with them.
_C.EMA.ENABLE = False
# Share of the old average that stays at each step.
_C.EMA.DECAY = 0.9999

# ---------------------------------------------------------------------------- the run
# GPUs of a node: -1 takes one when there is one, else the CPU; 0 is the CPU.
_C.NUM_GPUS = -1
# Nodes.
_C.NUM_SHARDS = 1
# Seed of everything random.
_C.RNG_SEED = 0
# Where everything that the run makes goes.
_C.OUTPUT_DIR = "."
# Steps between records of training metrics.
_C.LOG_PERIOD = 10
_C.TENSORBOARD = CfgNode()
# Write TensorBoard events.
_C.TENSORBOARD.ENABLE = True
_C.WANDB = CfgNode()
# Send the same numbers to Weights & Biases (pip install 'mvidx[wandb]').
_C.WANDB.ENABLE = False
# Its project, the run's name there (empty: wandb's choice), and "online", "offline" or "disabled".
_C.WANDB.PROJECT = "mvidx"
_C.WANDB.NAME = ""
_C.WANDB.MODE = "online"


def get_cfg() -> CfgNode:
    """A fresh copy of the defaults."""
    return _C.clone()
