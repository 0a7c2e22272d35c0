"""An iopath handler: `elsewhere://x` is FOLDER/x, with FOLDER from the environment, as if on another machine."""

import os

from iopath.common.file_io import PathHandler, g_pathmgr


class Elsewhere(PathHandler):
    """Every operation that a store of objects has, and no more: no renaming, no truncation."""

    def _path(self, path):
        return os.path.join(os.environ["ELSEWHERE"], path.removeprefix("elsewhere://"))

    def _get_supported_prefixes(self):
        return ["elsewhere://"]

    def _get_local_path(self, path, force=False, **kwargs):
        return self._path(path)

    def _open(self, path, mode="r", buffering=-1, **kwargs):
        return open(self._path(path), mode, buffering)

    def _exists(self, path, **kwargs):
        return os.path.exists(self._path(path))

    def _isfile(self, path, **kwargs):
        return os.path.isfile(self._path(path))

    def _isdir(self, path, **kwargs):
        return os.path.isdir(self._path(path))

    def _ls(self, path, **kwargs):
        return os.listdir(self._path(path))

    def _mkdirs(self, path, **kwargs):
        os.makedirs(self._path(path), exist_ok=True)

    def _rm(self, path, **kwargs):
        os.unlink(self._path(path))


def register() -> None:
    """Let iopath know the handler."""
    g_pathmgr.register_handler(Elsewhere(), allow_override=True)
