import numpy as np
import pytest
import timm
import torch
import torchvision
from torchvision.models.video.mvit import MSBlockConfig

import mvidx
from mvidx.checkpoint.files import CheckpointError
from mvidx.checkpoint.renames import SOURCES
from mvidx.checkpoint.sources import fit_tensor
from tests.models.small import small_model
from tests.oracles import TOLERANCE, difference, fill, loaded_model, oracle, randomise, write_checkpoint


def load_from(reference, model, folder, **kwargs):
    """Load another library's state dict into a model through a file."""
    torch.save(reference.state_dict(), folder / "theirs.pth")
    return mvidx.load_checkpoint(model, folder / "theirs.pth", **kwargs)


@pytest.mark.parametrize(
    ("theirs", "ours", "overrides"),
    [
        ("poolformer_s12", "poolformer_s12", {}),
        ("mvitv2_tiny", "mvitv2_t", {}),
        ("mvitv2_small_cls", "mvitv2_s", {"class_token": True}),
    ],
)
def test_timm_models_give_timms_logits(theirs, ours, overrides, tmp_path):
    reference = randomise(timm.create_model(theirs))
    model = mvidx.create_model(ours, **overrides).eval()
    report = load_from(reference, model, tmp_path)
    assert report.source.startswith("timm") and report.missing == [] and report.reshaped == {}
    x = torch.randn(1, 3, 224, 224)
    assert difference(model, reference, x) < TOLERANCE

    # What timm does otherwise must survive our own file.
    torch.save({"model": model.state_dict()}, tmp_path / "ours.pth")
    again = mvidx.create_model(ours, **overrides).eval()
    assert mvidx.load_checkpoint(again, tmp_path / "ours.pth").source == "mvidx"
    assert difference(again, model, x) == 0


def test_timm_variant_goes_with_the_next_checkpoint(tmp_path):
    """A model that held timm's weights takes the published form again with published weights."""
    model = small_model("poolformer_s12", final_norm="mean")
    published = randomise(small_model("poolformer_s12"))
    torch.save(published.state_dict(), tmp_path / "published.pth")
    mvidx.load_checkpoint(model, tmp_path / "published.pth")
    assert difference(model.eval(), published, torch.randn(1, 3, 64, 64)) == 0


