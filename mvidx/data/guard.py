"""A time limit for decoding that holds inside C code too, and survives a decoder that crashes.

    frames = decode_with_timeout(read_clip, path, indices, timeout_seconds=30, path=path)

The call runs in a helper process, which stays for the next calls. If it takes too long the helper is killed; if the
decoder crashes only the helper dies. Either is a VideoError, and the next call starts another helper. That works in
daemonic processes too, such as the workers of a DataLoader. A result of 16 MB costs about 5 ms more than a plain call.

On Linux a helper is forked: ready in some milliseconds, sharing the memory of what is imported. It is subject to what
holds for forked processes (no CUDA, one thread), as DataLoader's own workers are. Elsewhere it is a fresh interpreter.
"""

import atexit
import contextlib
import os
import pickle
import signal
import socket
import struct
import subprocess
import sys
import threading
import time
import traceback
import warnings

import numpy as np

from mvidx.data.errors import VideoError

_SOCKET_BYTES = 1 << 20
_START_SECONDS = 300  # for starting a helper and importing the function: not part of the limit
_GRACE_SECONDS = 5  # after which a helper ends itself, should its parent be gone
_STARTED = "started"
_local = threading.local()


def decode_with_timeout(function, *args, timeout_seconds, path):
    """function(*args), or VideoError(path, ...) if it takes longer than `timeout_seconds` or kills its process.

    With a limit of 0 or None the function is simply called. Otherwise it must be importable by its module's name,
    arguments and result picklable. Each thread has a helper process of its own. Exceptions of the function come back
    as they are, or as RuntimeError with their traceback where they can't be pickled.
    """
    if not timeout_seconds:
        return function(*args)
    helper = getattr(_local, "helper", None)
    if helper is None or not helper.is_alive():
        helper = _local.helper = _Helper()
    succeeded, result = helper.call((function, args, timeout_seconds + _GRACE_SECONDS), timeout_seconds, path)
    if not succeeded:
        raise result
    return result


class _Forked:
    """A forked process that runs `serve`; has what is used here of subprocess.Popen."""

    def __init__(self, connection):
        self.returncode = None
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", DeprecationWarning)  # of forking a process that has threads
            self.pid = os.fork()
        if not self.pid:
            try:
                _leave_parent(connection)
                serve(connection)
            finally:
                os._exit(0)  # none of the parent's clean-up

    def poll(self):
        if self.returncode is None:
            with contextlib.suppress(ChildProcessError):
                pid, status = os.waitpid(self.pid, os.WNOHANG)
                if pid:
                    self.returncode = os.waitstatus_to_exitcode(status)
        return self.returncode

    def wait(self, timeout):
        deadline = time.monotonic() + timeout
        while self.poll() is None:
            if time.monotonic() > deadline:
                raise subprocess.TimeoutExpired("helper", timeout)
            time.sleep(0.001)

    def kill(self):
        if self.poll() is None:
            os.kill(self.pid, signal.SIGKILL)


def _leave_parent(connection):
    """Let go of everything that the parent has open, so that nobody waits for this process in its place."""
    for name in (signal.SIGTERM, signal.SIGUSR1, signal.SIGUSR2, signal.SIGCHLD, signal.SIGALRM):
        signal.signal(name, signal.SIG_DFL)
    keep = connection.fileno()
    os.closerange(3, keep)
    os.closerange(keep + 1, os.sysconf("SC_OPEN_MAX") if keep < 1 << 16 else keep + 2)
    torch = sys.modules.get("torch")
    if torch is not None:
        torch.set_num_threads(1)  # an OpenMP team does not survive a fork


def _start_interpreter(connection):
    code = (
        f"import socket, sys; sys.path[:] = {sys.path!r}; from mvidx.data import guard; "
        f"guard.serve(socket.socket(fileno={connection.fileno()}))"
    )
    return subprocess.Popen([sys.executable, "-c", code], stdin=subprocess.DEVNULL, pass_fds=[connection.fileno()])


