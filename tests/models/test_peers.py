"""pytorchvideo's and torchvision's models under our interface, against the libraries' own."""

import subprocess
import sys

import pytest
import torch

import mvidx
from mvidx.models.peers import Peer
from mvidx.models.registry import model_entry

NAMES = [name for name in mvidx.list_models() if name.startswith(("ptv_", "tv_"))]
# name, arguments that make it small, clip (T, H, W), the library's own builder
SMALL = [
    ("ptv_x3d_xs", {}, (4, 64, 64)),
    ("ptv_slowfast_r50", {}, (8, 64, 64)),
    ("ptv_mvit_b_16x4", {"frames": 4, "img_size": 64}, (4, 64, 64)),
    ("tv_r3d_18", {}, (4, 32, 32)),
    ("tv_s3d", {}, (8, 64, 64)),
    ("tv_swin3d_t", {}, (4, 64, 64)),
    ("tv_mvit_v2_s", {}, (4, 64, 64)),
]


def library_logits(name: str, state: dict, clip: torch.Tensor) -> torch.Tensor:
    """What the library's own model gives in eval mode, without its softmax."""
    if name.startswith("tv_"):
        from torchvision.models import video

        model = getattr(video, name.removeprefix("tv_"))(weights=None)
        if name == "tv_s3d":
            model.avgpool = torch.nn.AvgPool3d((1, 2, 2), stride=1)  # theirs is larger than the grid of this clip
        if name == "tv_mvit_v2_s":  # its relative positions are interpolated, its grid is not measured
            model.pos_encoding.temporal_size, model.pos_encoding.spatial_size = 2, (16, 16)
        inputs = clip
    else:
        from pytorchvideo.models import hub

        frames, side = clip.shape[2], clip.shape[3]
        if name == "ptv_x3d_xs":
            from pytorchvideo.models.x3d import create_x3d

            model = create_x3d(input_clip_length=frames, input_crop_size=side, head_activation=None)
            inputs = clip
        elif name == "ptv_slowfast_r50":
            model = hub.slowfast_r50(head_pool_kernel_sizes=((frames // 4, 2, 2), (frames, 2, 2)))
            kept = torch.linspace(0, frames - 1, frames // 4).long()
            inputs = [clip[:, :, kept], clip]
        else:
            model = hub.mvit_base_16x4(spatial_size=side, temporal_size=frames)
            inputs = clip
    model.load_state_dict(state)
    with torch.no_grad():
        return model.eval()(inputs)


def original_state(model: Peer) -> dict:
    """The state of a peer under the library's names."""
    state = {}
    for name, value in model.state_dict().items():
        if name.startswith("head."):
            name = f"{model.classifier}.{name.removeprefix('head.')}"
            if model.classifier == "classifier.1" and value.ndim == 2:  # a 1x1x1 convolution
                value = value[..., None, None, None]
        state[name.removeprefix("inner.")] = value
    return state


@pytest.mark.parametrize(("name", "arguments", "size"), SMALL)
def test_logits_and_checkpoints_are_the_librarys(name, arguments, size, tmp_path, capsys):
    torch.manual_seed(0)
    model = mvidx.create_model(name, **arguments).eval()
    for module in model.modules():
        if isinstance(module, torch.nn.BatchNorm3d):  # statistics as after training
            module.running_mean.normal_(std=0.1)
            module.running_var.uniform_(0.5, 1.5)
    state = original_state(model)
    clip = torch.randn(1, 3, *size)
    expected = library_logits(name, state, clip)

    torch.save({"model_state": state}, tmp_path / "theirs.pyth")
    other = mvidx.create_model(name, **arguments).eval()
    report = mvidx.load_checkpoint(other, tmp_path / "theirs.pyth")
    assert report.source == model.library and not report.missing and not report.reshaped
    with torch.no_grad():
        assert torch.allclose(other(clip), expected, atol=1e-4, rtol=1e-4)
        grid = other.forward_features(clip)
    assert grid.ndim == 5 and grid.isfinite().all()

    torch.save({"model": model.state_dict()}, tmp_path / "ours.pth")
    assert mvidx.load_checkpoint(other, tmp_path / "ours.pth").source == "mvidx"


@pytest.mark.parametrize("name", ["ptv_x3d_xs", "ptv_slowfast_r50", "tv_r3d_18", "tv_s3d", "tv_swin3d_t"])
def test_training_and_activation_checkpointing(name):
    torch.manual_seed(0)
    model = mvidx.create_model(name, num_classes=5, head_drop_rate=0.0).train()
    clip = torch.randn(2, 3, 8 if name == "tv_s3d" else 4, 48, 64)
    results = []
    for enable in (False, True):
        model.set_grad_checkpointing(enable)
        model.zero_grad()
        torch.manual_seed(1)
        logits = model(clip)
        assert logits.shape == (2, 5)
        logits.square().sum().backward()
        results.append({n: p.grad.clone() for n, p in model.named_parameters() if p.grad is not None})
    assert results[0].keys() == results[1].keys() == {n for n, _ in model.named_parameters()}
    for parameter, grad in results[0].items():
        assert torch.allclose(grad, results[1][parameter], atol=1e-4, rtol=1e-2), parameter


@pytest.mark.parametrize("name", NAMES)
def test_every_peer_builds_with_the_interface(name):
    with torch.device("meta"):
        model = mvidx.create_model(name, num_classes=11, head_drop_rate=0.3)
    assert model_entry(name).video and model.head.out_features == 11
    assert any(getattr(module, "p", 0) == 0.3 for module in model.modules())
    groups = list(model.layer_groups())
    for parameter, _ in model.named_parameters():
        owners = [g for g, _ in groups if parameter == g or parameter.startswith(g + ".")]
        assert len(owners) == 1, f"{parameter} belongs to {owners}"
    depths = [depth for _, depth in groups]
    assert depths == sorted(depths) and set(depths) == set(range(max(depths) + 1))
    assert model.no_weight_decay() <= {n for n, _ in model.named_parameters()}
    model.reset_classifier(3)
    assert model.head.out_features == 3
    model.reset_classifier(0)
    with pytest.raises(ValueError, match="expected"):
        model(torch.zeros(1, 3, 8, 8, device="meta"))
    with pytest.raises(ValueError, match="too small"), torch.device("meta"):
        mvidx.create_model(name, img_size=8)


def test_sizes_that_a_peer_can_not_take_are_refused():
    with pytest.raises(ValueError, match="frames=6, SlowFast expects a multiple of 4"):
        mvidx.create_model("ptv_slowfast_r50", frames=6)
    with pytest.raises(ValueError, match="clips of"):
        mvidx.create_model("tv_mvit_v1_b", img_size=160)
    with pytest.raises(ValueError, match="frames=4, S3D expects 8 or more"):
        mvidx.create_model("tv_s3d", frames=4)
    with torch.device("meta"), pytest.raises(ValueError, match="4 frames, expected 8 or more"):
        mvidx.create_model("tv_s3d")(torch.zeros(1, 3, 4, 64, 64))
    with torch.device("meta"):
        slowfast, mvit = (mvidx.create_model(name) for name in ("ptv_slowfast_r50", "ptv_mvit_b_16x4"))
    with pytest.raises(ValueError, match="multiple of 4"):
        slowfast(torch.zeros(1, 3, 6, 64, 64, device="meta"))
    with pytest.raises(ValueError, match="position tables"):
        mvit(torch.zeros(1, 3, 8, 224, 224, device="meta"))
    with pytest.raises(ValueError, match="did you mean 'frames'"):
        mvidx.create_model("tv_s3d", frame=6)


def test_another_classifier_is_left_out(tmp_path, capsys):
    torch.save(original_state(mvidx.create_model("tv_r3d_18")), tmp_path / "k400.pth")
    report = mvidx.load_checkpoint(mvidx.create_model("tv_r3d_18", num_classes=8), tmp_path / "k400.pth")
    assert set(report.reshaped) == {"head.weight", "head.bias"}


def test_building_one_leaves_decord_alone():
    code = (
        "import sys, mvidx; mvidx.list_models(); early = 'pytorchvideo' in sys.modules;"
        "mvidx.create_model('ptv_x3d_xs'); print(early, 'decord' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-W", "ignore", "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["False", "False"]
