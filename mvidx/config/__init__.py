"""Configs: the only code that reads one. `load_config` gives a frozen CfgNode, `build_model` its model."""

from mvidx.config.build import build_model
from mvidx.config.load import ConfigError, load_config

__all__ = ["ConfigError", "build_model", "load_config"]
