"""What the published weights of a registered model want to see, and how their classes are called.

Sources: the test configs of PySlowFast (configs/Kinetics at 287ec00) and of facebookresearch/mvit; timm's and
torchvision's weights' metadata; PyTorch Hub's pages on pytorchvideo's models; the validation settings of
sail-sg/poolformer, sail-sg/iFormer and PaddleClas. This project's own video models are tested as MViT is.
"""

import dataclasses
import functools
import math
from collections.abc import Mapping
from typing import Any

from mvidx.models.card import ModelCard, Preprocessing

IMAGENET = {"mean": (0.485, 0.456, 0.406), "std": (0.229, 0.224, 0.225)}
KINETICS = {"mean": (0.45, 0.45, 0.45), "std": (0.225, 0.225, 0.225)}
TORCHVISION_RESNETS = {"mean": (0.43216, 0.394666, 0.37645), "std": (0.22803, 0.22145, 0.216989)}

# Distance of frames by their number, at 30 frames a second; other clips span the 64 frames of 16x4.
_SAMPLING_RATES = {32: 3, 40: 3}

# pytorchvideo: distance of frames; (resize, crop) where they are not (256, 256).
_PTV_RATES = {
    "ptv_x3d_xs": 12,
    "ptv_x3d_s": 6,
    "ptv_x3d_m": 5,
    "ptv_x3d_l": 5,
    "ptv_slow_r50": 8,
    "ptv_c2d_r50": 8,
    "ptv_i3d_r50": 8,
    "ptv_r2plus1d_r50": 4,
    "ptv_csn_r101": 2,
    "ptv_slowfast_r50": 2,
    "ptv_slowfast_r101": 2,
    "ptv_slowfast_16x8_r101_50_50": 2,
    "ptv_mvit_b_16x4": 4,
    "ptv_mvit_b_32x3": 3,
}
_PTV_SIDES = {
    "ptv_x3d_xs": (182, 182),
    "ptv_x3d_s": (182, 182),
    "ptv_x3d_l": (320, 320),
    "ptv_mvit_b_16x4": (256, 224),
    "ptv_mvit_b_32x3": (256, 224),
}


def _side(img_size: int | tuple[int, int]) -> int:
    return img_size if isinstance(img_size, int) else min(img_size)


def _image(name: str, side: int) -> Preprocessing:
    ratio = 0.875
    if name.startswith(("poolformer_m",)):
        ratio = 0.95
    elif name.startswith(("poolformer_", "metaformer_", "iformer_")):
        ratio = 0.9
    if name.startswith("iformer_") and side >= 384:
        ratio = 1.0
    return Preprocessing(crop=side, crop_ratio=ratio, **IMAGENET)


def _video(name: str, side: int, frames: int) -> Preprocessing:
    large = name == "mvitv2_l_video"
    return Preprocessing(
        crop=side,
        # three crops lie in a short side of the crop's
        resize=side if large else math.ceil(side * 256 / 224),
        num_frames=frames,
        sampling_rate=_SAMPLING_RATES.get(frames, 64 / frames if 64 % frames else 64 // frames),
        num_views=5,
        num_crops=3 if large else 1,
        **(IMAGENET if large else KINETICS),
    )


def _pytorchvideo(name: str, frames: int) -> Preprocessing:
    resize, crop = _PTV_SIDES.get(name, (256, 256))
    rate = _PTV_RATES[name]
    return Preprocessing(crop=crop, resize=resize, num_frames=frames, sampling_rate=rate, num_views=10, **KINETICS)


def _torchvision(name: str, frames: int) -> Preprocessing:
    if name.startswith("tv_mvit"):
        return _video(name, 224, frames)
    clip = {"num_frames": frames, "sampling_rate": 2}
    if name.startswith("tv_swin3d"):
        return Preprocessing(crop=224, resize=256, num_views=12, **clip, **IMAGENET)
    if name == "tv_s3d":
        return Preprocessing(crop=224, resize=(256, 256), num_views=1, **clip, **TORCHVISION_RESNETS)
    return Preprocessing(crop=112, resize=(128, 171), num_views=5, **clip, **TORCHVISION_RESNETS)


def published_preprocessing(name: str, arguments: Mapping[str, Any], *, source: str = "") -> Preprocessing:
    """What the published weights of a model are tested with, or the same at another size.

    Args:
        name: registered name.
        arguments: of its constructor; img_size and frames count, sizes unlike the published ones keep the proportions.
        source: where the weights came from, as `load_checkpoint` reports it: timm tests its MViTv2 with another crop.
    """
    frames, side = arguments.get("frames"), _side(arguments.get("img_size", 224))
    if frames is None:
        found = _image(name, side)
        if source == "timm" and name.startswith("mvitv2_"):
            found = dataclasses.replace(found, crop_ratio=0.9)
        return found
    if name.startswith("ptv_"):
        return _pytorchvideo(name, frames)
    if name.startswith("tv_"):
        return _torchvision(name, frames)
    return _video(name, side, frames)


@functools.cache
def published_class_names(num_classes: int, video: bool) -> tuple[str, ...]:
    """Names of Kinetics-400's classes (alphabetical, as in its annotations) or ImageNet-1k's, from torchvision.

    Empty for any other number of classes.
    """
    if video and num_classes == 400:
        from torchvision.models.video import MViT_V2_S_Weights

        return tuple(MViT_V2_S_Weights.KINETICS400_V1.meta["categories"])
    if not video and num_classes == 1000:
        from torchvision.models import ResNet50_Weights

        return tuple(ResNet50_Weights.IMAGENET1K_V1.meta["categories"])
    return ()


def published_card(name: str, arguments: Mapping[str, Any], *, source: str = "") -> ModelCard:
    """The card of published weights: arguments as `published_preprocessing` takes them."""
    return ModelCard(name, dict(arguments), published_preprocessing(name, arguments, source=source))
