"""Every frame that comes out is the right one, or VideoError says why not.

Test videos carry their frames' numbers in binary, so a frame from elsewhere can't pass for the wanted one. Those of
../shared are read where they are there; the others are made here with PyAV.
"""

import json
import os
import pickle
import random
import subprocess
import sys
from fractions import Fraction

import av
import numpy as np
import pytest

from mvidx.data import decode
from mvidx.data.decode import VideoError, build_index, open_video
from mvidx.data.index import Orientation
from tests.shared import SHARED, shared_file

NUM_FRAMES = 60
HEIGHT, WIDTH = 128, 192
NUMBERED = SHARED / "videos" / "numbered"
TRUSTED = ("cfr_b.mp4", "cfr_b_g30.mp4", "fps2997.mp4", "audio_first.mp4", "vp9.webm")


def numbered_frame(number, height=HEIGHT, width=WIDTH):
    """A moving picture with `number` in 12 blocks, least significant bit first, in the top 32 rows."""
    y, x = np.mgrid[:height, :width]
    image = np.stack([(x + 3 * number) % 256, (2 * y + number) % 256, (x * y // 32) % 256], -1) // 2 + 40
    for bit in range(12):
        image[:32, bit * (width // 12) : (bit + 1) * (width // 12)] = 235 if number >> bit & 1 else 20
    return image.astype(np.uint8)


def read_number(frame):
    size = frame.shape[1] // 12
    return sum(int(frame[4:28, bit * size + 4 : (bit + 1) * size - 4].mean() > 125) << bit for bit in range(12))


def read_numbers(frames):
    return [read_number(frame) for frame in frames]


def write_video(path, codec="libx264", options=None, *, numbers=range(NUM_FRAMES), pixels="yuv420p", gop=12, **muxer):
    with av.open(str(path), "w", options=muxer) as container:
        stream = container.add_stream(codec, rate=30, options={"bf": "2", "preset": "veryfast"} | (options or {}))
        if not codec.startswith("libx26"):
            stream.options = options or {}
        stream.width, stream.height, stream.pix_fmt = WIDTH, HEIGHT, pixels
        stream.gop_size = gop
        stream.codec_context.thread_count = 1
        for number in numbers:
            container.mux(stream.encode(av.VideoFrame.from_ndarray(numbered_frame(number), format="rgb24")))
        container.mux(stream.encode())
    return path


def remux(source, path, *, start=0, first_packet=0, **muxer):
    """Copy packets, from number `first_packet` on, times shifted by `start` seconds."""
    with av.open(str(source)) as old, av.open(str(path), "w", options=muxer) as new:
        stream = old.streams.video[0]
        copy = new.add_stream_from_template(stream)
        for number, packet in enumerate(packet for packet in old.demux(stream) if packet.size):
            if number >= first_packet:
                shift = int(start / packet.time_base)
                packet.pts, packet.dts = packet.pts + shift, packet.dts + shift
                packet.stream = copy
                new.mux(packet)
    return path


OPEN_GOP = {"x264-params": "open-gop=1:scenecut=0:b-pyramid=normal", "bf": "3"}
MAKERS = {
    "h264.mp4": lambda path, base: base,
    "h264.mkv": lambda path, base: remux(base, path),
    "h264.flv": lambda path, base: remux(base, path),
    "h264.ts": lambda path, base: remux(base, path),
    "h264.avi": lambda path, _: write_video(path),
    "h264.mov": lambda path, base: remux(base, path),
    "h264.h264": lambda path, base: remux(base, path),
    "fragments.mp4": lambda path, base: remux(base, path, movflags="frag_keyframe+empty_moov"),
    "offset.mp4": lambda path, base: remux(base, path, start=3.7),
    "offset.mkv": lambda path, base: remux(base, path, start=3.7),
    "many_b.mp4": lambda path, _: write_video(path, options={"bf": "16", "x264-params": "b-adapt=0"}, gop=40),
    "open.mp4": lambda path, _: write_video(path, options=OPEN_GOP),
    "open.mkv": lambda path, _: write_video(path, options=OPEN_GOP),
    "refresh.mkv": lambda path, _: write_video(path, options={"x264-params": "intra-refresh=1"}),
    "interlaced.mp4": lambda path, _: write_video(path, options={"x264-params": "tff=1"}),
    "ten_bits.mp4": lambda path, _: write_video(path, pixels="yuv420p10le"),
    "hevc.mp4": lambda path, _: write_video(
        path, "libx265", {"x265-params": "log-level=none:keyint=12:open-gop=1:bframes=3:pools=1"}
    ),
    "vp9.webm": lambda path, _: write_video(path, "libvpx-vp9", {"cpu-used": "8", "deadline": "realtime"}),
    "vp8.webm": lambda path, _: write_video(
        path, "libvpx", {"cpu-used": "5", "auto-alt-ref": "1", "lag-in-frames": "16", "b": "400k"}
    ),
    "mpeg4.avi": lambda path, _: write_video(path, "mpeg4", {"bf": "2", "b": "1M"}),
    "mpeg4.mp4": lambda path, _: write_video(path, "mpeg4", {"bf": "2", "b": "1M"}),
    "mpeg2.mpg": lambda path, _: write_video(path, "mpeg2video", {"bf": "2", "b": "1M"}),
    "mjpeg.avi": lambda path, _: write_video(path, "mjpeg", {"qmax": "5"}, pixels="yuvj420p"),
    "wmv2.wmv": lambda path, _: write_video(path, "wmv2", {"b": "1M"}),
    "ffv1.mkv": lambda path, _: write_video(path, "ffv1"),
}


@pytest.fixture(scope="session")
def made(tmp_path_factory):
    """made(name): path of a video with frames 0 to 59, written when first asked for."""
    folder = tmp_path_factory.mktemp("videos")

    def make(name):
        path = folder / name
        if not path.exists():
            base = path if name == "h264.mp4" else make("h264.mp4")
            MAKERS[name](path, base) if name != "h264.mp4" else write_video(path)
        return path

    return make


def index_sets(count):
    """Ways to ask for frames of a video of `count` frames."""
    rng = random.Random(count)
    some = rng.choices(range(count), k=min(count, 6))
    return {
        "first": range(min(16, count)),
        "strided": range(count // 3, count, 4),
        "sorted": sorted(some),
        "shuffled": some,
        "last": [count - 1],
        "backwards": range(count - 1, -1, -7),
        "repeats": [count // 2, 0, count // 2, 0, count - 1],
        "all": range(count),
    }


def check_frames(video, numbers):
    assert video.num_frames == len(numbers)
    for name, indices in index_sets(len(numbers)).items():
        frames = video.get_frames(indices)
        assert frames.shape == (len(indices), video.height, video.width, 3)
        assert frames.dtype == np.uint8
        assert frames.flags.owndata
        assert read_numbers(frames) == [numbers[i] for i in indices], name


@pytest.mark.parametrize("backend", ["decord", "pyav"])
@pytest.mark.parametrize("name", MAKERS)
def test_every_frame_asked_for_is_the_right_one(made, name, backend):
    with open_video(made(name), backend) as video:
        check_frames(video, range(NUM_FRAMES))
        assert (video.height, video.width) == (HEIGHT, WIDTH)
        assert video.fps == pytest.approx(25 if name == "h264.h264" else 30, rel=0.01)


@pytest.mark.parametrize("backend", ["decord", "pyav"])
@pytest.mark.parametrize(
    "name", sorted(json.loads((NUMBERED / "numbers.json").read_text())) if NUMBERED.exists() else ["numbers.json"]
)
def test_shared_numbered_videos(name, backend):
    numbers = json.loads(shared_file("videos/numbered/numbers.json").read_text())[name]
    with open_video(shared_file(f"videos/numbered/{name}"), backend) as video:
        check_frames(video, numbers)
        assert video.decoder == ("decord" if backend == "decord" and name in TRUSTED else "pyav")


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("h264.mp4", ""),
        ("h264.mkv", ""),
        ("fragments.mp4", ""),
        ("offset.mp4", ""),
        ("many_b.mp4", ""),
        ("vp9.webm", ""),
        ("open.mp4", "open groups"),
        ("hevc.mp4", "codec is hevc"),
        ("interlaced.mp4", "interlaced"),
        ("ten_bits.mp4", "yuv420p10le"),
        ("h264.ts", "mpegts"),
        ("h264.avi", "no presentation times"),
        ("h264.h264", "lack times"),
        ("vp8.webm", "not one to one"),
    ],
)
def test_decord_is_given_only_what_it_gets_right(made, name, reason):
    with open_video(made(name), "decord") as video:
        assert video.decoder == ("pyav" if reason else "decord")
        assert reason in video.index.unusual
    with open_video(made(name), "pyav") as video:
        assert video.decoder == "pyav"


def test_a_start_without_keyframe_and_a_cut_open_group_do_not_count(made, tmp_path):
    """Pictures that lack their reference are none; those after the first keyframe are numbered from there."""
    for name in ("open.mkv", "h264.mkv"):
        with av.open(str(made(name))) as container:
            keys = [n for n, packet in enumerate(container.demux(video=0)) if packet.is_keyframe]
        path = remux(made(name), tmp_path / name, first_packet=keys[2])
        with av.open(str(path)) as container:
            numbers = [read_number(frame.to_ndarray(format="rgb24")) for frame in container.decode(video=0)]
        assert numbers[-1] == NUM_FRAMES - 1
        with open_video(path) as video:
            check_frames(video, numbers)


def test_edit_list_cuts_frames_that_are_in_the_file(made, tmp_path):
    data = bytearray(made("h264.mp4").read_bytes())
    entry = data.index(b"elst") + 12  # duration in ms, start in units of the stream
    start = int.from_bytes(data[entry + 4 : entry + 8], "big")
    with av.open(str(made("h264.mp4"))) as container:
        step = int(Fraction(1, 30) / container.streams.video[0].time_base)
    data[entry : entry + 4] = (1000).to_bytes(4, "big")
    data[entry + 4 : entry + 8] = (start + 17 * step).to_bytes(4, "big")
    path = tmp_path / "edit.mp4"
    path.write_bytes(data)
    with open_video(path) as video:
        assert video.decoder == "pyav"
        check_frames(video, range(17, 47))


def test_uneven_times_are_ranks(made, tmp_path):
    times = np.cumsum(np.random.default_rng(0).integers(200, 900, NUM_FRAMES)).tolist()
    path = tmp_path / "uneven.mp4"
    with av.open(str(made("h264.mp4"))) as old, av.open(str(path), "w") as new:
        stream = old.streams.video[0]
        copy = new.add_stream_from_template(stream)
        packets = [packet for packet in old.demux(stream) if packet.size]
        rank = {pts: number for number, pts in enumerate(sorted(packet.pts for packet in packets))}
        for number, packet in enumerate(packets):
            packet.pts, packet.dts = times[rank[packet.pts]], times[number] - 2000
            packet.stream = copy
            new.mux(packet)
    with open_video(path, "decord") as video:
        check_frames(video, range(NUM_FRAMES))


@pytest.mark.parametrize("backend", ["decord", "pyav"])
@pytest.mark.parametrize(
    ("matrix", "turn"),
    [
        ((0, 1, -1, 0), lambda image: np.rot90(image, -1)),
        ((-1, 0, 0, -1), lambda image: np.rot90(image, 2)),
        ((0, -1, 1, 0), lambda image: np.rot90(image, 1)),
        ((-1, 0, 0, 1), lambda image: image[:, ::-1]),
        ((1, 0, 0, -1), lambda image: image[::-1]),
        ((0, 1, 1, 0), lambda image: image.transpose(1, 0, 2)),
        ((0, -1, -1, 0), lambda image: image.transpose(1, 0, 2)[::-1, ::-1]),
    ],
)
def test_display_matrix_is_applied(made, tmp_path, matrix, turn, backend):
    a, b, c, d = matrix
    data = bytearray(made("h264.mp4").read_bytes())
    place = data.index(b"tkhd") + 44
    values = [a << 16, b << 16, 0, c << 16, d << 16, 0, 0, 0, 1 << 30]
    data[place : place + 36] = b"".join(value.to_bytes(4, "big", signed=True) for value in values)
    path = tmp_path / "turned.mp4"
    path.write_bytes(data)
    with open_video(made("h264.mp4"), "pyav") as upright, open_video(path, backend) as video:
        expected = np.stack([turn(frame) for frame in upright.get_frames([20, 3])])
        assert (video.height, video.width) == expected.shape[1:3]
        np.testing.assert_array_equal(video.get_frames([20, 3]), expected)
        mirrored = Orientation(*video.index.orientation).is_mirrored
        assert mirrored == (a * d - b * c < 0)
        assert video.decoder == ("pyav" if mirrored else backend)


def test_shared_rotated_video():
    with open_video(shared_file("videos/broken/rot90.mp4")) as video:
        assert (video.height, video.width) == (336, 256)
        assert read_numbers(np.rot90(video.get_frames([7, 250]), -1, axes=(1, 2))) == [7, 250]


def exact_rgb(frame, matrix, full):
    """float (H, W, 3) by the book, chroma repeated, of a PyAV frame in 8-bit 4:2:0."""
    red, blue = {"bt709": (0.2126, 0.0722), "bt601": (0.299, 0.114)}[matrix]
    planes = [np.frombuffer(p, np.uint8).reshape(-1, p.line_size)[:, : p.width].astype(float) for p in frame.planes]
    y, u, v = planes[0], *(plane.repeat(2, 0).repeat(2, 1) for plane in planes[1:])
    black, luma, chroma = (0, 255, 255) if full else (16, 219, 224)
    y, u, v = (y - black) / luma, (u - 128) / chroma, (v - 128) / chroma
    r, b = y + 2 * (1 - red) * v, y + 2 * (1 - blue) * u
    g = (y - red * r - blue * b) / (1 - red - blue)
    return np.clip(np.stack([r, g, b], -1) * 255, 0, 255)


@pytest.mark.parametrize(
    ("tags", "pixels", "matrix", "full"),
    [
        ({}, "yuv420p", "bt601", False),
        ({"colorspace": "smpte170m", "color_range": "tv"}, "yuv420p", "bt601", False),
        ({"colorspace": "bt709", "color_range": "tv"}, "yuv420p", "bt709", False),
        ({"colorspace": "bt709", "color_range": "pc"}, "yuvj420p", "bt709", True),
        ({"color_range": "pc"}, "yuvj420p", "bt601", True),
    ],
)
def test_colours_follow_the_tags_and_decoders_agree(tmp_path, tags, pixels, matrix, full):
    path = write_video(tmp_path / "colours.mp4", options=tags, pixels=pixels, numbers=range(4))
    with av.open(str(path)) as container:
        expected = exact_rgb(next(container.decode(video=0)), matrix, full)
    pictures = {}
    for backend in ("decord", "pyav"):
        with open_video(path, backend) as video:
            pictures[backend] = video.get_frames([0])[0].astype(int)
            assert video.decoder == backend
        assert np.abs(pictures[backend] - expected).max() < 4  # swscale's quick conversion is off by 3 at most
    assert np.abs(pictures["decord"] - pictures["pyav"]).max() <= 2


def test_torchcodec_agrees(made, tmp_path):
    pytest.importorskip("torchcodec", reason="torchcodec is not installed", exc_type=Exception)
    for name in ("h264.mp4", "vp9.webm", "open.mp4", "h264.ts"):
        with open_video(made(name), "torchcodec") as video:
            check_frames(video, range(NUM_FRAMES))
            assert video.decoder == ("pyav" if video.index.unusual else "torchcodec")
            with open_video(made(name), "pyav") as other:
                np.testing.assert_array_equal(video.get_frames([9]), other.get_frames([9]))


def test_backend_that_is_missing_or_unknown(made, monkeypatch):
    monkeypatch.setitem(sys.modules, "torchcodec", None)
    monkeypatch.setitem(sys.modules, "torchcodec.decoders", None)
    decode._torchcodec_complaints.cache_clear()
    with pytest.raises(ImportError, match=r"pip install 'mvidx\[torchcodec\]'"):
        open_video(made("h264.mp4"), "torchcodec")
    with pytest.raises(ValueError, match=r"'opencv'.*decord, pyav, torchcodec"):
        open_video(made("h264.mp4"), "opencv")


def test_decoders_are_imported_when_needed_only():
    code = "import sys, mvidx.data.decode, mvidx.data.guard; print({'decord', 'av', 'torchcodec'} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "set()"


def test_decord_under_another_librarys_tensor_bridge(made):
    decord = pytest.importorskip("decord")
    with decord.bridge.use_torch(), open_video(made("h264.mp4"), "decord") as video:
        frames = video.get_frames([3, 1])
        assert video.decoder == "decord"
    assert type(frames) is np.ndarray
    assert read_numbers(frames) == [3, 1]


def test_index_is_reusable_and_picklable(made, monkeypatch):
    for name in ("h264.mp4", "open.mp4", "vp8.webm"):
        index = pickle.loads(pickle.dumps(build_index(made(name))))
        with monkeypatch.context() as patch:
            patch.setattr(decode, "index_demuxer", None)  # would be called without an index
            for backend in ("decord", "pyav"):
                with open_video(made(name), backend, index=index) as video:
                    check_frames(video, range(NUM_FRAMES))


def test_index_of_another_file_is_noticed(made):
    other = build_index(made("h264.mp4"))
    with (
        open_video(made("open.mp4"), "pyav", index=other) as video,
        pytest.raises(VideoError, match="not the one that its index has"),
    ):
        video.get_frames([30])


def test_bad_indices(made):
    with open_video(made("h264.mp4")) as video:
        for index in (-1, 60):
            with pytest.raises(IndexError, match=rf"frame {index} of .*60 frames"):
                video.get_frames([3, index])
        with pytest.raises(TypeError, match="float64"):
            video.get_frames([1.5])
        assert video.get_frames([]).shape == (0, HEIGHT, WIDTH, 3)


def test_paths_of_all_kinds(made, tmp_path, monkeypatch):
    odd = tmp_path / "concat:a%d é.mp4"
    odd.write_bytes(made("h264.mp4").read_bytes())
    monkeypatch.chdir(tmp_path)
    for path in (odd, str(odd), os.fsencode(odd), odd.name):
        for backend in ("decord", "pyav"):
            with open_video(path, backend) as video:
                assert read_numbers(video.get_frames([11])) == [11]


@pytest.mark.parametrize("backend", ["decord", "pyav"])
def test_short_videos(tmp_path, backend):
    for count in (1, 2, 3):
        path = write_video(tmp_path / f"{count}.mp4", numbers=range(count))
        with open_video(path, backend) as video:
            assert video.num_frames == count
            assert read_numbers(video.get_frames([count - 1, 0])) == [count - 1, 0]
            assert video.fps == pytest.approx(30)
            assert video.decoder == backend


def test_readers_leave_nothing_open(made):
    def open_files():
        return len(os.listdir("/proc/self/fd"))

    for backend in ("decord", "pyav"):
        for name in ("h264.mp4", "open.mp4"):
            with open_video(made(name), backend) as video:
                video.get_frames([5])
        before = open_files()
        for _ in range(5):
            with open_video(made("h264.mp4"), backend) as video:
                video.get_frames([50])
        assert open_files() <= before


def test_video_error_is_picklable():
    error = pickle.loads(pickle.dumps(VideoError("a.mp4", "too short")))
    assert (error.path, error.reason, str(error)) == ("a.mp4", "too short", "a.mp4: too short")


def rightly_read(path, backend, expected):
    """How many frames can be read, each asserted to be the one of `expected`; the others raise VideoError."""
    count = 0
    with open_video(path, backend) as video:
        for index in range(video.num_frames):
            try:
                frame = video.get_frames([index])[0]
            except VideoError as error:
                assert error.path == str(path)
                assert error.reason
            else:
                assert read_number(frame) == expected[index]
                count += 1
    return count


@pytest.mark.parametrize("backend", ["decord", "pyav"])
@pytest.mark.parametrize("content", [b"", b"This is no video.\n" * 200, None])
def test_no_video_at_all(tmp_path, content, backend):
    path = tmp_path / "no.mp4"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(VideoError) as caught:
        open_video(path, backend)
    assert caught.value.path == str(path)
    assert caught.value.reason == ("No such file or directory" if content is None else caught.value.reason) != ""


def test_audio_alone_is_no_video(tmp_path):
    with av.open(str(tmp_path / "audio.mp4"), "w") as container:
        stream = container.add_stream("aac", rate=16000, layout="mono")
        frame = av.AudioFrame.from_ndarray(np.zeros((1, 16000), np.float32), format="fltp", layout="mono")
        frame.sample_rate = 16000
        container.mux(stream.encode(frame))
        container.mux(stream.encode())
    with pytest.raises(VideoError, match="no video stream"):
        open_video(tmp_path / "audio.mp4")


@pytest.mark.parametrize("backend", ["decord", "pyav"])
@pytest.mark.parametrize("name", ["faststart.mp4", "h264.mkv", "h264.ts", "h264.avi", "mpeg4.avi", "vp9.webm"])
def test_file_that_is_cut_off(made, tmp_path, name, backend):
    source = made("h264.mp4") if name == "faststart.mp4" else made(name)
    if name == "faststart.mp4":
        source = remux(source, tmp_path / name, movflags="faststart")
    data = source.read_bytes()
    path = tmp_path / f"cut_{name}"
    for part in (0.5, 0.6, 0.77):
        path.write_bytes(data[: int(part * len(data))])
        readable = rightly_read(path, backend, range(NUM_FRAMES))
        assert 5 < readable < 58
    if name == "faststart.mp4":
        with open_video(path, backend) as video:
            assert video.num_frames == NUM_FRAMES
            with pytest.raises(VideoError, match="frame 59 is lost"):
                video.get_frames([0, 59])


@pytest.mark.parametrize("backend", ["decord", "pyav"])
def test_pieces_that_are_missing_do_not_shift_the_others(made, tmp_path, backend):
    rng = random.Random(0)
    for name in ("h264.mkv", "h264.avi", "mpeg4.avi", "mjpeg.avi"):
        data = made(name).read_bytes()
        start = int(rng.uniform(0.4, 0.6) * len(data))
        path = tmp_path / name
        path.write_bytes(data[:start] + data[start + len(data) // 10 :])
        with open_video(made(name), "pyav") as video:
            whole = video.get_frames(range(NUM_FRAMES))
        readable = 0
        with open_video(path, backend) as video:
            for index in range(video.num_frames):
                try:
                    frame = video.get_frames([index])[0]
                except VideoError:
                    continue
                readable += 1
                # Only the picture that is cut in two may be damaged without its decoder's noticing.
                assert read_number(frame) == index
                assert (frame == whole[index]).all() or readable > 15
        assert 5 < readable < 58


@pytest.mark.parametrize("backend", ["decord", "pyav"])
def test_damage_that_a_decoder_conceals_is_an_error(made, tmp_path, backend):
    """The second keyframe is spoilt: its group of pictures can't be read, all others can."""
    index = build_index(made("h264.mp4"))
    start = index.frame_packets[12]
    position, size = index.packet_places[start]
    data = bytearray(made("h264.mp4").read_bytes())
    spoilt = slice(position + size // 4, position + size)
    data[spoilt] = random.Random(1).randbytes(spoilt.stop - spoilt.start)
    path = tmp_path / "spoilt.mp4"
    path.write_bytes(data)
    with open_video(path, backend) as video:
        for number in range(0, NUM_FRAMES, 3):
            if 12 <= number < 24:
                with pytest.raises(VideoError, match=f"frames {number} to"):
                    video.get_frames([number])
            else:
                assert read_numbers(video.get_frames([number])) == [number]
        assert video.decoder == "pyav"
        with pytest.raises(VideoError):
            video.get_frames(range(NUM_FRAMES))


@pytest.mark.parametrize("backend", ["decord", "pyav"])
def test_times_that_contradict_the_pictures(made, tmp_path, backend):
    """Two packets' times are swapped: no rank can be trusted, and the decoder shows it."""
    path = tmp_path / "swapped.mkv"
    with av.open(str(made("h264.mp4"))) as old, av.open(str(path), "w") as new:
        stream = old.streams.video[0]
        copy = new.add_stream_from_template(stream)
        packets = [packet for packet in old.demux(stream) if packet.size]
        ranks = sorted(range(NUM_FRAMES), key=lambda n: packets[n].pts)
        first, second = packets[ranks[26]], packets[ranks[29]]
        first.pts, second.pts = second.pts, first.pts
        late = int(1 / stream.time_base)
        for packet in packets:
            packet.pts += late
            packet.stream = copy
            new.mux(packet)
    with open_video(path, "pyav") as video:
        assert read_numbers(video.get_frames([3, 50])) == [3, 50]
        with pytest.raises(VideoError, match="another place"):
            video.get_frames(range(24, 32))


@pytest.mark.parametrize("backend", ["decord", "pyav"])
def test_frame_size_that_changes(made, tmp_path, backend):
    path = tmp_path / "sizes.h264"
    small = tmp_path / "small.h264"
    with av.open(str(small), "w") as container:
        stream = container.add_stream("libx264", rate=30)
        stream.width, stream.height, stream.pix_fmt = WIDTH // 2, HEIGHT // 2, "yuv420p"
        for number in range(20):
            picture = numbered_frame(number, HEIGHT // 2, WIDTH // 2)
            container.mux(stream.encode(av.VideoFrame.from_ndarray(picture, format="rgb24")))
        container.mux(stream.encode())
    path.write_bytes(made("h264.h264").read_bytes() + small.read_bytes())
    with open_video(path, backend) as video:
        assert video.num_frames == NUM_FRAMES + 20
        assert read_numbers(video.get_frames(range(NUM_FRAMES))) == list(range(NUM_FRAMES))
        with pytest.raises(VideoError, match="size changes from 192 x 128 to 96 x 64"):
            video.get_frames([NUM_FRAMES + 3])


@pytest.mark.parametrize("backend", ["decord", "pyav"])
def test_random_damage_never_hangs_crashes_or_leaves_its_error_type(made, tmp_path, backend):
    """Each file in one piece of a helper process, which tells a crash or a hang."""
    rng = random.Random(5)
    errors = 0
    for number in range(24):
        name = ("h264.mp4", "vp9.webm", "open.mkv", "mpeg4.avi", "h264.ts", "hevc.mp4")[number % 6]
        data = bytearray(made(name).read_bytes())
        place, length = rng.randrange(len(data)), rng.choice([1, 40, 1500])
        kind = number % 4
        if kind == 0:
            for _ in range(30):
                data[rng.randrange(len(data))] ^= 1 << rng.randrange(8)
        elif kind == 1:
            del data[place : place + length]
        elif kind == 2:
            data[place : place + length] = bytes(len(data[place : place + length]))
        else:
            data[place:place] = rng.randbytes(length)
        path = tmp_path / f"{number}_{name}"
        path.write_bytes(data)
        try:
            with open_video(path, backend) as video:
                for start in range(0, video.num_frames, 15):
                    indices = range(start, min(start + 15, video.num_frames))
                    assert video.get_frames(indices).shape == (len(indices), video.height, video.width, 3)
        except VideoError as error:
            assert error.path == str(path)
            assert error.reason
            errors += 1
    assert errors > 8


@pytest.mark.parametrize("backend", ["decord", "pyav"])
@pytest.mark.parametrize(
    ("name", "num_frames", "least"),
    [
        ("corrupt_few.mp4", 300, 200),
        ("corrupt_moov.mp4", 300, 0),
        ("odd_h264_444.mp4", 60, 60),
        ("one_frame.mp4", 1, 1),
        ("short10.mp4", 10, 10),
        ("sizechange.mkv", 200, 100),
        ("trunc_fs.mp4", 300, 140),
    ],
)
def test_shared_broken_videos_that_open(name, num_frames, least, backend):
    path = shared_file(f"videos/broken/{name}")
    assert least <= rightly_read(path, backend, range(num_frames)) <= num_frames
    assert build_index(path).num_frames == num_frames


@pytest.mark.parametrize("backend", ["decord", "pyav"])
@pytest.mark.parametrize("name", ["audio_only.mp4", "text.mp4", "trunc_nomoov.mp4", "zero.mp4"])
def test_shared_broken_videos_that_do_not(name, backend):
    path = shared_file(f"videos/broken/{name}")
    with pytest.raises(VideoError) as caught:
        open_video(path, backend)
    assert caught.value.path == str(path)
    assert caught.value.reason
