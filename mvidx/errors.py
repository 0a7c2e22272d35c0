"""The base of errors that a command tells in one line, and the exit statuses of a run."""

import os
import sys
import time
from pathlib import Path

MISTAKE = 2
"""Exit status for a bad argument, key, file or checkpoint."""
TROUBLE = 1
"""Exit status of a run that met trouble: a non-finite loss, a dead loader worker, a lost process, a full disk."""
STOPPED = 75
"""Exit status of a run that a signal stopped after it had saved: the same command goes on (EX_TEMPFAIL)."""


class UserError(ValueError):
    """A bad argument, key, file or checkpoint; the message names it, the place and what was expected."""

    status = MISTAKE


class RunTrouble(UserError):
    """What ended a run that had begun; the message says what happened, where, and what remains."""

    status = TROUBLE


ERRORS_VARIABLE = "MVIDX_LAUNCH_ERRORS"
"""Variable with the folder in which a launcher wants the messages of its processes, to tell each once."""


def tell(message: str) -> None:
    """Print the one line of a command that ends, or leave it to the launcher of this process."""
    if told_by_launcher := os.environ.get(ERRORS_VARIABLE):
        Path(told_by_launcher, os.environ["RANK"]).write_text(message)
        return
    if os.environ.get("RANK", "0") != "0":
        time.sleep(3)  # rank 0 most likely says the same, and torchrun or srun then ends this process
    print(f"error: {message}", file=sys.stderr, flush=True)
