"""The two-layer MLP of every transformer block here: Linear, GELU, Linear."""

from torch import Tensor, nn


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
