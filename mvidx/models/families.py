"""Imports every model family, so that each registers its names."""

import mvidx.models.convnets
import mvidx.models.iformer
import mvidx.models.mixformer
import mvidx.models.mvit
import mvidx.models.peers
import mvidx.models.poolformer  # noqa: F401
