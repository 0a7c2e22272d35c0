"""Stopping a run from outside: a signal asks, the run finishes its step, saves, and ends.

SLURM announces a time limit or a preemption by a signal (SIGUSR1 or SIGUSR2, as it was asked to) and ends a job by
SIGTERM; clouds end machines by SIGTERM. All three mean the same here.
"""

import signal
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

SIGNALS = (signal.SIGUSR1, signal.SIGUSR2, signal.SIGTERM)


class Stopped(Exception):
    """The run was asked to end by a signal and has saved what it had to; `signum` is that signal."""

    def __init__(self, signum: int):
        super().__init__(signum)
        self.signum = signum


class StopRequest:
    """Whether somebody asked for the end of the run.

    The signal handlers (and the watch over the other processes) set it, the loop reads it.

    Attributes:
        signum: the signal that asked, 0 while none has.
    """

    def __init__(self):
        self.signum = 0

    def __bool__(self) -> bool:
        return self.signum != 0

    def ask(self, signum: int, frame: object = None) -> None:
        """Remember the first signal; has the arguments of a signal handler."""
        self.signum = self.signum or signum

    @contextmanager
    def listening(self, signals: Sequence[int] = SIGNALS) -> Iterator["StopRequest"]:
        """Listen to `signals` while the context lasts; what handled them before handles them after.

        Python handles signals in the main thread alone: elsewhere nothing is listened to.
        """
        main = threading.current_thread() is threading.main_thread()
        before = {number: signal.signal(number, self.ask) for number in signals} if main else {}
        try:
            yield self
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)
