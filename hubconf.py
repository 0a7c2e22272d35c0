"""torch.hub: every model of mvidx by its name.

    model = torch.hub.load("OWNER/mvidx", "poolformer_s12_video", num_classes=174)
    model = torch.hub.load("OWNER/mvidx", "load_model", "checkpoint.pyth")

Keyword arguments are those of `mvidx.create_model`; `checkpoint=FILE` loads weights of any known source.
"""

import functools

from mvidx.inference.load import load_model  # noqa: F401  (an entry point)
from mvidx.models.registry import create_model as _create_model
from mvidx.models.registry import list_models as _list_models

dependencies = [
    "torch",
    "torchvision",
    "av",
    "decord",
    "fvcore",
    "iopath",
    "numpy",
    "cv2",
    "safetensors",
    "tqdm",
    "yaml",
]


def _entry_point(name: str):
    entry_point = functools.partial(_create_model, name)
    entry_point.__doc__ = f"mvidx.create_model({name!r}, **arguments)."
    return entry_point


globals().update({name: _entry_point(name) for name in _list_models()})
