"""Results in bfloat16, and the kernels that compute attention on a GPU."""

import pytest
import torch
from torch.nn.attention import SDPBackend, sdpa_kernel

import mvidx
from mvidx.layers import precision
from tests.models.small import input_shape, small_model
from tests.oracles import randomise

NAMES = ["mvitv2_s_video", "mvit_b_video", "mvitv2_s", "poolformer_s12", "poolformer_s12_video"]


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("has_bfloat16", [False, True])
def test_bfloat16_is_near_float32(name, has_bfloat16, monkeypatch):
    monkeypatch.setattr(precision, "CPU_HAS_BFLOAT16", has_bfloat16)
    torch.manual_seed(0)
    model = randomise(small_model(name))
    x = torch.randn(input_shape(name))
    with torch.no_grad():
        wanted = model(x)
        with torch.autocast("cpu", torch.bfloat16):
            got = model(x)
    assert got.dtype == torch.bfloat16
    error = (got.float() - wanted).abs().max() / wanted.std()
    # One pass that rounds everything on the way is less exact than one that rounds the logits alone.
    assert 0 < error < (3e-2 if not has_bfloat16 else 8e-2)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
@pytest.mark.parametrize("name", ["mvitv2_s_video", "mvit_b_video", "mvitv2_s"])
@pytest.mark.parametrize("train", [False, True])
def test_attention_on_a_gpu_is_fused(name, train):
    """With the math kernel switched off, attention that no fused kernel takes raises."""
    model = mvidx.create_model(name, num_classes=7).cuda().train(train)
    size = model.input_size
    x = torch.randn(1, 3, *size, device="cuda")
    fused = [SDPBackend.FLASH_ATTENTION, SDPBackend.EFFICIENT_ATTENTION, SDPBackend.CUDNN_ATTENTION]
    with sdpa_kernel(fused), torch.autocast("cuda", torch.bfloat16), torch.set_grad_enabled(train):
        logits = model(x)
    if train:
        logits.float().sum().backward()
    assert logits.shape == (1, 7) and logits.isfinite().all()
