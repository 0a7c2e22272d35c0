"""Frames of a video file by number: the right ones, or VideoError.

    with open_video("clip.mp4") as video:
        frames = video.get_frames([0, 8, 16])  # uint8 (3, height, width, 3), RGB

An index made by demuxing (see index.py) says which packets a frame needs, and which files decoders with an index of
their own can be trusted with. PyAV decodes all others, and what the trusted decoder stumbles over.
"""

import atexit
import ctypes
import functools
import os

import numpy as np

from mvidx.data.demux import ANY, Demuxer, local_file
from mvidx.data.errors import DecodeError, VideoError
from mvidx.data.index import NO_FRAME, VideoIndex, build_index, index_demuxer

__all__ = ["BACKENDS", "VideoError", "VideoIndex", "VideoReader", "build_index", "open_video"]

_AV_LOG_ERROR = 16
_FRAMES_A_PART = 8  # decoded at once where each goes through a transform
# What FFmpeg logs as mere information: parts of a picture made up, pictures scaled to the size of the first.
_QUIET_COMPLAINTS = (b"concealing", b"Changing video frame properties")
# Of an order to forget a picture from before the start, in H.264.
_HARMLESS_IN_OPEN_GROUPS = ("mmco: unref short failure",)


def open_video(path, backend="decord", *, index: VideoIndex | None = None) -> "VideoReader":
    """Open the video at `path` (str, bytes or PathLike), a local file, as a context manager.

    `backend` is "decord", "pyav" or "torchcodec"; the first and last decode only what they can be trusted with, PyAV
    the rest (see `VideoReader.decoder`). `index` saves the demuxing where the file's index is known already.

    Raises VideoError for a file without a frame that can be decoded, ValueError for an unknown backend, ImportError
    for one that is not installed.
    """
    return VideoReader(path, backend, index=index)


class VideoReader:
    """One open video: `num_frames`, `fps`, `height` and `width` (pixels, after rotation), `path` and `index`."""

    def __init__(self, path, backend, *, index=None):
        if backend not in BACKENDS:
            raise ValueError(f"unknown decoding backend {backend!r}, expected one of {', '.join(BACKENDS)}")
        self._decoder = None
        self._demuxer = None
        self.path = local_file(path)
        trusted = BACKENDS[backend]
        trusted.check_installed()
        try:
            if index is None:
                self._demuxer = Demuxer(self.path)
                index = index_demuxer(self._demuxer)
            self.index = index
            self._switch_to(_PyavFrames if index.unusual else trusted)
        except BaseException:
            self.close()
            raise
        self.num_frames, self.fps = index.num_frames, index.fps
        self.height, self.width = index.displayed_size

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.close()

    def close(self):
        for part in (self._decoder, self._demuxer):
            if part is not None:
                part.close()
        self._decoder = self._demuxer = None

    @property
    def decoder(self) -> str:
        """What really decodes: "decord", "pyav" or "torchcodec". A call of `get_frames` may change it to "pyav"."""
        return self._decoder.name

    def get_frames(self, indices, *, transform=None) -> np.ndarray:
        """uint8 (N, height, width, 3), RGB: frames by number, `indices` N integers in any order, with repeats.

        `transform` is called with each frame, uint8 (height, width, 3), as soon as it is decoded, and the results are
        joined instead: scaled down there, many frames of a large video fit into memory.

        Raises VideoError if one of them can't be decoded, IndexError for one that is not in [0, num_frames).
        """
        indices = np.asarray(indices)
        if indices.ndim != 1 or (indices.size and indices.dtype.kind not in "iu"):
            raise TypeError(f"frame indices of shape {indices.shape} and type {indices.dtype}, expected (N,) integers")
        ranks, rows = np.unique(indices.astype(np.int64), return_inverse=True)
        for rank in (*ranks[:1], *ranks[-1:]):
            if not 0 <= rank < self.num_frames:
                raise IndexError(f"frame {rank} of {self.path}, which has {self.num_frames} frames")
            if rank >= len(self.index.frame_packets):
                raise VideoError(self.path, f"frame {rank} is lost: {self.index.damage}")
        frames = self._read(ranks, transform)
        return frames if np.array_equal(rows, np.arange(len(frames))) else frames[rows]

    def _read(self, ranks, transform):
        if not len(ranks):
            return np.empty((0, self.height, self.width, 3), np.uint8)
        try:
            try:
                return self._decoder.read(ranks, transform)
            except DecodeError:
                if self.decoder == _PyavFrames.name:
                    raise
            self._switch_to(_PyavFrames)
            return self._decoder.read(ranks, transform)
        except DecodeError as error:
            raise VideoError(self.path, f"frames {ranks[0]} to {ranks[-1]}: {error}") from error

    def _switch_to(self, frames_class):
        """Decode with `frames_class` from now on, or with PyAV if that can't open the file."""
        if self._decoder is not None:
            self._decoder.close()
        if frames_class is not _PyavFrames:
            try:
                self._decoder = frames_class(self.path, self.index)
                return
            except DecodeError:
                pass
        self._demuxer = self._demuxer or Demuxer(self.path)
        self._decoder = _PyavFrames(self._demuxer, self.index)


