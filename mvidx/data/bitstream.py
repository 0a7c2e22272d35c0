"""The few header fields of H.264, HEVC and VP9 that tell how a video may be decoded.

Sources: ITU-T H.264 (7.3.1, 7.3.2.1), ISO/IEC 14496-15 (5.3.3.1, 8.3.3.1), ITU-T H.265 (7.3.2.1) and the VP9
bitstream specification (6.2). Nothing here decodes pixels; data that ends too early raises `ValueError`.
"""

_IDR, _SPS = 5, 7  # H.264 NAL unit types
_VPS = 32  # HEVC NAL unit type
_HIGH_PROFILES = {44, 83, 86, 100, 110, 118, 122, 128, 134, 135, 138, 139, 244}


class _Bits:
    """Reads big-endian bits of an H.264 NAL unit, its emulation prevention bytes removed."""

    def __init__(self, data):
        data = data.replace(b"\0\0\3", b"\0\0")
        self._value, self._left = int.from_bytes(data, "big"), 8 * len(data)

    def take(self, count):
        self._left -= count
        if self._left < 0:
            raise ValueError("header ends too early")
        return self._value >> self._left & ((1 << count) - 1)

    def unsigned(self):
        """An Exp-Golomb number, ue(v)."""
        zeros = 0
        while not self.take(1):
            zeros += 1
        return (1 << zeros) - 1 + self.take(zeros)

    def signed(self):
        """A signed Exp-Golomb number, se(v)."""
        value = self.unsigned()
        return (value + 1) // 2 if value % 2 else -(value // 2)


def _nal_units(data, length_size):
    """The NAL units of a packet: each behind its length (`length_size` bytes), or behind start codes (0)."""
    if length_size:
        start = 0
        while start + length_size <= len(data):
            end = start + length_size + int.from_bytes(data[start : start + length_size], "big")
            yield data[start + length_size : end]
            start = end
    else:
        yield from data.split(b"\0\0\1")[1:]


def _is_progressive(sps):
    """frame_mbs_only_flag of an H.264 sequence parameter set: the video has no fields, nor macroblocks of fields."""
    bits = _Bits(sps[1:])
    profile = bits.take(8)
    bits.take(16)
    bits.unsigned()  # seq_parameter_set_id
    if profile in _HIGH_PROFILES:
        chroma_format = bits.unsigned()
        if chroma_format == 3:
            bits.take(1)
        bits.unsigned(), bits.unsigned(), bits.take(1)  # bit depths, transform bypass
        if bits.take(1):  # scaling matrices
            for i in range(12 if chroma_format == 3 else 8):
                if bits.take(1):
                    _skip_scaling_list(bits, 16 if i < 6 else 64)
    bits.unsigned()  # log2_max_frame_num
    order_type = bits.unsigned()
    if order_type == 0:
        bits.unsigned()
    elif order_type == 1:
        bits.take(1), bits.signed(), bits.signed()
        for _ in range(bits.unsigned()):
            bits.signed()
    bits.unsigned(), bits.take(1), bits.unsigned(), bits.unsigned()  # reference frames, gaps, width, height
    return bool(bits.take(1))


def _skip_scaling_list(bits, size):
    last = following = 8
    for _ in range(size):
        if following:
            following = (last + bits.signed()) % 256
        last = following or last


class H264Headers:
    """What the headers of an H.264 stream say, from its extradata and its keyframe packets."""

    def __init__(self, extradata):
        self._parameters = set()
        self.closed = True  # every keyframe so far is an IDR picture
        is_avcc = extradata[:1] == b"\1"
        self._length_size = (extradata[4] & 3) + 1 if is_avcc and len(extradata) > 6 else 0
        if self._length_size:
            size = int.from_bytes(extradata[6:8], "big")
            self._parameters.add(extradata[8 : 8 + size])
        else:
            self._add_parameters(_nal_units(extradata, 0))

    def add_keyframe(self, data):
        units = list(_nal_units(data, self._length_size))
        self._add_parameters(units)
        self.closed = self.closed and any(unit[:1] and unit[0] & 31 == _IDR for unit in units)

    def _add_parameters(self, units):
        self._parameters.update(unit.rstrip(b"\0") for unit in units if unit[:1] and unit[0] & 31 == _SPS)

    @property
    def progressive(self):
        try:
            return bool(self._parameters) and all(map(_is_progressive, self._parameters))
        except ValueError:
            return False

    @property
    def constant(self):
        """All sequence parameter sets are one and the same, so the frame size is too."""
        return len(self._parameters) == 1


class Vp9Headers:
    """What the keyframes of a VP9 stream say: after the first byte come sync code, colours and frame size."""

    progressive = closed = True

    def __init__(self, extradata):
        self._sizes = set()

    def add_keyframe(self, data):
        self._sizes.add((data[1:8], data[8] >> 4 if len(data) > 8 else -1))

    @property
    def constant(self):
        return len(self._sizes) == 1


def hevc_has_one_layer(extradata):
    """Whether an HEVC stream has a single temporal layer, so that a non-reference picture is never referenced.

    In a stream with more layers a picture marked so may still be a reference for the layers above it.
    """
    if extradata[:1] == b"\1":
        return len(extradata) > 21 and extradata[21] >> 3 & 7 == 1
    parameters = [unit for unit in _nal_units(extradata, 0) if len(unit) > 3 and unit[0] >> 1 == _VPS]
    return bool(parameters) and all(unit[3] >> 1 & 7 == 0 for unit in parameters)
