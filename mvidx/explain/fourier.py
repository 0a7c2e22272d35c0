"""Which spatial frequencies features hold, by depth and by branch of a mixer.

As in figure 1 and section 3 of Inception Transformer (arXiv 2205.12956), after Park and Kim (arXiv 2202.06709): the
two-dimensional Fourier transform of every channel and frame, the logarithm of its amplitude averaged over channels,
frames and clips, read along the diagonal from frequency 0 to pi, and relative to frequency 0. A branch that holds edges
and texture falls less towards pi than one that holds what changes slowly.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from mvidx.explain.places import blocks_of, evaluating, grid_in, watching
from mvidx.mixers.inception import Inception
from mvidx.mixers.mixing import Mixing
from mvidx.models.base import Backbone

WHOLE = "block"
SMALLEST = 1e-8  # below the rounding of float32; keeps the logarithm finite


@dataclass
class Spectrum:
    """Spectrum of one grid.

    Attributes:
        block: name of the block.
        depth: of the block, from 1.
        branch: "block" for what the block gives, else a branch of its mixer ("attention", "convolution", "max pool").
        frequencies: float64 (N,), 0 to 1 in units of pi, along the diagonal.
        log_amplitude: float64 (N,), natural logarithm relative to frequency 0.
        plane: float32 (H, W), logarithm of the amplitude, frequency 0 in the middle.
        time_high: the same relative logarithm at the highest frequency of time; None for images and single frames.
    """

    block: str
    depth: int
    branch: str
    frequencies: np.ndarray
    log_amplitude: np.ndarray
    plane: np.ndarray
    time_high: float | None

    @property
    def high(self) -> float:
        """Relative log-amplitude at the highest frequency."""
        return float(self.log_amplitude[-1])


def log_plane(grid: Tensor) -> Tensor:
    """Mean logarithm of the amplitude of a grid: (B, [T,] H, W, C) -> float32 (H, W), frequency 0 at [0, 0]."""
    amplitude = torch.fft.fft2(grid.float(), dim=(-3, -2)).abs()
    return (amplitude + SMALLEST).log().movedim((-3, -2), (0, 1)).flatten(2).mean(2)


def along_diagonal(plane: Tensor) -> tuple[np.ndarray, np.ndarray]:
    """(frequencies in units of pi, values) of a plane of (H, W) frequencies, from 0 to the highest of both axes.

    Between the frequencies of the grid, values are interpolated along each axis; on a square grid of even side
    none have to be.
    """
    height, width = plane.shape
    highest = [size // 2 for size in (height, width)]
    count = max(highest) + 1
    steps = np.linspace(0, 1, count)
    values = plane.double().cpu().numpy()
    columns = np.stack([np.interp(steps * highest[1], np.arange(width), row) for row in values])  # (H, N)
    read = [np.interp(step * highest[0], np.arange(height), columns[:, i]) for i, step in enumerate(steps)]
    return steps, np.array(read)


def spectrum(grid: Tensor, *, block: str = "", depth: int = 0, branch: str = WHOLE) -> Spectrum:
    """The spectrum of a grid, (B, [T,] H, W, C)."""
    plane = log_plane(grid)
    frequencies, values = along_diagonal(plane)
    time_high = None
    if grid.ndim == 5 and grid.shape[1] > 1:
        amplitude = (torch.fft.fft(grid.float(), dim=1).abs() + SMALLEST).log().mean((0, 2, 3, 4))
        time_high = float(amplitude[grid.shape[1] // 2] - amplitude[0])
    shifted = torch.fft.fftshift(plane).cpu().numpy()
    return Spectrum(block, depth, branch, frequencies, values - values[0], shifted, time_high)


def branches_of(mixer: torch.nn.Module, grid: Tensor) -> dict[str, Tensor]:
    """What the branches of a mixer make of the grid that comes in; nothing for a mixer that has no branches."""
    if isinstance(mixer, Inception):
        return dict(zip(("convolution", "max pool", "attention"), mixer.branches(grid), strict=True))
    if isinstance(mixer, Mixing):
        return dict(zip(("attention", "convolution"), mixer.branches(grid), strict=True))
    return {}


@torch.no_grad()
def fourier_analysis(model: Backbone, batches: Sequence[Tensor]) -> list[Spectrum]:
    """Spectra of every block and of its mixer's branches, in order; averaged over batches of (B, 3, [T,] H, W).

    Raises UserError for a model of another library.
    """
    blocks = blocks_of(model)
    found: dict[tuple[int, str], list[Spectrum]] = {}
    mixers = {}
    for index, block in enumerate(blocks):
        mixer = next((module for module in block.module.modules() if isinstance(module, (Inception, Mixing))), None)
        if mixer is not None:
            mixers[index] = mixer

    def add(index: int, branch: str, grid: Tensor) -> None:
        made = spectrum(grid, block=blocks[index].name, depth=index + 1, branch=branch)
        found.setdefault((index, branch), []).append(made)

    def see(index: int, inputs: tuple, output: Tensor | tuple) -> None:
        if index < len(blocks):
            add(index, WHOLE, grid_in(output))
            return
        number, mixer = list(mixers.items())[index - len(blocks)]
        for branch, grid in branches_of(mixer, inputs[0]).items():
            add(number, branch, grid)

    with evaluating(model), watching([*(block.module for block in blocks), *mixers.values()], see):
        for clips in batches:
            model(clips)
    return [mean_spectra(spectra) for _, spectra in sorted(found.items(), key=lambda item: item[0][0])]


def mean_spectra(spectra: Sequence[Spectrum]) -> Spectrum:
    """The mean of spectra of one place."""
    first = spectra[0]
    times = [one.time_high for one in spectra if one.time_high is not None]
    return Spectrum(
        first.block,
        first.depth,
        first.branch,
        first.frequencies,
        np.mean([one.log_amplitude for one in spectra], axis=0),
        np.mean([one.plane for one in spectra], axis=0),
        float(np.mean(times)) if times else None,
    )
