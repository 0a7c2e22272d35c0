"""Parameter groups: which parameters decay, and how the learning rate falls with depth."""

from collections.abc import Iterable

from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm


def parameter_groups(
    model: nn.Module,
    *,
    weight_decay: float,
    exempt_vectors: bool = False,
    exempt_names: Iterable[str] = (),
    layer_decay: float = 1.0,
    batch_norm_decay: float | None = None,
    backbone_lr_scale: float = 1.0,
) -> list[dict]:
    """Groups for an optimizer, each with `lr_scale`, a factor that the schedule's learning rate is multiplied by.

    Args:
        model: parameters without gradient are left out.
        weight_decay: for all that is not exempt.
        exempt_vectors: no weight decay for parameters of one axis: biases, norms (PySlowFast's
            SOLVER.ZERO_WD_1D_PARAM).
        exempt_names: no weight decay for these parameters either (position tables, tokens).
        layer_decay: learning rate of a layer over that of the next deeper one (BEiT, arXiv 2106.08254); the
            model's `layer_groups` says which layer a parameter belongs to, the head has factor 1.
        batch_norm_decay: weight decay of batch norms' parameters; None: as all others.
        backbone_lr_scale: factor on the learning rate of all parameters but the head's.

    Returns:
        Dicts of params, weight_decay, lr_scale and names.
    """
    exempt_names = set(exempt_names)
    depths = dict(model.layer_groups()) if layer_decay != 1.0 else {}
    deepest = max(depths.values(), default=0)
    norms = {
        f"{prefix}.{name}" if prefix else name
        for prefix, module in model.named_modules()
        if isinstance(module, _BatchNorm)
        for name, _ in module.named_parameters(recurse=False)
    }
    groups: dict[tuple[float, float], dict] = {}
    for name, parameter in model.named_parameters():
        if not parameter.requires_grad:
            continue
        exempt = (exempt_vectors and parameter.ndim <= 1) or name in exempt_names
        scale = layer_decay ** (deepest - _depth(name, depths)) if depths else 1.0
        if not name.startswith("head."):
            scale *= backbone_lr_scale
        decay = batch_norm_decay if name in norms and batch_norm_decay is not None else weight_decay
        key = (0.0 if exempt else decay, scale)
        group = groups.setdefault(key, {"params": [], "weight_decay": key[0], "lr_scale": scale, "names": []})
        group["params"].append(parameter)
        group["names"].append(name)
    return list(groups.values())


def _depth(name: str, depths: dict[str, int]) -> int:
    prefix = name
    while prefix not in depths:
        prefix, dot, _ = prefix.rpartition(".")
        if not dot:
            raise ValueError(f"the model's layer_groups() names no layer of the parameter {name!r}")
    return depths[prefix]
