"""How much hotter Grad-CAM is on the moving leaves of the motion dataset than on the still background between them.

    python -m tests.explain.heat_on_motion runs/motion_mvitv2_tiny/checkpoints/step_00000840.pyth [CHECKPOINT ...]

For every stage: the median over test scenes of (mean heat on the leaves / mean heat on the background), and in how many
scenes it is above 1. The scenes are drawn, not decoded, so that it is known where the leaves are.
"""

import contextlib
import io
import sys

import cv2
import numpy as np
import torch

from mvidx.data.motion_scene import CLASSES, MotionScene
from mvidx.data.sampling import uniform_view_indices
from mvidx.data.transforms import normalize
from mvidx.explain.gradcam import blocks_to_explain, grad_cam
from mvidx.inference.load import load_model
from mvidx.models.card import Preprocessing, card_of

NUM_SCENES = 192


def middle_square(pictures: np.ndarray, side: int) -> np.ndarray:
    """The middle of (T, H, W[, C]), scaled to `side`."""
    height, width = pictures.shape[1:3]
    short = min(height, width)
    top, left = (height - short) // 2, (width - short) // 2
    cut = pictures[:, top : top + short, left : left + short]
    return np.stack([cv2.resize(one, (side, side), interpolation=cv2.INTER_AREA) for one in cut])


def scene_clip(number: int, wanted: Preprocessing) -> tuple[np.ndarray, np.ndarray]:
    """A clip of a test scene, uint8 (T, S, S, 3), and what its leaves cover, float32 (T, S, S)."""
    scene = MotionScene(0, 2, number, CLASSES[number % len(CLASSES)])
    indices = uniform_view_indices(
        scene.num_frames,
        float(scene.fps),
        num_frames=wanted.num_frames,
        sampling_rate=wanted.sampling_rate,
        num_views=1,
        target_fps=wanted.target_fps,
    )[0]
    frames = np.concatenate([scene.frames(index, index + 1) for index in indices])
    cover = np.concatenate([scene.cover(index, index + 1) for index in indices])
    return middle_square(frames, wanted.crop), middle_square(cover, wanted.crop)


def main() -> None:
    for path in sys.argv[1:]:
        with contextlib.redirect_stdout(io.StringIO()):
            model = load_model(path)
        wanted = card_of(model).preprocessing
        clips, cover = map(np.stack, zip(*(scene_clip(number, wanted) for number in range(NUM_SCENES)), strict=True))
        inputs = normalize(torch.from_numpy(clips).permute(0, 4, 1, 2, 3), wanted.mean, wanted.std)
        leaves = torch.from_numpy(cover).flatten(1)
        for block in blocks_to_explain(model, None):
            found = [grad_cam(model, some, stage=block.stage) for some in inputs.split(32)]
            heat = torch.cat([one.heat for one in found]).flatten(1)
            labels = torch.arange(NUM_SCENES) % len(CLASSES)
            right = (torch.cat([one.classes for one in found]) == labels).float().mean()
            on, off = ((heat * part).sum(1) / part.sum(1) for part in (leaves, 1 - leaves))
            ratio = on / off.clamp_min(1e-6)
            print(
                f"{path}: stage {block.stage}, grid {tuple(found[0].coarse.shape[1:])}: on the leaves "
                f"{ratio.median():.2f} times as hot, hotter in {100 * (ratio > 1).float().mean():.0f}% of the scenes, "
                f"{100 * right:.1f}% recognised"
            )


if __name__ == "__main__":
    main()
