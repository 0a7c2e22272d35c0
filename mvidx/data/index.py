"""What a video file holds, found by demuxing it once: which packet has which frame, and where decoding may start.

Frames are addressed by the rank of their presentation time. For most files the packets tell it all (1 to 5 ms, and
one keyframe decoded for size and rotation). Where they leave a doubt (times missing or double, a first picture that
is no keyframe, fields, codecs with packets that show nothing), the whole file is decoded once.
"""

import dataclasses
import functools
import itertools
import sys
from typing import NamedTuple

import numpy as np

from mvidx.data import bitstream
from mvidx.data.demux import ANY, MP4, MPEG_TS, Demuxer, place
from mvidx.data.errors import DecodeError, VideoError

NO_FRAME = np.iinfo(np.int64).max  # order of a packet that gives no frame

# Codecs of which every packet gives one frame. MPEG-4 has packets that say "as before": those are tiny.
_ONE_FRAME_A_PACKET = {
    *("h264", "hevc", "vp9", "av1", "libdav1d", "mpeg4"),
    *("mjpeg", "prores", "dnxhd", "ffv1", "rawvideo", "huffyuv", "ffvhuff", "utvideo", "png"),
}
_TINY_BYTES = 32
# Decoders that hand a frame the number of its own packet even where others of its packets give none.
_NUMBERS_FRAMES_WELL = {"h264", "hevc", "vp8", "mpeg1video", "mpeg2video"}
_HEADERS = {"h264": bitstream.H264Headers, "vp9": bitstream.Vp9Headers}
_FORMATS_OF_DECORD = {MP4, "matroska,webm"}
_AVI_CHUNK_HEADER_BYTES = 8
_GAP_FRAMES = 64  # a longer pause is no loss but another beginning


class Orientation(NamedTuple):
    """How a decoded picture is turned for display: transposed first, then mirrored."""

    transpose: bool = False
    flip_x: bool = False
    flip_y: bool = False

    @classmethod
    def of(cls, frame):
        """From the display matrix of a PyAV frame: nine int32 that map (x, y, 1) of the picture to the display.

        Only signs and the larger axis count: a rotation is taken to the nearest 90 degrees.
        """
        matrix = frame.side_data.get("DISPLAYMATRIX")
        if matrix is None:
            return cls()
        a, b, _, c, d = np.frombuffer(matrix, np.int32)[:5].tolist()
        transpose = abs(b) > abs(a)
        return cls(transpose, (c if transpose else a) < 0, (b if transpose else d) < 0)

    @property
    def is_mirrored(self):
        return self.transpose ^ self.flip_x ^ self.flip_y

    def turn(self, image):
        """A view of `image` (H, W, 3) as it is displayed: (H, W, 3) or (W, H, 3)."""
        if self.transpose:
            image = image.transpose(1, 0, 2)
        return image[:: -1 if self.flip_y else 1, :: -1 if self.flip_x else 1]


@dataclasses.dataclass(frozen=True, eq=False)
class VideoIndex:
    """Where the frames of one file are. Made by `build_index`; small, picklable, worth keeping.

    Packets are numbered in decode order, frames by the rank of their presentation time.
    """

    codec: str
    fps: float
    height: int  # of the decoded pictures, before rotation
    width: int
    orientation: Orientation
    num_frames: int  # that the file promises; more than len(frame_packets) where data is lost
    damage: str  # why the last of them are lost, or ""
    unusual: str  # why PyAV alone is to be trusted with this file, or ""
    skip_nonref: bool  # pictures that are no reference can be passed over undecoded
    clean_starts: bool  # after a keyframe nothing refers to what came before it
    complete: bool  # every packet gives one frame, at the latest when the decoder is drained
    frame_packets: np.ndarray  # int32 (readable frames,): the packet of each frame
    frame_starts: np.ndarray  # int32 (readable frames,): the packet to decode from, mostly a keyframe
    packet_orders: np.ndarray  # int64 (packets,): grow with presentation time; NO_FRAME if it gives no frame
    packet_places: np.ndarray  # int64 (packets, 2): position (-1 if unknown) and size in bytes
    seek_times: dict  # packet number of a keyframe -> its time in units of the stream

    @property
    def displayed_size(self):
        """(height, width) in pixels, after rotation."""
        size = (self.height, self.width)
        return size[::-1] if self.orientation.transpose else size

    @functools.cached_property
    def packet_numbers(self):
        """Packet number by (position, size); empty if those don't tell packets apart."""
        places = [tuple(row) for row in self.packet_places.tolist()]
        numbers = {row: number for number, row in enumerate(places) if row[0] >= 0}
        return numbers if len(numbers) == len(places) else {}