class _Rows:
    """Frames that come one by one in any order, each through `transform` if there is one, joined in `array`."""

    def __init__(self, count, transform):
        self._count, self._transform = count, transform
        self.array = None

    def __setitem__(self, row, frame):
        if self._transform is not None:
            frame = self._transform(np.ascontiguousarray(frame))
        if self.array is None:
            self.array = np.empty((self._count, *frame.shape), frame.dtype)
        self.array[row] = frame


def _read_in_parts(read, ranks, transform):
    """`read(ranks)`, or its frames through `transform`, read in small parts."""
    if transform is None:
        return read(ranks)
    rows = _Rows(len(ranks), transform)
    for start in range(0, len(ranks), _FRAMES_A_PART):
        for row, frame in enumerate(read(ranks[start : start + _FRAMES_A_PART]), start):
            rows[row] = frame
    return rows.array


class _PyavFrames:
    """Decodes the groups of pictures that hold wanted frames, as far as needed, and converts the wanted ones."""

    name = "pyav"

    def __init__(self, demuxer, index):
        from av.video.reformatter import VideoReformatter

        self._demuxer, self._index = demuxer, index
        self._reformatter = VideoReformatter()

    @staticmethod
    def check_installed():
        pass  # a dependency of the package

    def close(self):
        pass  # the demuxer is the reader's

    def read(self, ranks, transform=None):
        """uint8 (N, H, W, 3) for ascending `ranks`, each frame through `transform`; DecodeError."""
        index = self._index
        numbers = index.frame_packets[ranks].tolist()
        rows = {number: row for row, number in enumerate(numbers)}
        frames = _Rows(len(numbers), transform)
        for start, wanted in _runs(index.frame_starts[ranks].tolist(), numbers):
            for earlier in self._starts_to_try(start):
                try:
                    self._read_run(earlier, wanted, frames, rows)
                    break
                except DecodeError:
                    if not earlier or index.clean_starts:
                        raise
        return frames.array

    def _starts_to_try(self, start):
        """`start` and keyframes 1, 2, 4, ... before it, then packet 0.

        Not every keyframe is a clean start: a gradual refresh takes its time, a mark may be wrong.
        """
        keys = [key for key in sorted(self._index.seek_times) if key < start]
        yield start
        step = 1
        while start:
            start = keys[-step] if step <= len(keys) else 0
            step *= 2
            yield start

    def _read_run(self, start, wanted, frames, rows):
        """Fill the rows of `frames` for the packets `wanted`, a set, decoding from packet `start` on."""
        orders = self._index.packet_orders
        shown = orders.min()  # order of the picture that came last
        missing, last = set(wanted), max(wanted)
        for decoded in self._decode(start, wanted, last):
            if orders[decoded.pts] < shown:
                raise DecodeError(f"packet {decoded.pts} is shown at another place than its time says")
            shown = orders[decoded.pts]
            if decoded.pts in missing:
                missing.discard(decoded.pts)
                frames[rows[decoded.pts]] = self._convert(decoded)
            if not missing and not self._index.complete:
                return
        if missing:
            raise DecodeError(f"no picture comes out for packet {min(missing)}")

    def _decode(self, start, wanted, last):
        """(packet number, PyAV frame) as they come, until all up to packet `last` are out."""
        index, demuxer = self._index, self._demuxer
        orders = index.packet_orders
        # Pictures shown before the keyframe refer to what came before it: nothing else needs them.
        shown_from = min(orders[start], orders[list(wanted)].min())
        harmless = () if index.clean_starts else _HARMLESS_IN_OPEN_GROUPS
        for number, packet in demuxer.packets_from(start, index):
            if orders[number] < shown_from:
                continue
            yield from demuxer.decoder.feed(
                number,
                packet,
                skip_nonref=index.skip_nonref and number not in wanted,
                harmless=(ANY,) if orders[number] == NO_FRAME else harmless,
            )
            if index.complete and number >= last:
                break
        yield from demuxer.decoder.drain()

    def _convert(self, frame):
        """A view, uint8 (H, W, 3), of a decoded frame in RGB as it is displayed.

        swscale's quick conversion with the matrix and range that the frame is tagged with: to the bit what decord
        and torchcodec give.
        """
        index = self._index
        if (frame.height, frame.width) != (index.height, index.width):
            raise DecodeError(
                f"the frame size changes from {index.width} x {index.height} to {frame.width} x {frame.height}"
            )
        plane = self._reformatter.reformat(frame, format="rgb24", threads=1).planes[0]
        pixels = np.frombuffer(plane, np.uint8).reshape(plane.height, plane.line_size)
        return index.orientation.turn(pixels[:, : 3 * plane.width].reshape(plane.height, plane.width, 3))


def _runs(starts, numbers):
    """[(start, packets)]: stretches to decode in one go, of the wanted packets `numbers` and their `starts`."""
    runs = []
    for start, number in zip(starts, numbers, strict=True):
        if runs and start <= max(runs[-1][1]) + 1:
            runs[-1][1].add(number)
        else:
            runs.append((start, {number}))
    return runs


