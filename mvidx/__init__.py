"""mvidx: video recognition with four families of token mixers."""

import importlib

__version__ = "0.1.0"

_HOMES = {
    "create_model": "mvidx.models.registry",
    "inflate": "mvidx.checkpoint.inflate",
    "list_models": "mvidx.models.registry",
    "load_checkpoint": "mvidx.checkpoint.sources",
    "load_model": "mvidx.inference.load",
    "predict": "mvidx.inference.predict",
}
__all__ = [*_HOMES, "__version__"]


def __getattr__(name: str):
    """Import the public functions on first use: `import mvidx` itself costs milliseconds."""
    if name in _HOMES:
        return getattr(importlib.import_module(_HOMES[name]), name)
    raise AttributeError(f"module 'mvidx' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted(__all__)
