"""The two-layer MLP of every transformer block here: Linear, GELU, Linear."""

from torch import Tensor, nn

from mvidx.layers.eager import eager_on_cpu, is_plain


class Mlp(nn.Module):
    """Linear, GELU, Linear on the last axis, with dropout after each Linear.

    Args:
        in_features: channels that come in.
        hidden_features: channels between the two layers.
        out_features: channels that go out; as many as come in by default.
        drop_rate: dropout probability.
    """

    def __init__(
        self, in_features: int, hidden_features: int, out_features: int | None = None, *, drop_rate: float = 0.0
    ):
        super().__init__()
        self.fc1 = nn.Linear(in_features, hidden_features)
        self.act = nn.GELU()
        self.fc2 = nn.Linear(hidden_features, out_features or in_features)
        self.drop = nn.Dropout(drop_rate)

    def forward(self, x: Tensor) -> Tensor:  # (..., in) -> (..., out)
        return self.drop(self.fc2(self.drop(self.act(self.fc1(x)))))

    def may_be_lean(self, x: Tensor, norm: nn.Module, *linears: nn.Module) -> bool:
        """Whether `residual_mlp` may compute this MLP, a norm before it and a projection beside it, of `x`.

        That bypasses the modules: they must be what they were built as, with nobody listening to their calls.
        """
        linears = (self.fc1, self.fc2, *linears)
        return (
            eager_on_cpu(x)
            and is_plain(self, Mlp)
            and is_plain(norm, type(norm))
            and is_plain(self.act, nn.GELU)
            and all(is_plain(linear, nn.Linear) and linear.bias is not None for linear in linears)
            and not (self.training and self.drop.p > 0)
        )
