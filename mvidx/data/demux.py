"""Reading a video file without being lied to: numbered packets, and a decoder that raises instead of concealing.

Both wrap PyAV, which is imported when it is first needed.
"""

import contextlib
import functools
import logging
import os

from mvidx.data.errors import DecodeError, VideoError

MP4, MPEG_TS = "mov,mp4,m4a,3gp,3g2,mj2", "mpegts"  # FFmpeg's names of formats
ANY = ""  # begins every complaint
_READ_FORWARD_PACKETS = 64  # so many packets are passed over by reading them rather than by seeking


def local_file(path) -> str:
    """The one place where a path (str, bytes, PathLike) becomes the name of a local file."""
    return os.fsdecode(path)


@functools.cache
def _load_av():
    """PyAV, with its log open for errors, every one of them, so that `av.logging.Capture` sees them."""
    import av

    if av.logging.get_level() is None:
        av.logging.set_level(av.logging.ERROR)
        logging.getLogger("libav").addHandler(logging.NullHandler())  # nobody has asked to see them
        logging.getLogger("libav").propagate = False
    av.logging.set_skip_repeated(False)
    return av


def _describe(error):
    """The message of one of PyAV's errors, without file name and number, and what the library logged with it."""
    log = getattr(error, "log", None)
    parts = (getattr(error, "strerror", None) or str(error), log and log[2].strip())
    return ": ".join(part for part in parts if part)


@contextlib.contextmanager
def _captured_logs(debug=False):
    """The list to which FFmpeg's log lines go meanwhile, as far as this thread causes them."""
    av_logging = _load_av().logging
    level = av_logging.get_level()
    if debug:
        av_logging.set_level(av_logging.DEBUG)
    try:
        with av_logging.Capture() as logs:
            yield logs
    finally:
        if debug:
            av_logging.set_level(level)


def _complaints(logs, name=None):
    """The errors among captured log lines, of one part of FFmpeg or of all, and lost packets of MPEG-TS."""
    error = _load_av().logging.ERROR
    return [
        text.strip()
        for level, source, text in logs
        if (level <= error or text.startswith("Continuity check failed")) and name in (None, source)
    ]


def place(packet):
    """(position, size) in bytes, by which a packet is known again; position is -1 where a format has none."""
    return (-1 if packet.pos is None else packet.pos, packet.size)


