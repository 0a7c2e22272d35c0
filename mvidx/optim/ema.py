"""The exponential moving average of a model's weights, as Polyak averaging is used in image recipes.

torch.optim.swa_utils does the averaging. The running statistics of batch norms are averaged too: they belong to
weights that the average has never had.
"""

from torch import nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn


def averaged_model(model: nn.Module, decay: float) -> AveragedModel:
    """A copy of `model` in which `update_parameters(model)` keeps decay * average + (1 - decay) * weights.

    The first update copies. Raises ValueError unless 0 <= decay < 1.
    """
    if not 0 <= decay < 1:
        raise ValueError(f"decay={decay}, expected at least 0 and below 1")
    average = AveragedModel(model, multi_avg_fn=get_ema_multi_avg_fn(decay), use_buffers=True)
    return average.requires_grad_(False).eval()
