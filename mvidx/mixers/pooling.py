"""Pooling as a token mixer: PoolFormer (arXiv 2111.11418), the mean of a neighbourhood minus the position itself.

Published in sail-sg/poolformer (`models/poolformer.py` at a075575). Deviations: none in the numbers.
"""

from collections.abc import Sequence

from torch import Tensor, nn

from mvidx.layers.nd import avg_pool, check_kernel


class Pooling(nn.Module):
    """Mean over a neighbourhood minus the input; positions outside the grid do not count.

    Args:
        kernel: neighbourhood, ([t,] h, w), odd numbers. Its length says 2-D or 3-D.

    Raises:
        ValueError: the kernel has another number of entries than 2 or 3, or an even one.
    """

    def __init__(self, kernel: Sequence[int] = (3, 3)):
        super().__init__()
        self.kernel = check_kernel(kernel, "kernel")

    def forward(self, grid: Tensor) -> Tensor:  # (B, [T,] H, W, C) -> the same
        ones = (1,) * len(self.kernel)
        return avg_pool(grid, self.kernel, ones, tuple(k // 2 for k in self.kernel)) - grid

    def extra_repr(self) -> str:
        return f"kernel={self.kernel}"