class _Complaints:
    """Counts what the FFmpeg inside a loaded library complains of: the decoders built on it tell nobody."""

    def __init__(self, library):
        self.count = 0

        @ctypes.CFUNCTYPE(None, ctypes.c_void_p, ctypes.c_int, ctypes.c_char_p, ctypes.c_void_p)
        def note(_, level, text, __):
            if level <= _AV_LOG_ERROR or text.startswith(_QUIET_COMPLAINTS):
                self.count += 1

        self._note = note  # FFmpeg calls it as long as the process lives
        library.av_log_set_callback(note)
        atexit.register(library.av_log_set_callback, ctypes.cast(library.av_log_default_callback, ctypes.c_void_p))


class _Guarded:
    """A reader of another library; DecodeError for what goes wrong in it, openly or not, from now on.

    It decodes ahead in threads of its own: a complaint may belong to a later call, or to another reader in this
    process. PyAV then has the last word.
    """

    def __init__(self, complaints):
        self._complaints, self._before = complaints, complaints.count

    def call(self, function, *args, **kwargs):
        try:
            result = function(*args, **kwargs)
        except Exception as error:  # of many types, none of them documented
            raise DecodeError(str(error)) from error
        if self._complaints.count > self._before:
            raise DecodeError("its decoder conceals errors")
        return result


class _DecordFrames:
    """decord, with one thread, on the CPU, under whatever tensor bridge is set."""

    name = "decord"

    def __init__(self, path, index):
        import decord

        self._shape = (*index.displayed_size, 3)
        self._guarded = _Guarded(_decord_complaints())
        self._reader = self._guarded.call(decord.VideoReader, os.path.abspath(path), ctx=decord.cpu(0), num_threads=1)
        if len(self._reader) != index.num_frames:
            raise DecodeError(f"decord sees {len(self._reader)} frames, its index {index.num_frames}")

    @staticmethod
    def check_installed():
        _decord_complaints()

    def close(self):
        self._reader = None

    def read(self, ranks, transform=None):
        """uint8 (N, H, W, 3) for ascending `ranks`, each frame through `transform`; DecodeError."""
        return _read_in_parts(self._read_part, ranks, transform)

    def _read_part(self, ranks):
        batch = self._guarded.call(self._reader.get_batch, ranks)
        frames = batch.asnumpy() if hasattr(batch, "asnumpy") else np.array(batch)
        return _of_shape(frames, (len(ranks), *self._shape))


@functools.cache
def _decord_complaints():
    try:
        from decord._ffi.base import _LIB
    except (ImportError, OSError) as error:
        raise ImportError('backend "decord" needs decord: pip install decord, or use "pyav"') from error
    # decord repeats a frame that it can't get up to 10240 times before it gives up.
    os.environ.setdefault("DECORD_EOF_RETRY_MAX", "64")
    return _Complaints(_LIB)


class _TorchcodecFrames:
    """torchcodec's exact mode, with one thread."""

    name = "torchcodec"

    def __init__(self, path, index):
        from torchcodec.decoders import VideoDecoder

        self._shape = (*index.displayed_size, 3)
        self._guarded = _Guarded(_torchcodec_complaints())
        self._decoder = self._guarded.call(
            VideoDecoder, os.path.abspath(path), dimension_order="NHWC", seek_mode="exact", num_ffmpeg_threads=1
        )
        metadata = self._decoder.metadata
        if metadata.num_frames != index.num_frames:
            raise DecodeError(f"torchcodec sees {metadata.num_frames} frames, its index {index.num_frames}")
        if any(index.orientation) and not hasattr(metadata, "rotation"):
            raise DecodeError("this torchcodec does not rotate")

    @staticmethod
    def check_installed():
        _torchcodec_complaints()

    def close(self):
        self._decoder = None

    def read(self, ranks, transform=None):
        """uint8 (N, H, W, 3) for ascending `ranks`, each frame through `transform`; DecodeError."""
        return _read_in_parts(self._read_part, ranks, transform)

    def _read_part(self, ranks):
        batch = self._guarded.call(self._decoder.get_frames_at, ranks.tolist())
        return _of_shape(np.array(batch.data), (len(ranks), *self._shape))


@functools.cache
def _torchcodec_complaints():
    try:
        import torch
        import torchcodec.decoders  # noqa: F401
    except (ImportError, OSError, RuntimeError) as error:
        raise ImportError(
            f'backend "torchcodec" needs torchcodec and FFmpeg\'s libraries ({str(error).splitlines()[0]}): '
            "pip install 'mvidx[torchcodec]', or use 'pyav'"
        ) from error
    library = next(path for path in torch.ops.loaded_libraries if "libtorchcodec_core" in os.path.basename(path))
    return _Complaints(ctypes.CDLL(library))


def _of_shape(frames, shape):
    if frames.shape != shape:
        raise DecodeError(f"frames of shape {frames.shape} came for {shape}")
    return frames


BACKENDS = {frames.name: frames for frames in (_DecordFrames, _PyavFrames, _TorchcodecFrames)}
