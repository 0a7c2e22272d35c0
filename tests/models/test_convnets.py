import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

import mvidx
from tests.models.small import small_model


@pytest.mark.parametrize(("name", "giga"), [("resnet50_mixing", 3.9), ("mobilenetv2_mixing", 0.3)])
def test_multiply_accumulates_of_the_paper(name, giga):
    with torch.device("meta"):
        model, image = mvidx.create_model(name).eval(), torch.empty(1, 3, 224, 224)
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        model(image)
    assert counter.get_total_flops() / 2e9 == pytest.approx(giga, rel=0.03)


def test_where_the_mixing_blocks_are():
    with torch.device("meta"):
        resnet, mobile = mvidx.create_model("resnet50_mixing"), mvidx.create_model("mobilenetv2_mixing")
    bottlenecks = [block for stage in resnet.stages for block in stage.blocks]
    assert len(bottlenecks) == 16 and all(block.block.mixer.window == (7, 7) for block in bottlenecks)
    inverted = [block for stage in mobile.stages for block in stage.blocks]
    assert len(inverted) == 16 and sum(block.mixer is not None for block in inverted) == 10
    assert all((block.mixer is None) == (block.conv is not None) for block in inverted)


@pytest.mark.parametrize("name", ["resnet50_mixing", "mobilenetv2_mixing"])
def test_odd_sizes_round_up(name):
    model = small_model(name).eval()
    with torch.no_grad():
        assert model.forward_features(torch.randn(1, 3, 65, 97)).shape[1:3] == (3, 4)


def test_bad_numbers_are_refused():
    with pytest.raises(ValueError, match="expected 4"):
        small_model("mobilenetv2_mixing", settings=((1, 16, 1, 1), (2, 16, 1, 2)))
    with pytest.raises(ValueError, match=r"depths=\(1,\) has 1 entries, expected 4"):
        small_model("resnet50_mixing", depths=(1,))
    with pytest.raises(ValueError, match="channels=8, the mixing block expects"):
        small_model("resnet50_mixing", width=8)
