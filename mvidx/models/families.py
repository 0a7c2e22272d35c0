"""Imports every model family, so that each registers its names."""

import mvidx.models.mvit  # noqa: F401
