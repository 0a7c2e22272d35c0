"""What test_guard.py has called in helper processes: a module that is quick to import."""

import ctypes
import os
import threading
import time

from mvidx.data.errors import VideoError
from mvidx.data.guard import decode_with_timeout


def echo(*values):
    return values


def process_id():
    return os.getpid()


def sleep(seconds):
    """As C code does that lets Python go on, and as C code does that never lets it."""
    time.sleep(seconds)


def sleep_in_c(seconds):
    ctypes.PyDLL(None).sleep(seconds)


def crash(number):
    os.kill(os.getpid(), number)


def refuse(path):
    raise VideoError(path, "it is not good")


class Unpicklable(Exception):
    def __init__(self):
        super().__init__("secret")
        self.thread = threading.Lock()


def raise_unpicklable():
    raise Unpicklable


def end_of_file():
    raise EOFError("of the function, not of the socket")


def guarded(function, *args, seconds=20):
    return decode_with_timeout(function, *args, timeout_seconds=seconds, path="a.mp4")


def open_and_sleep():
    """In place of a decoder that hangs."""
    sleep_in_c(60)
