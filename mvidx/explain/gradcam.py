"""Where in space and time a class is seen: Grad-CAM (arXiv 1610.02391) and LayerCAM (10.1109/TIP.2021.3089943).

Both weight the channels of a grid inside the model by the gradient of the class's logit. Grad-CAM takes the mean of the
gradient over all positions, which suits the last, coarse grid. LayerCAM takes the positive gradient of each position
for itself, which stays sharp on the finer grids of earlier stages.

The libraries for this (pytorch-grad-cam, Captum) want channels first and one tensor out of every layer; grids here
are channels last, and MViT's blocks pass a class token beside them.
"""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from mvidx.errors import UserError
from mvidx.explain.places import Block, blocks_of, carries_token, evaluating, grid_in, watching
from mvidx.models.base import Backbone

METHODS = ("gradcam", "layercam")
SMALLEST_SIDE = 4
"""Positions along a side of a grid that can still say where something is. Small inputs leave 2 in the last stage."""


@dataclass
class HeatMap:
    """Grad-CAM of a batch.

    Attributes:
        heat: float32 (B, [T,] H, W) at the size of the input, from 0 to 1 (the hottest place of each clip).
        coarse: float32 (B, [T',] H', W'), the same at the size of the grid, not scaled.
        classes: int64 (B,), what it is about.
        logits: (B, classes).
        block: name of the block whose grid was taken.
    """

    heat: Tensor
    coarse: Tensor
    classes: Tensor
    logits: Tensor
    block: str


def upsampled(coarse: Tensor, size: tuple[int, ...]) -> Tensor:
    """(B, [T',] H', W') -> (B, *size), linearly."""
    mode = "trilinear" if len(size) == 3 else "bilinear"
    return F.interpolate(coarse[:, None], size=size, mode=mode, align_corners=False)[:, 0]


def blocks_to_explain(model: Backbone, stage: int | None) -> list[Block]:
    """The last block of each stage, or of one, of the blocks that the classifier still sees.

    A class token does not see the grid that the last block makes. Raises UserError for a stage that there is not.
    """
    blocks = blocks_of(model)
    seen = blocks[:-1] if carries_token(model) and len(blocks) > 1 else blocks
    last = {block.stage: block for block in seen}
    if stage is not None and stage not in last:
        raise UserError(f"stage {stage}, expected one of {', '.join(map(str, last))}")
    return list(last.values()) if stage is None else [last[stage]]


def grad_cam(
    model: Backbone,
    clips: Tensor,
    *,
    classes: Tensor | None = None,
    stage: int | None = None,
    method: str = "gradcam",
) -> HeatMap:
    """Heat maps of clips or images.

    Args:
        model: of one of this package's families; runs in eval mode and keeps no gradient.
        clips: what the model takes, (B, 3, [T,] H, W).
        classes: int64 (B,), whose logits are explained; by default the likeliest.
        stage: whose last grid is taken, from 1; by default the last with SMALLEST_SIDE positions along each side.
        method: "gradcam" or "layercam".

    Raises:
        UserError: an unknown method, a stage that the model does not have, or a model of another library.
    """
    if method not in METHODS:
        raise UserError(f"method {method!r}, expected one of {', '.join(METHODS)}")
    blocks = blocks_to_explain(model, stage)
    grids: list[Tensor] = []

    def see(_: int, __: tuple, output: Tensor | tuple) -> None:
        grid = grid_in(output)
        grids.append(grid if grid.requires_grad else grid.requires_grad_())

    parameters = [parameter for parameter in model.parameters() if parameter.requires_grad]
    with evaluating(model), torch.enable_grad(), watching([block.module for block in blocks], see):
        for parameter in parameters:  # only the gradient of the grid is wanted
            parameter.requires_grad_(False)
        try:
            logits = model(clips)
            classes = logits.argmax(1) if classes is None else classes
            chosen = logits.gather(1, classes[:, None]).sum()
            fine = [number for number, grid in enumerate(grids) if min(grid.shape[-3:-1]) >= SMALLEST_SIDE]
            number = fine[-1] if fine else 0
            (gradient,) = torch.autograd.grad(chosen, grids[number])
        finally:
            for parameter in parameters:
                parameter.requires_grad_(True)

    grid, gradient = grids[number].detach().float(), gradient.float()
    if method == "gradcam":
        weights = gradient.flatten(1, -2).mean(1).view(len(grid), *[1] * (grid.ndim - 2), -1)
    else:
        weights = gradient.relu()
    coarse = (weights * grid).sum(-1).relu()  # (B, [T',] H', W')
    heat = upsampled(coarse, tuple(clips.shape[2:]))
    heat = heat / heat.flatten(1).amax(1).clamp_min(1e-12).view(-1, *[1] * (heat.ndim - 1))
    return HeatMap(heat, coarse, classes, logits.detach(), blocks[number].name)
