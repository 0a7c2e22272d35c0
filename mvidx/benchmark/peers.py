"""The same architectures in other libraries, built by their own code, and their weights in our models."""

from collections.abc import Callable, Mapping

import torch
from torch import nn

from mvidx.checkpoint.renames import recognise
from mvidx.checkpoint.sources import LoadReport, fit
from mvidx.errors import UserError

TORCHVISION = {"mvitv2_s_video": "mvit_v2_s", "mvit_b_video": "mvit_v1_b"}
PYTORCHVIDEO = {"mvit_b_video": "mvit_base_16x4"}
TIMM = {
    "mvitv2_t": "mvitv2_tiny",
    "mvitv2_s": "mvitv2_small",
    "mvitv2_b": "mvitv2_base",
    "mvitv2_l": "mvitv2_large",
    **{f"poolformer_{size}": f"poolformer_{size}" for size in ("s12", "s24", "s36", "m36", "m48")},
}


def _torchvision(name: str, size: tuple[int, ...], rates: Mapping[str, float]) -> nn.Module:
    from torchvision.models import video

    # Both are built for 16x224x224. Version 2 interpolates its tables for whatever grid it is told to expect.
    if name == "mvit_v1_b" and size != (16, 224, 224):
        raise UserError(f"torchvision's {name} takes clips of 16x224x224 alone, got {'x'.join(map(str, size))}")
    model = getattr(video, name)(
        weights=None,
        dropout=rates["head_drop_rate"],
        stochastic_depth_prob=rates["drop_path_rate"],
    )
    grid = tuple(n // stride for n, stride in zip(size, model.conv_proj.stride, strict=True))
    model.pos_encoding.temporal_size, model.pos_encoding.spatial_size = grid[0], grid[1:]
    return model


def _pytorchvideo(name: str, size: tuple[int, ...], rates: Mapping[str, float]) -> nn.Module:
    from pytorchvideo.models import hub

    return getattr(hub, name)(
        spatial_size=size[1:],
        temporal_size=size[0],
        head_activation=None,
        head_dropout_rate=rates["head_drop_rate"],
        droppath_rate_block=rates["drop_path_rate"],
    )


def _timm(name: str, size: tuple[int, ...], rates: Mapping[str, float]) -> nn.Module:
    import timm

    return timm.create_model(
        name,
        pretrained=False,
        drop_path_rate=rates["drop_path_rate"],
        drop_rate=rates["head_drop_rate"],
        **({"img_size": size} if name.startswith("mvit") else {}),
    )


LIBRARIES: dict[str, tuple[dict[str, str], Callable[..., nn.Module]]] = {
    "torchvision": (TORCHVISION, _torchvision),
    "timm": (TIMM, _timm),
    "pytorchvideo": (PYTORCHVIDEO, _pytorchvideo),
}


def peer_name(model: str, library: str) -> str:
    """What a library calls our model. Raises UserError that lists the models it has when it has not this one."""
    names = LIBRARIES[library][0]
    if model not in names:
        raise UserError(f"{library} has no model like {model!r}, expected one of {', '.join(sorted(names))}")
    return names[model]


def build_peer(model: str, library: str, size: tuple[int, ...], rates: Mapping[str, float]) -> nn.Module:
    """A library's model of the architecture of ours.

    Args:
        model: our name.
        library: a key of `LIBRARIES`.
        size: ([T,] H, W) of the input.
        rates: drop_path_rate and head_drop_rate.
    """
    return LIBRARIES[library][1](peer_name(model, library), size, rates)


@torch.no_grad()
def share_weights(ours: nn.Module, theirs: nn.Module, seed: int = 0) -> bool:
    """Draw weights for a library's model and give them to ours; False where the names of theirs are not known.

    The draw makes logits that depend on all of the model: fresh models have layers that start near zero.
    """
    generator = torch.Generator().manual_seed(seed)
    for name, parameter in theirs.named_parameters():
        if parameter.ndim > 1:
            fan_in = parameter[0].numel()
            parameter.copy_(torch.randn(parameter.shape, generator=generator) * min(fan_in**-0.5, 0.1))
        elif "layer_scale" in name:
            parameter.fill_(0.5)
    try:
        source, state = recognise(theirs.state_dict())
    except UserError:
        return False
    if hasattr(ours, "prepare_for"):
        ours.prepare_for(state)
    report = LoadReport(source)
    ours.load_state_dict(fit(state, ours, report), strict=False)
    return not report.missing and not report.unexpected
