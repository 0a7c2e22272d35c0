"""Every registered model at a size that a test can afford: one block a stage, narrow, on 64x64 pixels."""

from torch import nn

import mvidx
from mvidx.models.convnets import MixingMobileNetV2, MixingResNet
from mvidx.models.iformer import IFormer
from mvidx.models.mixformer import MixFormer
from mvidx.models.mvit import MViT
from mvidx.models.poolformer import PoolFormer
from mvidx.models.registry import ModelEntry, model_entry

SIDE, FRAMES = 64, 4
OURS = (MViT, PoolFormer, IFormer, MixFormer, MixingResNet, MixingMobileNetV2)


def small_arguments(entry: ModelEntry) -> dict:
    """Overrides that keep what makes a model itself (mixers, heads, tables, strides) and shrink the rest."""
    numbers = entry.arguments
    video = entry.video
    if entry.build is MViT:
        starts = (1, 2, 3)
        q_stride = dict.fromkeys(starts, (*((1,) * video), 2, 2))
        if 0 in numbers["q_stride"]:  # MViTv2 pools the query of every block
            q_stride[0] = (1,) * (3 if video else 2)
        heads = numbers.get("num_heads", 1)
        return {
            "depth": 4,
            "embed_dim": 16 * heads,
            "dim_mul": dict.fromkeys(starts, 2.0),
            "head_mul": dict.fromkeys(starts, 2.0),
            "q_stride": q_stride,
        }
    if entry.build is PoolFormer:
        return {"depths": (1, 1, 1, 1), "widths": (32, 64, 64, 96)}
    if entry.build is IFormer:
        heads, depths = numbers["attention_heads"], numbers["depths"]
        firsts = [heads[sum(depths[:stage])] for stage in range(4)]
        return {"depths": (1, 1, 1, 1), "attention_heads": firsts, "widths": [8 * n for n in numbers["num_heads"]]}
    if entry.build is MixingMobileNetV2:
        return {
            "settings": ((1, 16, 1, 1), (2, 16, 1, 2), (2, 24, 2, 2), (2, 32, 1, 2), (2, 48, 2, 2)),
            "last_features": 64,
        }
    if entry.build is MixingResNet:
        return {"depths": (1, 1, 1, 1), "width": 16}
    if entry.build is MixFormer:
        return {"depths": (1, 1, 1, 1)}
    raise ValueError(f"{entry.name}: no small size is known for {entry.build.__name__}")


def our_models(pattern: str = "*") -> list[str]:
    """Names of the registered models of this package's own families."""
    return [name for name in mvidx.list_models(pattern) if model_entry(name).build in OURS]


def small_model(name: str, **overrides) -> nn.Module:
    entry = model_entry(name)
    arguments = {"num_classes": 7, "img_size": SIDE, **({"frames": FRAMES} if entry.video else {})}
    return mvidx.create_model(name, **{**arguments, **small_arguments(entry), **overrides})


def input_shape(name: str, *, batch: int = 2, side: tuple[int, int] = (SIDE, SIDE), frames: int = FRAMES) -> tuple:
    return (batch, 3, *((frames,) if model_entry(name).video else ()), *side)