class _Helper:
    """A helper process and the socket to it. It ends when the socket does: it can't outlive this process by much."""

    def __init__(self):
        self._socket, other = _socket_pair()
        with other:
            self._process = (_Forked if sys.platform == "linux" else _start_interpreter)(other)

    def is_alive(self):
        return self._process.poll() is None

    def disconnect(self):
        self._socket.close()

    def kill(self):
        self.disconnect()
        self._process.kill()
        with contextlib.suppress(subprocess.TimeoutExpired):  # a process that waits for a disk outlives even that
            self._process.wait(1)

    def call(self, request, timeout_seconds, path):
        """(whether the function returned, its result or exception)."""
        try:
            self._socket.settimeout(_START_SECONDS)
            _send(self._socket, _dump(request))
            answer = _load(_receive_parts(self._socket))
            if answer == _STARTED:
                self._socket.settimeout(timeout_seconds)
                answer = _load(_receive_parts(self._socket))
            return answer
        except TimeoutError:
            self.kill()
            raise VideoError(path, f"decoding took longer than {timeout_seconds:g} s") from None
        except (EOFError, ConnectionError):
            self.kill()
            raise VideoError(path, f"the decoding process died {self._cause()}") from None
        except BaseException:  # an interrupt, with half an answer in the socket
            self.kill()
            raise

    def _cause(self):
        status = self._process.returncode or 0
        return f"of {signal.Signals(-status).name}" if status < 0 else f"with exit status {status}"


def _drop_helper(end):
    helper = getattr(_local, "helper", None)
    if helper is not None:
        end(helper)
        _local.helper = None


atexit.register(_drop_helper, _Helper.kill)
os.register_at_fork(after_in_child=lambda: _drop_helper(_Helper.disconnect))  # it is the parent's


def serve(connection):
    """What a helper process does: answer requests until its parent closes the socket."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # for the parent, who closes the socket
    with _tuned(connection), contextlib.suppress(EOFError, ConnectionError):
        while True:
            request = _receive_parts(connection)
            try:
                function, args, end_seconds = _load(request)
                _send(connection, _dump(_STARTED))
                # The kernel ends this process by SIGALRM, even if Python gets no say, unless its parent did before.
                signal.setitimer(signal.ITIMER_REAL, end_seconds)
                answer = _dump((True, function(*args)))
            except Exception as error:
                answer = _dump((False, _portable(error)))
            signal.setitimer(signal.ITIMER_REAL, 0)
            _send(connection, answer)


def _portable(error):
    """`error` itself, or a RuntimeError with its traceback if it can't be pickled."""
    try:
        _load(_dump(error))
    except Exception:
        return RuntimeError(traceback.format_exc())
    return error


def _tuned(end):
    for option in (socket.SO_SNDBUF, socket.SO_RCVBUF):
        end.setsockopt(socket.SOL_SOCKET, option, _SOCKET_BYTES)
    return end


def _socket_pair():
    ours, theirs = socket.socketpair()
    return _tuned(ours), theirs


def _dump(value):
    """[pickle, memory of an array, ...]: what is in arrays is not copied into the pickle."""
    buffers = []
    pickled = pickle.dumps(value, protocol=5, buffer_callback=buffers.append)
    return [pickled, *(buffer.raw() for buffer in buffers)]


def _load(parts):
    return pickle.loads(parts[0], buffers=parts[1:])


def _send(connection, parts):
    connection.sendall(struct.pack(f"!Q{len(parts)}Q", len(parts), *map(len, parts)))
    for part in parts:
        connection.sendall(part)


def _receive_parts(connection):
    (count,) = struct.unpack("!Q", _receive_bytes(connection, 8))
    sizes = struct.unpack(f"!{count}Q", _receive_bytes(connection, 8 * count))
    return [_receive_bytes(connection, size) for size in sizes]


def _receive_bytes(connection, size):
    """uint8 (size,), memory of its own; EOFError if the other end is gone."""
    data = np.empty(size, np.uint8)
    view, received = memoryview(data), 0
    while received < size:
        count = connection.recv_into(view[received:])
        if not count:
            raise EOFError
        received += count
    return data
