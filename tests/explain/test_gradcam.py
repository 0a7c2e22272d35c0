import numpy as np
import pytest
import torch
import torch.nn.functional as F

import mvidx
from mvidx.data.motion_scene import MotionScene
from mvidx.data.transforms import normalize
from mvidx.errors import UserError
from mvidx.explain.gradcam import grad_cam, upsampled
from mvidx.explain.places import block_grids, blocks_of
from tests.models.small import input_shape, our_models, small_model

FAMILIES = [
    *("mvitv2_s", "mvitv2_s_video", "mvit_b_video", "poolformer_s12", "poolformer_s12_video"),
    *("iformer_s", "iformer_s_video", "mixformer_b1", "mixformer_b1_video", "metaformer_s12_video"),
]


def clips_for(name: str, batch: int = 2) -> torch.Tensor:
    torch.manual_seed(0)
    return torch.randn(input_shape(name, batch=batch))


def reference(grid: torch.Tensor, head, label: int, method: str) -> torch.Tensor:
    """Grad-CAM of one last grid, (*S, C), channel by channel from the definition: (*S)."""
    grid = grid.clone().requires_grad_()
    (gradient,) = torch.autograd.grad(head(grid[None])[0, label], grid)
    total = torch.zeros(grid.shape[:-1])
    for channel in range(grid.shape[-1]):
        slope = gradient[..., channel]
        weight = slope.mean() if method == "gradcam" else slope.clamp(min=0)
        total += weight * grid[..., channel].detach()
    return total.clamp(min=0)


@pytest.mark.parametrize("method", ["gradcam", "layercam"])
@pytest.mark.parametrize("name", ["poolformer_s12", "iformer_s_video", "mixformer_b1_video", "mvitv2_s"])
def test_is_the_definition(name, method):
    """The grid of the last block, and the head written down by hand."""
    model = small_model(name).eval()
    clips, labels = clips_for(name), torch.tensor([3, 5])
    found = grad_cam(model, clips, classes=labels, stage=4, method=method)
    last = model.forward_pyramid(clips)[-1].detach()

    def head(grid):
        features = model.norm(grid)
        if hasattr(model, "last_proj"):
            features = F.gelu(model.last_proj(features))
        return model.head(features.flatten(1, -2).mean(1))

    torch.testing.assert_close(found.logits, model(clips).detach())
    for number, label in enumerate(labels):
        wanted = reference(last[number], head, int(label), method)
        torch.testing.assert_close(found.coarse[number], wanted, atol=1e-6, rtol=1e-4)


@pytest.mark.parametrize("name", FAMILIES)
def test_every_family_in_space_and_time(name):
    model = small_model(name).train()
    clips = clips_for(name)
    found = grad_cam(model, clips)
    assert found.heat.shape == (2, *clips.shape[2:]) and found.heat.dtype == torch.float32
    assert found.heat.min() >= 0 and torch.equal(found.classes, found.logits.argmax(1))
    for stage in sorted({block.stage for block in blocks_of(model)})[:-1]:
        one = grad_cam(model, clips, stage=stage, method="layercam")
        torch.testing.assert_close(one.heat.flatten(1).amax(1), torch.ones(2))  # there is something to see everywhere
    assert model.training and all(p.requires_grad and p.grad is None for p in model.parameters())


def test_clips_of_a_batch_do_not_see_each_other():
    model = small_model("poolformer_s12_video")
    clips = clips_for("poolformer_s12_video", batch=3)
    together = grad_cam(model, clips, stage=2)
    alone = grad_cam(model, clips[1:2], classes=together.classes[1:2], stage=2)
    torch.testing.assert_close(together.heat[1:2], alone.heat, atol=1e-5, rtol=1e-4)


def test_a_class_token_does_not_see_the_last_grid():
    found = grad_cam(small_model("mvit_b_video"), clips_for("mvit_b_video"), stage=3)
    assert found.block == "blocks.2"
    with pytest.raises(UserError, match="stage 4, expected one of 1, 2, 3"):
        grad_cam(small_model("mvit_b_video"), clips_for("mvit_b_video"), stage=4)


def test_by_default_the_last_grid_that_is_not_too_coarse():
    model, clips = small_model("poolformer_s12"), clips_for("poolformer_s12")
    sizes = [grid.shape[1] for grid in block_grids(model, clips, blocks_of(model))]
    assert sizes == [16, 8, 4, 2]
    assert grad_cam(model, clips).coarse.shape == (2, 4, 4)


def test_upsampling_is_linear_between_the_middles_of_cells():
    heat = upsampled(torch.tensor([[[0.0, 1.0]]]), (1, 4))
    assert heat.tolist() == [[[0.0, 0.25, 0.75, 1.0]]]


def test_bad_arguments():
    model, clips = small_model("poolformer_s12"), clips_for("poolformer_s12")
    with pytest.raises(UserError, match="stage 5, expected one of 1, 2, 3, 4"):
        grad_cam(model, clips, stage=5)
    with pytest.raises(UserError, match="method 'x', expected one of gradcam, layercam"):
        grad_cam(model, clips, method="x")
    with pytest.raises(UserError, match="Linear can't be looked into"):
        blocks_of(torch.nn.Linear(1, 1))


def test_all_our_models_have_blocks():
    for name in our_models("*"):
        with torch.device("meta"):
            blocks = blocks_of(small_model(name))
        assert blocks[0].stage == 1 and {block.stage for block in blocks} == {1, 2, 3, 4}


# ---------------------------------------------------------------------------- a trained model

SIDE, FRAMES, MOTIONS = 48, 4, ("left", "right")


