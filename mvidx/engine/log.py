"""What a run says on the screen: plain lines through `logging`, on rank 0 alone."""

import logging
import sys

from mvidx import distributed

logger = logging.getLogger("mvidx")


class _OverProgressBars(logging.Handler):
    """Prints lines above a tqdm bar instead of through it."""

    def emit(self, record: logging.LogRecord) -> None:
        from tqdm import tqdm

        try:
            tqdm.write(self.format(record), file=sys.stderr)
            sys.stderr.flush()
        except Exception:
            self.handleError(record)


def set_up_logging() -> None:
    """Send `mvidx` messages to stderr with the time; other ranks than 0 only warn."""
    if not logger.handlers:
        handler = _OverProgressBars()
        handler.setFormatter(logging.Formatter("%(asctime)s %(message)s", datefmt="%H:%M:%S"))
        logger.addHandler(handler)
        logger.propagate = False
    logger.setLevel(logging.INFO if distributed.is_main() else logging.WARNING)


def clock(seconds: float) -> str:
    """Seconds as h:mm:ss."""
    minutes, seconds = divmod(round(seconds), 60)
    return f"{minutes // 60}:{minutes % 60:02d}:{seconds:02d}"