def build_index(path) -> VideoIndex:
    """Demux the video at `path` (str, bytes or PathLike) into a VideoIndex; VideoError if it can't be."""
    with Demuxer(path) as demuxer:
        return index_demuxer(demuxer)


class _Packet(NamedTuple):
    pts: int | None
    dts: int | None
    place: tuple[int, int]
    is_key: bool
    is_discard: bool  # an edit list cuts it

    @property
    def time(self):
        return self.dts if self.pts is None else self.pts


class _Picture(NamedTuple):
    """What one decoded frame tells of all."""

    height: int
    width: int
    pixel_format: str
    orientation: Orientation

    @classmethod
    def of(cls, frame):
        return cls(frame.height, frame.width, frame.format.name, Orientation.of(frame))


@dataclasses.dataclass
class _Contents:
    """All packets of a file, and what was learnt while they passed."""

    headers: bitstream.H264Headers | bitstream.Vp9Headers | None
    packets: list = dataclasses.field(default_factory=list)
    picture: _Picture | None = None
    damage: str = ""  # the first sign of a loss
    num_sound: int = sys.maxsize  # packets before it
    missing: list = dataclasses.field(default_factory=list)  # decode times of what the file promises beyond

    def note(self, damage, num_sound):
        """Take note of damage, if not "", that may begin after `num_sound` packets."""
        if damage:
            self.damage = self.damage or damage
            self.num_sound = max(0, min(num_sound, self.num_sound))


def index_demuxer(demuxer) -> VideoIndex:
    """The index of the file that `demuxer` has just opened; leaves it anywhere."""
    context = demuxer.stream.codec_context
    codec, extradata = context.name, context.extradata or b""
    headers = _HEADERS.get(codec)
    headers = headers and headers(extradata)
    contents = _read(demuxer, headers)
    packets = contents.packets
    if not packets:
        raise VideoError(demuxer.path, contents.damage or "its video stream is empty")
    _find_losses(demuxer, contents)
    doubt = _doubt(demuxer, codec, contents)
    orders = _scan(demuxer, contents) if doubt else np.array([packet.pts for packet in packets], np.int64)
    shown = np.flatnonzero((orders != NO_FRAME) & ~np.array([p.is_discard for p in packets], bool))
    shown = shown[np.argsort(orders[shown])]
    # What is lost is shown no earlier than it is decoded: the ranks of frames before that are certain.
    lost_from = min([*orders[contents.num_sound :], *contents.missing], default=NO_FRAME)
    frames = shown if doubt else shown[orders[shown] < lost_from]
    if contents.picture is None or not len(frames):
        raise VideoError(demuxer.path, contents.damage or "no frame of it can be decoded")
    num_shown = sum(not p.is_discard for p in packets) if contents.damage else len(shown)
    complete = not doubt or len(shown) == len(packets)
    keys = np.array([p.is_key for p in packets])
    return VideoIndex(
        codec=codec,
        fps=_frames_per_second(demuxer.stream, [packets[number].time for number in frames]),
        height=contents.picture.height,
        width=contents.picture.width,
        orientation=contents.picture.orientation,
        num_frames=num_shown + len(contents.missing),
        damage=contents.damage,
        unusual=contents.damage or doubt or _unusual(demuxer, codec, contents, orders),
        skip_nonref=complete and (codec == "h264" or (codec == "hevc" and bitstream.hevc_has_one_layer(extradata))),
        clean_starts=headers is not None and headers.closed,
        complete=complete,
        frame_packets=frames.astype(np.int32),
        frame_starts=_starts(frames, orders, keys & (not doubt or codec in _NUMBERS_FRAMES_WELL)),
        packet_orders=orders,
        packet_places=np.array([p.place for p in packets], np.int64),
        seek_times={n: p.time for n, p in enumerate(packets) if p.is_key and p.time is not None},
    )