class Demuxer:
    """The packets of a file's video stream, numbered in decode order, and `decoder`, a StrictDecoder for them.

    Of several video streams it is the one that FFmpeg calls the best, but no cover picture. Opening raises
    VideoError, reading DecodeError.
    """

    def __init__(self, path):
        self.path = local_file(path)
        self._open()

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.close()

    def close(self):
        self._packets = iter(())
        self._container.close()

    def rewind(self):
        """Back to packet 0, by opening the file anew: the one way that works for every format."""
        self.close()
        self._open()

    def _open(self):
        av = _load_av()
        try:
            # An absolute path is never taken for a protocol, and a playlist in the file can't reach a network.
            with _captured_logs() as logs:
                self._container = av.open(
                    os.path.abspath(self.path), metadata_errors="ignore", options={"protocol_whitelist": "file"}
                )
        except (av.FFmpegError, OSError, ValueError) as error:
            raise VideoError(self.path, _describe(error)) from error
        streams = self._container.streams
        pictures = av.stream.Disposition.attached_pic | av.stream.Disposition.timed_thumbnails
        videos = [s for s in streams.video if s.codec_context is not None and not s.disposition & pictures]
        if not videos:
            self._container.close()
            raise VideoError(self.path, "it has no video stream that can be decoded")
        best = streams.best("video")
        self.stream = best if best in videos else videos[0]
        self.format = self._container.format.name
        # Opening reads packets ahead. Those of MPEG-TS are read again.
        self.opening_complaint = next(iter(_complaints(logs, self.format if self.format != MPEG_TS else "")), "")
        self.num_video_streams = len(videos)
        self.num_indexed = len(self.stream.index_entries)  # packets that are listed before any is read
        for stream in streams:
            if stream is not self.stream:
                stream.discard = av.stream.Discard.all
        self.decoder = StrictDecoder(self.stream.codec_context)
        self._restart(0)

    def _restart(self, position):
        self._position = position  # number of the packet that comes next
        # What is empty holds no picture, and would tell the decoder that the stream ends.
        self._packets = (packet for packet in self._container.demux(self.stream) if packet.size)

    def packets(self):
        """(number, packet) from the present position on."""
        av = _load_av()
        try:
            for packet in self._packets:
                self._position += 1
                yield self._position - 1, packet
        except (av.FFmpegError, OSError) as error:
            raise DecodeError(_describe(error)) from error
        except IndexError:
            pass  # PyAV, past the last packet, of a stream that turned up after the file was opened

    @contextlib.contextmanager
    def watch(self):
        """Gives a function that tells what the demuxer first complained of since, or "".

        A loss that MPEG-TS notices by its packet counter is no error in FFmpeg's log, but it is here.
        """
        with _captured_logs(debug=self.format == MPEG_TS) as logs:
            yield lambda: next(iter(_complaints(logs, self.format)), "") if logs else ""

    def packets_from(self, start, index):
        """(number, packet) from packet `start` on, each checked to be the one that `index` has by that number.

        The decoder is made ready for them.
        """
        if not 0 <= start - self._position <= _READ_FORWARD_PACKETS:
            self._seek(start, index)
        self.decoder.reset()
        places = index.packet_places
        for number, packet in self.packets():
            if number >= len(places) or tuple(places[number]) != place(packet):
                raise DecodeError(f"packet {number} is not the one that its index has")
            if number >= start:
                yield number, packet

    def _seek(self, start, index):
        """Move to a packet at or before `start`: near it where the format can seek and tell where it landed."""
        av = _load_av()
        if start in index.seek_times and index.packet_numbers:
            try:
                self._container.seek(index.seek_times[start], stream=self.stream)
                self._restart(0)
                first = next(self._packets, None)
            except (av.FFmpegError, OSError):
                first = None
            number = first and index.packet_numbers.get(place(first))
            if number is not None and number <= start:
                rest = self._packets
                self._restart(number)
                self._packets = _chain(first, rest)
                return
        self.rewind()


def _chain(first, rest):
    yield first
    yield from rest


class StrictDecoder:
    """A codec context of PyAV, in one thread; DecodeError wherever it would conceal damage.

    Frames carry the number of their packet as `pts`, whatever times the file has.
    """

    def __init__(self, context):
        self._context = context
        self._fed = 0  # number of the packet that was fed last
        context.thread_count = 1
        # FFmpeg's H.264 decoder logs all that it conceals; told to explode, it stumbles over open groups too.
        context.options = {} if context.name == "h264" else {"err_detect": "crccheck+explode"}

    def reset(self):
        self._context.flush_buffers()

    def feed(self, number, packet, *, skip_nonref=False, harmless=()):
        """Frames (none, one or more) that come out when packet `number` goes in.

        With `skip_nonref` the packet itself is not decoded if no other needs its picture. Complaints that begin with
        one of `harmless` are not raised.
        """
        if packet.is_corrupt and ANY not in harmless:
            raise DecodeError(f"packet {number} is incomplete", packet=number)
        self._context.skip_frame = "NONREF" if skip_nonref else "DEFAULT"
        packet.pts = packet.dts = number
        self._fed = number
        return self._decode(number, packet, harmless)

    def drain(self):
        """The frames that the decoder still holds; `reset` before it is fed again."""
        return self._decode(self._fed, None, ())

    def _decode(self, number, packet, harmless):
        av = _load_av()
        frames, failures = [], []
        with _captured_logs() as logs:
            try:
                frames = self._context.decode(packet)
            except (av.FFmpegError, OSError, ValueError, MemoryError) as error:
                failures.append(_describe(error))
        failures = [(number, text) for text in (*failures, *_complaints(logs))]
        failures += [(frame.pts or 0, "marked as corrupt") for frame in frames if frame.is_corrupt]
        failures = [(damaged, text) for damaged, text in failures if not text.startswith(harmless)]
        if failures:
            damaged, text = min(failures)
            raise DecodeError(f"packet {damaged}: {text}", packet=damaged)
        return frames
