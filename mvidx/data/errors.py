"""What goes wrong with videos."""


class VideoError(Exception):
    """A video, or the wanted part of it, can't be decoded: `path` and `reason`, both str. Picklable."""

    def __init__(self, path, reason):
        super().__init__(path, reason)
        self.path, self.reason = path, reason

    def __str__(self):
        return f"{self.path}: {self.reason}"


class DecodeError(Exception):
    """A decoder's complaint inside this package: readers try another way, or raise VideoError.

    `packet` is the number of the first packet, in decode order, whose picture may be damaged.
    """

    def __init__(self, reason, packet=0):
        super().__init__(reason)
        self.packet = packet