def _read(demuxer, headers):
    """All packets, with the first keyframe that can be decoded looked at."""
    contents = _Contents(headers)
    packets = contents.packets
    if demuxer.format != MP4:  # whose complaint is of the header: see _find_losses
        contents.note(demuxer.opening_complaint, 0)
    with demuxer.watch() as complaint:
        try:
            for number, packet in demuxer.packets():
                contents.note(complaint(), number - 1)  # the packet before may be damaged already
                packets.append(_Packet(packet.pts, packet.dts, place(packet), packet.is_keyframe, packet.is_discard))
                if packet.is_keyframe:
                    if headers:
                        headers.add_keyframe(bytes(packet))
                    if contents.picture is None:
                        contents.picture = _look_at(demuxer.decoder, number, packet)
        except DecodeError as error:
            contents.note(str(error), len(packets) - 1)
        contents.note(complaint(), len(packets) - 1)
    return contents


def _find_losses(demuxer, contents):
    """Compare the packets with the list that MP4 and AVI files have of them.

    Where AVI has lost its list, packets are sound as long as they lie side by side. Other formats have none.
    """
    packets, entries = contents.packets, demuxer.stream.index_entries
    positions, sizes = np.array([packet.place for packet in packets], np.int64).T
    if demuxer.format == "avi" and demuxer.num_indexed < len(packets):
        contents.note("its list of packets is missing", len(packets))
        missing = [NO_FRAME] * (demuxer.stream.frames - len(packets))
        expected_steps = (sizes + sizes % 2 + _AVI_CHUNK_HEADER_BYTES)[:-1]
        extra = np.diff(positions) - expected_steps
        empty_chunks = (extra >= 0) & (extra % _AVI_CHUNK_HEADER_BYTES == 0) & (extra < _TINY_BYTES)
        expected_steps += extra * empty_chunks
    elif demuxer.format not in (MP4, "avi"):
        missing, expected_steps = _missing_in_time(packets, demuxer.format == MPEG_TS), np.diff(positions)
    elif demuxer.opening_complaint:
        missing, expected_steps = [NO_FRAME] * (demuxer.stream.frames - len(packets)), np.diff(positions)
    elif len(entries) > len(packets):
        entries = [entry for entry in entries if entry.size]
        missing = [entry.timestamp for entry in entries[len(packets) :] if not entry.is_discard]
        expected_steps = np.diff([entry.pos for entry in entries])
    else:
        missing = []
    if missing:
        wrong = np.flatnonzero(np.diff(positions) != expected_steps[: len(positions) - 1])
        contents.missing = missing
        contents.note(f"{len(missing)} of its packets are lost", wrong[0] + 1 if len(wrong) else len(packets))


def _missing_in_time(packets, anywhere):
    """Times at which frames lack in a file that is evenly spaced but for such gaps.

    Without `anywhere`, only where the file was cut off before the last reordered pictures: recorders drop frames.
    """
    timed = [packet for packet in packets if packet.pts is not None and not packet.is_discard]
    start = next((packet.pts for packet in timed if packet.is_key), NO_FRAME)  # pictures before it are no loss
    times = np.sort([packet.pts for packet in timed if packet.pts >= start])
    steps = np.diff(times)
    if not len(steps):
        return []
    usual = np.median(steps)
    last_decoded = max((packet.dts for packet in packets if packet.dts is not None), default=NO_FRAME)
    gaps = (steps > 1.5 * usual) & (steps < _GAP_FRAMES * usual) & (anywhere | (times[:-1] >= last_decoded))
    if (~gaps & (np.abs(steps - usual) > 1)).any():
        return []
    return [
        int(times[gap] + usual * number)
        for gap in np.flatnonzero(gaps)
        for number in range(1, round(steps[gap] / usual))
    ]


def _look_at(decoder, number, packet):
    """The _Picture of a keyframe, or None."""
    try:
        frames = decoder.feed(number, packet) + decoder.drain()
    except DecodeError:
        frames = []
    decoder.reset()
    return _Picture.of(frames[0]) if frames else None


