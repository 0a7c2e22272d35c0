"""Reading a config: YAML and overrides onto the defaults, every key and type checked, frozen at the end."""

import ast
import difflib
import logging
import os
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import yaml
from fvcore.common.config import BASE_KEY, CfgNode
from iopath.common.file_io import g_pathmgr

from mvidx.config import slowfast
from mvidx.config.defaults import get_cfg
from mvidx.errors import UserError

logger = logging.getLogger("mvidx")


class ConfigError(UserError):
    """A config that can't be used: the message names the key or file and what was expected."""


def load_config(path: str | os.PathLike, overrides: Sequence[str] = ()) -> CfgNode:
    """Read a YAML file, apply overrides, and freeze.

    Args:
        path: the file; its `_BASE_` is read first.
        overrides: KEY VALUE KEY VALUE ..., a leading `--opts` is passed over as PySlowFast's is.

    PySlowFast's files load as they are; its keys that change nothing here are listed once in the log.

    Raises:
        ConfigError: missing or damaged file, unknown key (the nearest known one is named), a value of a
            wrong type, an odd number of overrides, or a key of PySlowFast's that is set and not supported.
    """
    return parse_config(_read_yaml(os.fspath(path)), os.fspath(path), overrides)


def parse_config(content: Mapping[str, Any], where: str, overrides: Sequence[str] = ()) -> CfgNode:
    """The config of keys as YAML gives them: see `load_config`. `where` they stand, for errors."""
    cfg = get_cfg()
    ignored: list[str] = []
    _merge(cfg, content, where, ignored=ignored)
    _merge_overrides(cfg, list(overrides), ignored)
    if ignored:
        logger.info("keys of PySlowFast's that change nothing here: %s", ", ".join(dict.fromkeys(ignored)))
    cfg.freeze()
    return cfg


def _read_yaml(path: str) -> dict:
    """The file's keys, laid over those of its base. Relative bases are looked for beside the file."""
    if not g_pathmgr.isfile(path):
        raise ConfigError(f"config file {path} does not exist")
    try:
        with g_pathmgr.open(path, "r") as file:
            content = yaml.safe_load(file)
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise ConfigError(f"config file {path} is not YAML: {' '.join(str(error).split())}") from None
    if content is None:
        content = {}
    if not isinstance(content, dict):
        raise ConfigError(f"config file {path} holds a {type(content).__name__}, expected keys and values")
    base = content.pop(BASE_KEY, "")
    if not base:
        return content
    base = os.path.join(os.path.dirname(path), os.path.expanduser(base))
    return _overlay(_read_yaml(base), content)


def _overlay(under: dict, over: dict) -> dict:
    merged = dict(under)
    for key, value in over.items():
        both = isinstance(value, dict) and isinstance(merged.get(key), dict)
        merged[key] = _overlay(merged[key], value) if both else value
    return merged


def _all_keys(node: Mapping, prefix: str = "") -> Iterator[str]:
    for key, value in node.items():
        yield prefix + key
        if isinstance(value, CfgNode):
            yield from _all_keys(value, f"{prefix}{key}.")


def _unknown(key: str, cfg: CfgNode, where: str) -> ConfigError:
    known = list(_all_keys(cfg))
    close = difflib.get_close_matches(key, known, n=1, cutoff=0.0)
    same_leaf = [name for name in known if name.rpartition(".")[2] == key.rpartition(".")[2]]
    nearest = (same_leaf or close)[0]
    return ConfigError(f"{where}: unknown key {key}, the nearest known one is {nearest}")


def _foreign(key: str, value: Any, cfg: CfgNode, where: str) -> list[str]:
    """Keys of a PySlowFast key or section that change nothing here. Raises for one that is refused or unknown."""
    verdicts = slowfast.verdicts(key, value)
    if verdicts is None:
        raise _unknown(key, cfg, where)
    ignored = []
    for verdict in verdicts:
        if not verdict.known:
            raise _unknown(verdict.key, cfg, where)
        if verdict.reason:
            raise ConfigError(f"{where}: {verdict.key} of PySlowFast is set, but {verdict.reason}")
        ignored.append(verdict.key)
    return ignored


def _merge(
    cfg: CfgNode,
    values: Mapping[str, Any],
    where: str,
    prefix: str = "",
    root: CfgNode | None = None,
    *,
    ignored: list[str],
) -> None:
    root = cfg if root is None else root
    for name, value in values.items():
        key = f"{prefix}{name}"
        if name not in cfg and not cfg.is_new_allowed():
            ignored += _foreign(key, value, root, where)
            continue
        current = cfg.get(name)
        if isinstance(current, CfgNode):
            if not isinstance(value, Mapping):
                raise ConfigError(f"{where}: {key}={value!r} is a {_kind(value)}, expected a section of keys")
            _merge(current, value, where, f"{key}.", root, ignored=ignored)
        elif isinstance(value, Mapping) and not cfg.is_new_allowed():
            raise ConfigError(f"{where}: {key} is a section here, expected a {_kind(current)}")
        else:
            cfg[name] = _plain(value) if cfg.is_new_allowed() else coerce(value, current, key, where)


def _merge_overrides(cfg: CfgNode, overrides: list[str], ignored: list[str]) -> None:
    where = "command line"
    overrides = [word for word in overrides if word != "--opts"]
    if len(overrides) % 2:
        raise ConfigError(f"{where}: {overrides[-1]} has no value, expected KEY VALUE pairs")
    for key, value in zip(overrides[::2], overrides[1::2], strict=True):
        nested: Any = _literal(value)
        for part in reversed(key.split(".")):
            nested = {part: nested}
        _merge(cfg, nested, where, ignored=ignored)


def _literal(text: Any) -> Any:
    """A string read as a Python or YAML literal where it is one: '(3, 7, 7)', '1e-4', 'True', 'true'."""
    if not isinstance(text, str):
        return text
    try:
        return ast.literal_eval(text.strip())
    except (ValueError, SyntaxError):
        is_literal = text.strip() in ("true", "false", "null") or text.strip()[:1] in ("[", "{")
        try:
            return yaml.safe_load(text) if is_literal else text
        except yaml.YAMLError:
            return text


def _plain(value: Any) -> Any:
    """Values of free sections: literals read, mappings as CfgNode so that the config stays dumpable."""
    if isinstance(value, Mapping):
        return CfgNode({str(key): _plain(entry) for key, entry in value.items()}, new_allowed=True)
    return _literal(value)


_KINDS = {bool: "true or false", int: "whole number", float: "number", str: "string", list: "list", type(None): "null"}


def _kind(value: Any) -> str:
    return _KINDS.get(list if isinstance(value, tuple) else type(value), type(value).__name__)


def coerce(value: Any, default: Any, key: str, where: str) -> Any:
    """`value` in the type of the key's default. Raises ConfigError that names the key when it has another.

    Whole numbers pass for numbers, tuples for lists, and anything for a default of null.
    """
    if isinstance(default, str):
        if isinstance(value, str):
            return value
    else:
        value = _literal(value)
        if isinstance(value, tuple):
            value = list(value)
        if default is None or (value is None and key in NULLABLE):
            return value
        if isinstance(default, float) and isinstance(value, int) and not isinstance(value, bool):
            return float(value)
        if (
            isinstance(default, int)
            and not isinstance(default, bool)
            and isinstance(value, float)
            and value.is_integer()
        ):
            return int(value)
        if type(value) is type(default):
            return value
    raise ConfigError(f"{where}: {key}={value!r} is a {_kind(value)}, expected a {_kind(default)}")


NULLABLE: frozenset[str] = frozenset()
"""Keys with a default of another type that also take null."""
