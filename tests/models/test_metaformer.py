import pytest
import torch

import mvidx
from mvidx.models.poolformer import MIXERS
from tests.models.small import small_model

PAPER = ("pooling", "pooling", "attention", "attention")


@pytest.mark.parametrize("name", ["metaformer_s12", "metaformer_s12_video"])
@pytest.mark.parametrize("mixer", MIXERS)
def test_every_mixer_in_every_stage(name, mixer):
    torch.manual_seed(0)
    model = small_model(name, mixers=(mixer,) * 4, widths=(64, 64, 64, 96), drop_path_rate=0.0).train()
    frames = (4,) if name.endswith("_video") else ()
    model(torch.randn(2, 3, *frames, 64, 64)).square().sum().backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in model.parameters())
    model.eval()
    with torch.no_grad():
        for size in ((96, 64), (72, 100)):  # other sizes than the one built for, in time too
            assert model(torch.randn(1, 3, *(n + 3 for n in frames), *size)).isfinite().all()
            if frames:
                assert model(torch.randn(1, 3, 1, *size)).isfinite().all()


def test_default_is_poolformer():
    with torch.device("meta"):
        ours, pooling = mvidx.create_model("metaformer_s12"), mvidx.create_model("poolformer_s12")
    assert {n: p.shape for n, p in ours.named_parameters()} == {n: p.shape for n, p in pooling.named_parameters()}


def test_hybrids_have_what_the_paper_gives_them():
    """Attention comes with LayerNorm and one position table, before the first stage that has it."""
    with torch.device("meta"):
        model = mvidx.create_model("metaformer_s12", mixers=PAPER)
        matrix = mvidx.create_model("metaformer_s12", mixers=("pooling",) * 3 + ("mlp",))
    assert [s.position is not None for s in model.stages] == [False, False, True, False]
    assert tuple(model.stages[2].position.space.shape) == (1, 14, 14, 320)
    assert isinstance(model.stages[0].blocks[0].norm1, torch.nn.LayerNorm)
    assert not isinstance(matrix.norm, torch.nn.LayerNorm)
    assert all(s.position is None for s in matrix.stages)
    assert tuple(matrix.stages[3].blocks[1].mixer.space.shape) == (49, 49)


def test_random_matrices_are_saved_and_not_trained():
    model = small_model("metaformer_s12_video", mixers=("random",) * 4)
    saved = [n for n in model.state_dict() if n.endswith((".mixer.space", ".mixer.time"))]
    assert len(saved) == 8 and not set(saved) & {n for n, _ in model.named_parameters()}
    other = small_model("metaformer_s12_video", mixers=("random",) * 4)
    assert not torch.equal(model.state_dict()[saved[0]], other.state_dict()[saved[0]])
    other.load_state_dict(model.state_dict())
    x = torch.randn(1, 3, 4, 64, 64)
    with torch.no_grad():
        assert torch.equal(model.eval()(x), other.eval()(x))


def test_bad_mixers_are_refused():
    with pytest.raises(ValueError, match="unknown mixer 'poling', did you mean 'pooling'"):
        small_model("metaformer_s12", mixers=("poling", "pooling", "pooling", "pooling"))
    with pytest.raises(ValueError, match=r"mixers=\('pooling',\) has 1 entries, expected 4"):
        small_model("metaformer_s12", mixers=("pooling",))
    with pytest.raises(ValueError, match="norm='batch', expected 'group' or 'layer'"):
        small_model("metaformer_s12", norm="batch")
    with pytest.raises(ValueError, match=r"position_stages=\(4,\)"):
        small_model("metaformer_s12", position_stages=(4,))
    with pytest.raises(ValueError, match="a stage of 72 channels does not fit, expected a multiple of 32"):
        small_model("metaformer_s12", mixers=PAPER, widths=(32, 64, 72, 96))
    with pytest.raises(ValueError, match=r"a stage of 32 channels does not fit, .* at least 64"):
        small_model("metaformer_s12", mixers=("inception",) * 4)
