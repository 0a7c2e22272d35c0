import math

import numpy as np
import pytest
import torch

from mvidx.explain.fourier import along_diagonal, branches_of, fourier_analysis, mean_spectra, spectrum
from mvidx.layers.nd import cat_channels, depthwise_on_grid, repeat_cells
from mvidx.mixers.inception import Inception
from mvidx.mixers.mixing import Mixing
from tests.models.small import input_shape, small_model


def checkerboard(height: int, width: int) -> torch.Tensor:
    """(1, H, W, 1) of 1 and -1."""
    return ((torch.arange(height)[:, None] + torch.arange(width)) % 2 * -2.0 + 1.0)[None, ..., None]


@pytest.mark.parametrize("size", [(8, 8), (8, 6)])
def test_checkerboard_on_a_constant(size):
    """Amplitudes of 0.5 at pi and 2 at 0, and nothing between."""
    found = spectrum(2.0 + 0.5 * checkerboard(*size))
    assert found.high == pytest.approx(math.log(0.5 / 2.0), abs=1e-4)
    assert found.log_amplitude[0] == 0 and found.frequencies[[0, -1]].tolist() == [0.0, 1.0]
    assert (found.log_amplitude[1:-1] < -5).all()
    assert np.unravel_index(found.plane.argmax(), found.plane.shape) == (size[0] // 2, size[1] // 2)
    assert found.time_high is None


def test_flicker_in_time():
    flicker = torch.tensor([1.0, -1.0] * 3).view(1, 6, 1, 1, 1)
    grid = (3.0 + 0.3 * flicker).expand(2, 6, 4, 4, 5)
    found = spectrum(grid)
    assert found.time_high == pytest.approx(math.log(0.3 / 3.0), abs=1e-4)
    assert found.high < -10  # constant in space


def test_white_noise_is_flat_and_its_repeated_cells_have_no_highest_frequency():
    torch.manual_seed(0)
    noise = torch.randn(8, 8, 8, 64)
    found = spectrum(noise)
    # At 0 and pi the transform of real numbers is real, between them complex: E log|.| is log(2) / 2 larger there.
    assert found.high == pytest.approx(0, abs=0.12)
    np.testing.assert_allclose(found.log_amplitude[1:-1], math.log(2) / 2, atol=0.12)
    repeated = repeat_cells(noise, (2, 2), (16, 16))
    assert spectrum(repeated).high < -8


def test_diagonal_is_interpolated_on_an_oblong_plane():
    plane = torch.arange(8.0)[:, None] + 10 * torch.arange(4.0)  # value = row + 10 * column
    frequencies, values = along_diagonal(plane)
    np.testing.assert_allclose(frequencies, np.linspace(0, 1, 5))
    np.testing.assert_allclose(values, [0, 1 + 5, 2 + 10, 3 + 15, 4 + 20])


@pytest.mark.parametrize("kernel", [(3, 3), (3, 3, 3)])
def test_branches_make_up_the_mixer(kernel):
    torch.manual_seed(0)
    grid = torch.randn(2, *(4, 6, 6)[3 - len(kernel) :], 32)
    inception = Inception(32, num_heads=4, attention_heads=2, kernel=kernel, pool=2).eval()
    branches = branches_of(inception, grid)
    assert list(branches) == ["convolution", "max pool", "attention"]
    joined = cat_channels(tuple(branches.values()))
    torch.testing.assert_close(inception.proj(joined + depthwise_on_grid(inception.fuse, joined)), inception(grid))
    mixing = Mixing(32, num_heads=4, window=(4,) * len(kernel), kernel=kernel).eval()
    branches = branches_of(mixing, grid)
    assert list(branches) == ["attention", "convolution"]
    torch.testing.assert_close(mixing.proj(torch.cat(tuple(branches.values()), -1)), mixing(grid))
    assert branches_of(torch.nn.Identity(), grid) == {}


@pytest.mark.parametrize(
    ("name", "branches"),
    [
        ("mvit_b_video", ["block"]),
        ("poolformer_s12", ["block"]),
        ("iformer_s_video", ["attention", "block", "convolution", "max pool"]),
        ("mixformer_b1", ["attention", "block", "convolution"]),
    ],
)
def test_every_block_of_a_model(name, branches):
    model = small_model(name).train()
    torch.manual_seed(0)
    clips = [torch.randn(input_shape(name)) for _ in range(2)]
    spectra = fourier_analysis(model, clips)
    assert sorted({one.branch for one in spectra}) == branches and model.training
    assert [one.depth for one in spectra if one.branch == "block"] == [1, 2, 3, 4]
    assert all(np.isfinite(one.log_amplitude).all() for one in spectra)
    assert all((one.time_high is not None) == name.endswith("video") for one in spectra)
    alone = [fourier_analysis(model, [clip])[-1] for clip in clips]
    np.testing.assert_allclose(spectra[-1].log_amplitude, mean_spectra(alone).log_amplitude, rtol=1e-5, atol=1e-5)
    np.testing.assert_allclose(mean_spectra(alone).log_amplitude, (alone[0].log_amplitude + alone[1].log_amplitude) / 2)


def test_attention_of_the_inception_mixer_is_the_low_pass():
    """Its cells are repeated after pooling: the branch has less of the highest frequency than the convolution."""
    spectra = fourier_analysis(small_model("iformer_s"), [torch.randn(2, 3, 64, 64)])
    first = {one.branch: one.high for one in spectra if one.depth == 1}
    assert first["attention"] < first["convolution"] - 5
