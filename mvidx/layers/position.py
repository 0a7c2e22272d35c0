"""Position terms: learned absolute tables, decomposed relative positions (MViTv2), window biases.

A table belongs to the size that the model was built for; at any other size it is interpolated at run
time, as the published code does (PySlowFast `slowfast/models/attention.py` and
`video_model_builder.py` at 287ec00).
"""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mvidx.layers.kept import kept
from mvidx.layers.nd import resize_grid


@kept
def relative_distance(q_size: int, k_size: int, device: torch.device | str = "cpu") -> Tensor:
    """Row of the relative table for each pair of positions along one axis, int64 (q_size, k_size).

    With unequal sizes the shorter axis is stretched over the longer one, and distances that fall between
    two rows are rounded down (MViTv2, arXiv 2112.01526, section 4.1). Rows go from 0 to
    2 * max(q_size, k_size) - 2.
    """
    q_step = max(k_size / q_size, 1.0)
    k_step = max(q_size / k_size, 1.0)
    q = torch.arange(q_size, device=device)[:, None] * q_step
    k = torch.arange(k_size, device=device)[None, :] * k_step
    return (q - k + (k_size - 1) * k_step).long()


def gather_relative(table: Tensor, q_size: int, k_size: int) -> Tensor:
    """Relative position vectors of every pair along one axis.

    Args:
        table: (rows, C), interpolated to 2 * max(q_size, k_size) - 1 rows when it has another number.

    Returns:
        (q_size, k_size, C).
    """
    rows = 2 * max(q_size, k_size) - 1
    if len(table) != rows:
        table = resize_grid(table[None], (rows,))[0]
    return F.embedding(relative_distance(q_size, k_size, table.device), table)


class RelativePosition(nn.Module):
    """Decomposed relative positions of one attention layer: one table an axis.

    Args:
        sizes: per axis, ([T,] H, W), the larger of the query's and the key's length at the default input
            size; its table has 2 * size - 1 rows. None for an axis without a table.
        head_dim: channels of a head.
    """

    def __init__(self, sizes: Sequence[int | None], head_dim: int):
        super().__init__()
        self.axes = ("t", "h", "w")[-len(sizes) :]
        for axis, size in zip(self.axes, sizes, strict=True):
            if size is None:
                self.register_parameter(axis, None)
                continue
            table = nn.Parameter(torch.empty(2 * size - 1, head_dim))
            nn.init.trunc_normal_(table, std=0.02)
            self.register_parameter(axis, table)

    def forward(self, q_size: Sequence[int], k_size: Sequence[int]) -> list[Tensor | None]:
        """Vectors (q, k, C) of every axis, None without a table, for query and key grids of these sizes."""
        tables = [getattr(self, axis) for axis in self.axes]
        return [
            None if table is None else gather_relative(table, q, k)
            for table, q, k in zip(tables, q_size, k_size, strict=True)
        ]


class AbsolutePosition(nn.Module):
    """A learned table, (1, *size, C), added to a grid; separate tables for space and time on request.

    Args:
        size: the grid's size at the default input, ([T,] H, W).
        channels: C.
        separate_time: keep one table over (H, W) and one over T, and add both (MViTv1 on video).
    """

    def __init__(self, size: Sequence[int], channels: int, *, separate_time: bool = False):
        super().__init__()
        size = tuple(size)
        if separate_time:
            self.space = nn.Parameter(torch.empty(1, *size[1:], channels))
            self.time = nn.Parameter(torch.empty(1, size[0], channels))
        else:
            self.space = nn.Parameter(torch.empty(1, *size, channels))
            self.time = None
        for table in self.parameters():
            nn.init.trunc_normal_(table, std=0.02)

    def forward(self, grid: Tensor) -> Tensor:  # (B, [T,] H, W, C) -> the same
        """Add the table, interpolated when the grid has another size.

        Interpolating the sum of a table over space and one over time is the same as interpolating each.
        """
        size = grid.shape[1:-1]
        if self.time is None:
            return grid + resize_grid(self.space, size)
        space = resize_grid(self.space, size[1:])
        time = resize_grid(self.time, size[:1])
        return grid + (space[:, None] + time[:, :, None, None])


def window_offsets(
    window: Sequence[int], table_window: Sequence[int], device: torch.device | str | None = None
) -> Tensor:
    """Row of a flattened window-bias table for every pair of positions of a window.

    Args:
        window: positions along each axis, none more than in `table_window`.
        table_window: the window that the table was made for; it has 2 * n - 1 entries an axis.
        device: of the result; the default device if None.

    Returns:
        int64, (N, N) with N = prod(window).
    """
    index = torch.zeros((), dtype=torch.int64, device=device)
    for axis, (n, table_n) in enumerate(zip(window, table_window, strict=True)):
        places = torch.arange(n, device=device)
        place = places.view([n if a == axis else 1 for a in range(len(window))]).expand(*window).flatten()
        offset = place[:, None] - place[None, :] + table_n - 1
        index = index * (2 * table_n - 1) + offset
    return index


_kept_offsets = kept(window_offsets)


class WindowBias(nn.Module):
    """A learned bias for every offset between two positions of a window and every head (Swin, arXiv 2103.14030).

    Args:
        window: positions along each axis, ([t,] h, w).
        num_heads: attention heads.
    """

    def __init__(self, window: Sequence[int], num_heads: int):
        super().__init__()
        self.window = tuple(window)
        self.table = nn.Parameter(torch.empty(1, *(2 * n - 1 for n in window), num_heads))
        nn.init.trunc_normal_(self.table, std=0.02)
        self.register_buffer("offsets", window_offsets(self.window, self.window), persistent=False)

    def forward(self, window: Sequence[int]) -> Tensor:
        """Bias of a window of this size, at most the one built for: (1, heads, N, N)."""
        window = tuple(window)
        offsets = self.offsets
        if window != self.window:
            offsets = _kept_offsets(window, self.window, self.table.device)
        by_head = self.table.flatten(0, -2).t().contiguous()  # entries of a head side by side: quicker both ways
        index = offsets.flatten().expand(len(by_head), -1)
        return by_head.gather(1, index).unflatten(1, offsets.shape).unsqueeze(0)
