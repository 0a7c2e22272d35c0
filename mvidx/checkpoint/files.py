"""Reading and writing checkpoint files: nothing that is read can run code, nothing is left half-written."""

import argparse
import collections
import os
import pickle
import re
import warnings
import zipfile

import numpy as np
import torch
from iopath.common.file_io import g_pathmgr
from torch import Tensor

from mvidx.errors import UserError

__all__ = ["ArrayUnpickler", "CheckpointError", "find_state", "local_path", "read_file"]


class CheckpointError(UserError):
    """A checkpoint that can't be used: the message names the file and the reason."""


# What a pickle of NumPy arrays needs, under the names of NumPy 1 and 2. All else is refused.
_ARRAY_GLOBALS = {
    (module, name): found
    for module in (
        "numpy",
        "numpy.core.multiarray",
        "numpy._core.multiarray",
        "numpy.core.numeric",
        "numpy._core.numeric",
    )
    for name, found in {
        "ndarray": np.ndarray,
        "dtype": np.dtype,
        "_reconstruct": np._core.multiarray._reconstruct,
        "_frombuffer": np._core.numeric._frombuffer,
        "scalar": np._core.multiarray.scalar,
    }.items()
}
_ARRAY_GLOBALS[("collections", "OrderedDict")] = collections.OrderedDict


def _latin1(text: str, encoding: str) -> bytes:
    """What `_codecs.encode` does for the raw bytes in an old pickle of arrays, and nothing else."""
    if encoding not in ("latin1", "latin-1"):
        raise pickle.UnpicklingError(f"_codecs.encode to {encoding!r}")
    return text.encode("latin1")


_ARRAY_GLOBALS[("_codecs", "encode")] = _latin1


class ArrayUnpickler(pickle.Unpickler):
    """Unpickles containers, numbers, strings and NumPy arrays; refuses every other global."""

    def find_class(self, module: str, name: str):
        if (module, name) not in _ARRAY_GLOBALS:
            raise pickle.UnpicklingError(f"it refers to {module}.{name}")
        return _ARRAY_GLOBALS[module, name]


# Harmless types that published PyTorch checkpoints hold beside their tensors (training arguments, metrics).
_TORCH_GLOBALS = [
    argparse.Namespace,
    (np._core.multiarray.scalar, "numpy.core.multiarray.scalar"),
    np._core.multiarray.scalar,
    np.dtype,
    np.dtypes.Float64DType,
    np.dtypes.Float32DType,
    np.dtypes.Int64DType,
]


def local_path(path: str | os.PathLike) -> str:
    """A local copy of any path that iopath knows. Raises CheckpointError when there is no such file."""
    path = os.fspath(path)
    if not g_pathmgr.isfile(path):
        raise CheckpointError(f"checkpoint {path}: no such file")
    return g_pathmgr.get_local_path(path)


def read_file(path: str | os.PathLike) -> dict:
    """Read a checkpoint: .safetensors, .pdparams (pickle of NumPy arrays), or what torch.save wrote.

    Tensors come to the CPU. Of .safetensors with metadata it gives {"model": tensors, "metadata": {name: text}}.
    Raises CheckpointError for a missing, damaged or foreign file, and for one that would run code.
    """
    local = local_path(path)
    try:
        if str(path).endswith(".safetensors"):
            from safetensors import safe_open

            with safe_open(local, framework="pt") as file:
                tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
                return {"model": tensors, "metadata": file.metadata()} if file.metadata() else tensors
        content = _load_arrays(local) if str(path).endswith((".pdparams", ".pkl")) else _load_torch(local)
    except pickle.UnpicklingError as error:
        if refused := _REFUSED.search(str(error)):
            what = refused[1]
            raise CheckpointError(f"checkpoint {path}: refused, because loading it could run code ({what})") from None
        raise CheckpointError(f"checkpoint {path}: not a readable checkpoint ({_first_line(error)})") from None
    except Exception as error:  # a damaged file raises nearly anything
        raise CheckpointError(f"checkpoint {path}: not a readable checkpoint ({_first_line(error)})") from None
    if not isinstance(content, dict):
        raise CheckpointError(f"checkpoint {path}: holds a {type(content).__name__}, expected a dict of tensors")
    return content


# How the two unpicklers below say what they refused.
_REFUSED = re.compile(r"(?:nsupported (?:GLOBAL|global: GLOBAL|class)|it refers to) (\S+)")


def _load_arrays(path: str):
    """A pickle of NumPy arrays."""
    with open(path, "rb") as file:
        return ArrayUnpickler(file, encoding="latin1").load()


def _load_torch(path: str):
    """What torch.save wrote, in either of its formats; or a plain pickle of arrays under such a name."""
    whole = zipfile.is_zipfile(path)
    if not whole and not _begins_as_pickle(path):
        raise EOFError("neither a zip archive nor a pickle, as torch.save writes them")
    try:
        with torch.serialization.safe_globals(_TORCH_GLOBALS), warnings.catch_warnings():
            warnings.simplefilter("ignore")  # about pickle protocols that torch does not write
            return torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        if whole or _REFUSED.search(str(error)):
            raise
        return _load_arrays(path)


def _begins_as_pickle(path: str) -> bool:
    with open(path, "rb") as file:
        return file.read(1) == b"\x80"  # protocol 2 and later; torch has never written an older one


def _first_line(error: Exception) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0][:200]


def find_state(content: dict, path: str | os.PathLike, *, average: bool = False) -> dict[str, Tensor]:
    """The model's tensors in what `read_file` returned: under the usual names, or the dict itself.

    With `average` the moving average of the weights: CheckpointError where the run kept none. NumPy arrays become
    tensors, and the `module.` that DistributedDataParallel puts before names goes.
    """
    averages, plain = ("ema", "model_ema", "state_dict_ema"), ("model_state", "model", "state_dict")
    if average and not any(isinstance(content.get(key), dict) for key in averages):
        raise CheckpointError(f"checkpoint {path}: holds no moving average of the weights")
    for key in averages if average else (*plain, *averages):
        if isinstance(content.get(key), dict):
            content = content[key]
            break
    state = {}
    for name, value in content.items():
        if isinstance(value, np.ndarray):
            value = torch.from_numpy(np.ascontiguousarray(value).copy())
        if isinstance(value, Tensor):
            state[name] = value
    if not state:
        raise CheckpointError(
            f"checkpoint {path}: holds no tensors (its keys: {', '.join(map(str, list(content)[:8]))})"
        )
    if all(name.startswith("module.") for name in state):
        state = {name.removeprefix("module."): value for name, value in state.items()}
    return state