def _doubt(demuxer, codec, contents):
    """Why frames can't be told from packets, or ""."""
    packets, headers = contents.packets, contents.headers
    times = [packet.pts for packet in packets]
    first_key = next((number for number, packet in enumerate(packets) if packet.is_key), None)
    if codec not in _ONE_FRAME_A_PACKET:
        return f"packets of codec {codec} and frames are not one to one"
    if codec == "mpeg4" and any(packet.place[1] < _TINY_BYTES for packet in packets):
        return "it has packets that may hold no picture"
    if headers and not headers.progressive:
        return "it may be interlaced"
    if demuxer.format == "avi" and codec in ("h264", "hevc"):
        return "AVI has no presentation times"
    if None in times or len(set(times)) < len(times):
        return "its packets lack times of their own"
    if first_key is None or any(
        not packet.is_discard and (number < first_key or packet.pts < times[first_key])
        for number, packet in enumerate(packets)
    ):
        return "it does not start with a keyframe"
    return ""


def _scan(demuxer, contents):
    """int64 (packets,): the rank of each packet's frame in a decode of the whole file, or NO_FRAME.

    Damage before the first frame means pictures that lack their reference: they don't count. Later damage ends the
    video, since nobody knows how many frames it cost.
    """
    numbers = []  # of packets, in the order in which their frames came

    def take(frames):
        if frames and contents.picture is None:
            contents.picture = _Picture.of(frames[0])
        numbers.extend(frame.pts for frame in frames)

    demuxer.rewind()
    try:
        for number, packet in demuxer.packets():
            if number >= contents.num_sound:
                break
            harmless = () if numbers or packet.is_keyframe else (ANY,)
            take(demuxer.decoder.feed(number, packet, harmless=harmless))
        if not contents.damage:  # else, what is lost may come before what the decoder holds
            take(demuxer.decoder.drain())
    except DecodeError as error:
        contents.note(str(error), error.packet)
    if None in numbers or len(set(numbers)) < len(numbers):
        raise VideoError(demuxer.path, "its decoder loses track of the frames")
    numbers = list(itertools.takewhile(lambda number: number < contents.num_sound, numbers))
    orders = np.full(len(contents.packets), NO_FRAME)
    orders[numbers] = np.arange(len(numbers))
    return orders


def _starts(frames, orders, keys):
    """int32 (frames,): the last keyframe packet at or before each frame, in decode order and in time.

    A frame shown before the keyframe that it follows in the file may need the keyframe before that. Failing all
    others, decoding starts at packet 0.
    """
    keys = np.union1d([0], np.flatnonzero(keys & (orders != NO_FRAME)))
    choice = np.searchsorted(keys, frames, side="right") - 1
    while (early := (choice > 0) & (orders[keys[choice]] > orders[frames])).any():
        choice[early] -= 1
    return keys[choice].astype(np.int32)


def _frames_per_second(stream, times):
    """The rate that the file states, unless the frames' own times (ascending, in units of the stream) say another."""
    stated = float(stream.average_rate or stream.guessed_rate or 0)
    known = [time for time in times if time is not None]
    seconds = float((max(known) - min(known)) * stream.time_base) if known else 0
    measured = (len(known) - 1) / seconds if seconds > 0 else 0
    return stated if not measured or abs(stated / measured - 1) < 0.05 else measured


def _unusual(demuxer, codec, contents, orders):
    """Why decoders that make an index of their own may get an undamaged file of known frames wrong, or ""."""
    picture, headers, packets = contents.picture, contents.headers, contents.packets
    if demuxer.format not in _FORMATS_OF_DECORD:
        return f"its format is {demuxer.format}"
    if headers is None:
        return f"its codec is {codec}"
    if demuxer.num_video_streams > 1:
        return f"it has {demuxer.num_video_streams} video streams"
    if any(packet.is_discard for packet in packets):
        return "an edit list cuts frames"
    if picture.pixel_format not in ("yuv420p", "yuvj420p") or picture.height % 2:
        return f"its pixels are {picture.pixel_format}, {picture.width} x {picture.height}"
    if picture.orientation.is_mirrored:
        return "it is mirrored"
    if not headers.constant:
        return "its frame size may change"
    times = np.sort(orders)
    if np.abs(times - np.linspace(times[0], times[-1], len(times))).max() > 1:
        return "its frames are not evenly spaced in time"
    later_minimum = np.minimum.accumulate(orders[::-1])[::-1]
    if not headers.closed or any(packets[n].is_key and later_minimum[n] < orders[n] for n in range(len(packets))):
        return "it has open groups of pictures"
    return ""