def small_torchvision(version: int):
    """torchvision's MViT with the numbers of our small models: four blocks on 4 x 64 x 64."""
    blocks = []
    for index in range(4):
        channels = 16 << index
        # Version 1 widens on the way out of a block, version 2 inside it.
        widths = (channels, min(channels * 2, 128)) if version == 1 else (max(channels // 2, 16), channels)
        pools = version == 2 or index > 0
        q_stride = [1, 2, 2] if index else [1, 1, 1]
        kv_stride = [1, 8 >> index, 8 >> index]
        blocks.append(
            MSBlockConfig(
                num_heads=1 << index,
                input_channels=widths[0],
                output_channels=widths[1],
                kernel_q=[3, 3, 3] if pools else [],
                kernel_kv=[3, 3, 3],
                stride_q=q_stride if pools else [],
                stride_kv=kv_stride,
            )
        )
    return torchvision.models.video.MViT(
        spatial_size=(64, 64),
        temporal_size=4,
        block_setting=blocks,
        residual_pool=version == 2,
        residual_with_cls_embed=False,
        rel_pos_embed=version == 2,
        proj_after_attn=version == 2,
        num_classes=7,
    )


@pytest.mark.parametrize(("version", "ours"), [(1, "mvit_b_video"), (2, "mvitv2_s_video")])
def test_torchvision_models_give_torchvisions_logits(version, ours, tmp_path):
    reference = randomise(small_torchvision(version))
    model = small_model(ours).eval()
    report = load_from(reference, model, tmp_path)
    assert report.source == "torchvision MViT" and report.missing == [] and report.reshaped == {}
    assert difference(model, reference, torch.randn(2, 3, 4, 64, 64)) < TOLERANCE


@pytest.mark.long
@pytest.mark.parametrize(("theirs", "ours"), [("mvit_v1_b", "mvit_b_video"), ("mvit_v2_s", "mvitv2_s_video")])
def test_torchvision_models_of_full_size(theirs, ours, tmp_path):
    reference = randomise(torchvision.models.get_model(theirs))
    model = mvidx.create_model(ours).eval()
    load_from(reference, model, tmp_path)
    assert difference(model, reference, torch.randn(1, 3, 16, 224, 224)) < TOLERANCE


@pytest.mark.long
@pytest.mark.parametrize(
    ("theirs", "ours", "overrides"),
    [
        ("poolformer_m36", "poolformer_m36", {}),
        ("mvitv2_base", "mvitv2_b", {}),
        ("mvitv2_large", "mvitv2_l", {}),
        ("mvitv2_large_cls", "mvitv2_l", {"class_token": True, "expand_in_attention": True}),
    ],
)
def test_large_timm_models(theirs, ours, overrides, tmp_path):
    reference = randomise(timm.create_model(theirs, num_classes=10))
    model = mvidx.create_model(ours, num_classes=10, **overrides).eval()
    load_from(reference, model, tmp_path)
    assert difference(model, reference, torch.randn(1, 3, 224, 224)) < TOLERANCE


def test_paddles_lack_of_batch_counters_is_no_gap(tmp_path):
    reference = oracle("mixformer_b1")
    model = mvidx.create_model("mixformer_b1")
    report = mvidx.load_checkpoint(model, write_checkpoint(reference, tmp_path))
    assert report.source == "PaddleClas MixFormer" and report.missing == []
    assert len(report.loaded) == sum(dtype != "buffer" for *_, dtype in reference["keys"])


def test_paddle_matrices_are_transposed(tmp_path):
    reference = oracle("mixformer_b1")
    model = loaded_model(reference, tmp_path)
    theirs = fill().state_dict(reference)["layers.0.blocks.0.attn.proj_cnn.weight"]  # square: only values can tell
    assert np.array_equal(model.stages[0].blocks[0].mixer.conv_in.weight.detach().numpy(), theirs.T)


@pytest.mark.parametrize(
    "wrap",
    [
        lambda state: state,
        lambda state: {"model": state},
        lambda state: {"state_dict": state, "epoch": 3},
        lambda state: {"model_state": state, "cfg": "x"},
        lambda state: {f"module.{name}": value for name, value in state.items()},
    ],
)
def test_states_are_found_where_projects_put_them(wrap, tmp_path):
    source = randomise(small_model("iformer_s"))
    torch.save(wrap(source.state_dict()), tmp_path / "x.pth")
    model = small_model("iformer_s").eval()
    mvidx.load_checkpoint(model, tmp_path / "x.pth")
    assert difference(model, source, torch.randn(1, 3, 64, 64)) == 0


def test_a_classifier_of_another_size_is_left_out_and_reported(tmp_path, capsys):
    torch.save(small_model("poolformer_s12", num_classes=5).state_dict(), tmp_path / "x.pth")
    model = small_model("poolformer_s12")
    kept = model.head.weight.clone()
    report = mvidx.load_checkpoint(model, tmp_path / "x.pth")
    assert report.reshaped == {"head.weight": ((5, 96), (7, 96)), "head.bias": ((5,), (7,))}
    assert torch.equal(model.head.weight, kept)
    assert "head.weight" in capsys.readouterr().out


def test_tables_of_another_size_are_interpolated_and_reported(tmp_path):
    torch.save(small_model("iformer_s", img_size=96).state_dict(), tmp_path / "x.pth")
    model = small_model("iformer_s")
    report = mvidx.load_checkpoint(model, tmp_path / "x.pth")
    assert report.reshaped["stages.0.position.space"] == ((1, 24, 24, 24), (1, 16, 16, 24))
    assert set(report.reshaped) == {f"stages.{s}.position.space" for s in range(4)}


def test_a_table_over_a_turned_grid_is_interpolated_not_reread():
    """(3, 2) and (2, 3) have as many entries: reading one as the other would scramble the positions."""
    table = torch.arange(6.0).view(1, 3, 2, 1)
    fitted, resized = fit_tensor("position", table, (1, 2, 3, 1), table=True)
    assert resized and not torch.equal(fitted.flatten(), table.flatten())
    flat, resized = fit_tensor("position", table.view(6, 1), (1, 3, 2, 1), table=True)
    assert not resized and torch.equal(flat, table)


def test_what_nothing_explains_is_refused_by_name(tmp_path):
    state = small_model("iformer_s").state_dict()
    path = tmp_path / "x.pth"

    torch.save({**state, "stages.0.extra.weight": torch.zeros(3)}, path)
    with pytest.raises(CheckpointError, match=r"x\.pth.*no place in IFormer: stages\.0\.extra\.weight"):
        mvidx.load_checkpoint(small_model("iformer_s"), path)

    lacking = {name: value for name, value in state.items() if name != "stages.1.blocks.0.mixer.qkv.bias"}
    torch.save(lacking, path)
    model = small_model("iformer_s")
    with pytest.raises(CheckpointError, match=r"x\.pth.*lacks 1 tensors.*stages\.1\.blocks\.0\.mixer\.qkv\.bias"):
        mvidx.load_checkpoint(model, path)
    assert mvidx.load_checkpoint(model, path, strict=False).missing == ["stages.1.blocks.0.mixer.qkv.bias"]

    torch.save({**state, "norm.weight": torch.zeros(3)}, path)
    with pytest.raises(CheckpointError, match=r"norm\.weight has shape \(3,\) in the file and \(96,\) in the model"):
        mvidx.load_checkpoint(model, path)

    torch.save(state, path)
    with pytest.raises(CheckpointError, match=r"go through mvidx\.inflate"):
        mvidx.load_checkpoint(small_model("iformer_s_video"), path)


def test_two_tensors_for_one_place_are_refused(tmp_path):
    state = timm.create_model("poolformer_s12").state_dict()
    state["mean_norm.weight"] = state["head.norm.weight"]
    torch.save(state, tmp_path / "x.pth")
    with pytest.raises(CheckpointError, match=r"x\.pth.*both our 'mean_norm\.weight'"):
        mvidx.load_checkpoint(mvidx.create_model("poolformer_s12"), tmp_path / "x.pth")


def test_create_model_loads_a_checkpoint(tmp_path):
    source = mvidx.create_model("mixformer_b0", num_classes=5).eval()
    torch.save({"model": source.state_dict()}, tmp_path / "x.pth")
    model = mvidx.create_model("mixformer_b0", num_classes=5, checkpoint=str(tmp_path / "x.pth")).eval()
    x = torch.randn(1, 3, 32, 32)
    with torch.no_grad():
        assert torch.equal(model(x), source(x))


def test_our_own_names_are_nobody_elses():
    """A table that recognised our own files would rename what needs no renaming."""
    for name in ("poolformer_s12", "metaformer_s12", "iformer_s", "mixformer_b0", "mvitv2_s", "mvit_b_video"):
        state = small_model(name).state_dict()
        assert not [source.name for source in SOURCES if source.recognises(state)], name


def test_poolformers_ablations_number_their_stages_with_tables_between(tmp_path):
    """The published hybrids keep position tables in the same flat list as stages: what follows shifts by one."""
    model = randomise(small_model("metaformer_s12", mixers=("pooling", "pooling", "attention", "attention")))
    published = {}
    for name, value in model.state_dict().items():
        name = name.replace("stem.conv.", "patch_embed.proj.").replace(".mixer.", ".token_mixer.")
        name = name.replace(".scale", ".layer_scale_")
        for stage, place in enumerate((0, 2, 5, 7)):  # 0 blocks, 1 downsampling, 2, 3, 4 a table, 5, 6, 7
            name = name.replace(f"stages.{stage}.blocks.", f"network.{place}.")
        for stage, place in ((1, 1), (2, 3), (3, 6)):
            name = name.replace(f"stages.{stage}.downsample.conv.", f"network.{place}.proj.")
        if name == "stages.2.position.space":
            name, value = "network.4.pos_embed", value.movedim(-1, 1).contiguous()
        if ".mlp." in name and value.ndim == 2:
            value = value[:, :, None, None]
        published[name] = value
    torch.save(published, tmp_path / "x.pth")
    loaded = small_model("metaformer_s12", mixers=("pooling", "pooling", "attention", "attention")).eval()
    assert mvidx.load_checkpoint(loaded, tmp_path / "x.pth").source == "PoolFormer"
    assert difference(loaded, model, torch.randn(1, 3, 64, 64)) == 0
