import subprocess
import sys

import pytest

# A process whose child reads from it as a worker of the loader; the child reports the error of a connection that ended.
PARENT = """
import multiprocessing, os, signal, sys
from mvidx.data.loader import start_worker

def work(connection):
    ours.close()  # the fork copied it
    start_worker(0)
    connection.send("started")
    try:
        connection.recv()
    except EOFError:
        sys.excepthook(*sys.exc_info())

context = multiprocessing.get_context("fork")
ours, theirs = context.Pipe()
worker = context.Process(target=work, args=(theirs,))
worker.start()
theirs.close()
ours.recv()
if sys.argv[1] == "killed":
    os.kill(os.getpid(), signal.SIGKILL)
ours.close()
worker.join()
"""


@pytest.mark.parametrize(("end", "reports"), [("killed", False), ("alive", True)])
def test_a_worker_whose_process_was_killed_ends_without_a_traceback(end, reports):
    done = subprocess.run([sys.executable, "-c", PARENT, end], capture_output=True, text=True, timeout=120)
    assert ("EOFError" in done.stderr) == reports, done.stderr