def rendered(count: int, first: int) -> np.ndarray:
    """Scenes of the motion dataset, small and square: uint8 (count, FRAMES, SIDE, SIDE, 3); labels alternate."""
    import cv2

    clips = []
    for number in range(count):
        scene = MotionScene(0, 0, first + number, MOTIONS[number % 2])
        step = 2 * float(scene.fps) / 30
        frames = [scene.frames(int(i * step), int(i * step) + 1)[0] for i in range(FRAMES)]
        side = min(scene.height, scene.width)
        clips.append([cv2.resize(f[:side, :side], (SIDE, SIDE), interpolation=cv2.INTER_AREA) for f in frames])
    return np.array(clips)


def half_moving(bank: np.ndarray, numbers: np.ndarray, rng: np.random.Generator):
    """Clips whose one half moves, before a still picture of another scene in the other half.

    Returns:
        float32 (B, 3, FRAMES, SIDE, SIDE), and bool (B, SIDE, SIDE), where it moves.
    """
    half, whole = SIDE // 2, slice(None)
    halves = [(whole, slice(half)), (whole, slice(half, None)), (slice(half), whole), (slice(half, None), whole)]
    clips, moving = [], np.zeros((len(numbers), SIDE, SIDE), bool)
    for place, number in enumerate(numbers):
        still = np.roll(bank[rng.integers(len(bank)), 0], tuple(rng.integers(0, SIDE, 2)), (0, 1))
        content = bank[number][:, ::-1] if rng.random() < 0.5 else bank[number]
        moving[(place, *halves[rng.integers(4)])] = True
        clips.append(np.where(moving[place][None, ..., None], content, still))
    return normalize(torch.from_numpy(np.array(clips)).permute(0, 4, 1, 2, 3), (0.45,) * 3, (0.225,) * 3), moving


def trained(model: torch.nn.Module, *, steps: int, learning_rate: float) -> torch.nn.Module:
    bank, rng = rendered(240, 0), np.random.default_rng(0)
    optimizer = torch.optim.AdamW(model.parameters(), lr=learning_rate, weight_decay=0.02)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, learning_rate, total_steps=steps, pct_start=0.2)
    model.train()
    for _ in range(steps):
        numbers = rng.integers(0, len(bank), 16)
        clips, _ = half_moving(bank, numbers, rng)
        loss = F.cross_entropy(model(clips), torch.from_numpy(numbers % 2))
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        schedule.step()
    return model.eval()


def heat_where_it_moves(model: torch.nn.Module, **options) -> tuple[float, np.ndarray]:
    """(accuracy on unseen scenes, the share of each clip's heat that lies on the half that moves)."""
    bank, numbers = rendered(32, 9000), np.arange(64) % 32
    clips, moving = half_moving(bank, numbers, np.random.default_rng(1))
    found = grad_cam(model, clips, **options)
    heat = found.heat.mean(1).numpy()
    share = (heat * moving).sum((1, 2)) / np.maximum(heat.sum((1, 2)), 1e-9)
    return float((found.logits.argmax(1).numpy() == numbers % 2).mean()), share


def made(name: str, **arguments) -> torch.nn.Module:
    torch.manual_seed(0)
    size = {"num_classes": 2, "img_size": SIDE, "frames": FRAMES, "drop_path_rate": 0.0}
    return mvidx.create_model(name, **size, **arguments)


MIXFORMER = {"depths": (1, 1, 1, 1), "embed_dim": 16, "window": (4, 4, 4), "last_features": 64}


def test_heat_lies_on_what_moves():
    model = trained(made("mixformer_b1_video", **MIXFORMER), steps=180, learning_rate=2e-3)
    accuracy, share = heat_where_it_moves(model)
    assert accuracy > 0.85
    assert share.mean() > 0.57 and (share > 0.5).mean() > 0.75  # half of the picture moves: chance is 0.5


@pytest.mark.long
@pytest.mark.parametrize(
    ("name", "arguments", "steps", "learning_rate", "options"),
    [
        ("mixformer_b1_video", MIXFORMER, 300, 2e-3, {}),
        (
            "mvitv2_s_video",
            {
                "class_token": False,
                "depth": 3,
                "embed_dim": 32,
                "num_heads": 1,
                "dim_mul": {1: 2.0},
                "head_mul": {1: 2.0},
                "q_stride": {0: (1, 1, 1), 1: (1, 2, 2), 2: (1, 1, 1)},
                "kv_stride": (1, 2, 2),
                "patch_kernel": (3, 8, 8),
                "patch_stride": (2, 8, 8),
                "patch_padding": (1, 0, 0),
            },
            500,
            1e-3,
            {"stage": 2},
        ),
        (
            "poolformer_s12_video",
            {"depths": (1, 1, 1, 1), "widths": (32, 48, 64, 64), "layer_scale": 1.0},
            1200,
            1e-3,
            {},
        ),
    ],
    ids=["mixformer", "mvit", "poolformer"],
)
def test_heat_of_other_families_lies_on_what_moves(name, arguments, steps, learning_rate, options):
    """Prints what it finds (-s): minutes of training for each family."""
    model = trained(made(name, **arguments), steps=steps, learning_rate=learning_rate)
    accuracy, share = heat_where_it_moves(model, **options)
    print(f"{name}: accuracy {accuracy:.3f}, heat on the moving half {share.mean():.3f}, most of it there in "
          f"{(share > 0.5).mean():.3f} of the clips")  # fmt: skip
    assert accuracy > 0.9
    assert share.mean() > 0.52 and (share > 0.5).mean() > 0.55
