"""The command line of a run, and where it runs.

- `--launcher none`: this process, or the job that torchrun or srun started it in.
- `--launcher local`: one process a GPU of this machine. What happens by itself when NUM_GPUS is above 1, that many
  GPUs are here and no job is: PySlowFast's files mean that.
- `--launcher submitit`: a SLURM job (or, with `--cluster local`, detached processes here). A job that is
  preempted or runs out of time is submitted again by submitit and goes on from its newest checkpoint.
"""

import argparse
import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from mvidx.engine.stop import Stopped, StopRequest
from mvidx.errors import ERRORS_VARIABLE, STOPPED, UserError, tell

EXAMPLE = "example: %(prog)s --cfg configs/Motion/MVITv2_tiny.yaml SOLVER.MAX_EPOCH 10"


def make_parser(prog: str = "python tools/run_net.py") -> argparse.ArgumentParser:
    """The parser of `tools/run_net.py`; what follows its options are overrides, KEY VALUE ..."""
    parser = argparse.ArgumentParser(
        prog=prog, description="Train and test a model as a config describes.", epilog=EXAMPLE, allow_abbrev=False
    )
    parser.add_argument("--cfg", required=True, metavar="FILE", help="config, a YAML file")
    parser.add_argument("--launcher", choices=("none", "local", "submitit"), help="where to run")
    parser.add_argument("--processes", type=int, metavar="N", help="processes a node; one a GPU by default")
    slurm = parser.add_argument_group("submitit")
    slurm.add_argument("--cluster", choices=("slurm", "local"), default="slurm")
    slurm.add_argument("--partition")
    slurm.add_argument("--minutes", type=int, default=60 * 24, help="time limit")
    slurm.add_argument("--cpus-per-process", type=int, default=10)
    slurm.add_argument("--memory-gb", type=int, help="memory of a node")
    slurm.add_argument("--signal-seconds", type=int, default=90, help="warning before the time limit")
    slurm.add_argument("--max-timeouts", type=int, default=100, help="how often to go on after the time limit")
    slurm.add_argument("--constraint")
    slurm.add_argument("--comment")
    parser.add_argument("overrides", nargs=argparse.REMAINDER, metavar="KEY VALUE", help="keys to override")
    return parser


def parse_arguments(arguments: Sequence[str] | None, **parser: str) -> argparse.Namespace:
    """Arguments of `tools/run_net.py`."""
    words = sys.argv[1:] if arguments is None else arguments
    return make_parser(**parser).parse_args(
        [word for word in words if word != "--opts"]  # PySlowFast's, before the overrides
    )


def guard(command, *arguments) -> int:
    """Call a command; returns its exit status, or 0 for None.

    2 and one line for what a user can mend, 1 and one line for what ended a run, 75 for a run that was asked to end
    and has saved, 130 for Ctrl-C; anything else that goes wrong is raised.
    """
    try:
        return command(*arguments) or 0
    except UserError as error:
        tell(str(error))
        return error.status
    except Stopped as stopped:
        tell(f"stopped by {signal.Signals(stopped.signum).name}; the same command goes on where this run stopped")
        return STOPPED
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        return 130


def run_here(cfg) -> None:
    """Run a config in this process."""
    from mvidx.config.run import run

    run(cfg)


def load(cfg_file: str, overrides: Sequence[str]):
    """Load a config; what that has to say (keys passed over) goes to the log."""
    from mvidx.config.load import load_config
    from mvidx.engine.log import set_up_logging

    set_up_logging()
    return load_config(cfg_file, overrides)


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def run_local_processes(cfg_file: str, overrides: Sequence[str], num_processes: int) -> int:
    """Run the config in `num_processes` processes of this machine; returns the exit status of the first to fail.

    When one fails, the others find out and end by themselves; if they don't within a minute they are ended. Signals
    that ask for the end of the run are passed on.
    """
    job = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(_free_port()), "WORLD_SIZE": str(num_processes)}
    job["LOCAL_WORLD_SIZE"] = job["WORLD_SIZE"]
    command = [sys.executable, "-m", "mvidx.launch", "--cfg", cfg_file, "--launcher", "none", *overrides]
    with tempfile.TemporaryDirectory(prefix="mvidx-launch-") as errors, StopRequest().listening() as stop:
        job[ERRORS_VARIABLE] = errors
        processes = [
            subprocess.Popen(command, env={**os.environ, **job, "RANK": str(rank), "LOCAL_RANK": str(rank)})
            for rank in range(num_processes)
        ]
        try:
            return _wait(processes, stop)
        finally:
            _end(processes)
            messages = {file.read_text() for file in Path(errors).iterdir()}
            for message in sorted(messages):
                if not any(message != other and message.endswith(f" has ended: {other}") for other in messages):
                    print(f"error: {message}", file=sys.stderr)


OTHERS_SECONDS = 60.0
"""How long the other processes have to find out by themselves that one has failed."""


def _wait(processes: Sequence[subprocess.Popen], stop: StopRequest) -> int:
    """Wait for all processes; returns the exit status of the first to fail, 0 when none did."""
    passed_on = False
    first, since = 0, 0.0
    while None in (statuses := [process.poll() for process in processes]):
        if stop and not passed_on:
            passed_on = True
            for process in processes:
                process.send_signal(stop.signum)
        if not first and (failed := [status for status in statuses if status]):
            first, since = failed[0], time.monotonic()
        if first and first != STOPPED and time.monotonic() - since > OTHERS_SECONDS:
            break
        time.sleep(0.2)
    first = first or next((status for status in statuses if status), 0)
    if first < 0:
        rank = statuses.index(first)
        print(f"error: process {rank} was ended by {signal.Signals(-first).name}", file=sys.stderr)
    return first if first >= 0 else 128 - first  # ended by a signal: as a shell says it


def _end(processes: Sequence[subprocess.Popen]) -> None:
    """End the processes that still run: asked first, killed after 10 s."""
    for process in processes:
        process.terminate()
    for process in processes:
        try:
            process.wait(timeout=10)
        except subprocess.TimeoutExpired:
            process.kill()


@dataclass
class SubmittedRun:
    """What submitit runs in every process of a job, and submits again when the job is preempted or timed out."""

    cfg_file: str
    overrides: tuple[str, ...]

    def __call__(self) -> None:
        """Run; a run that was asked to end is given back to submitit, which submits it again.

        submitit handles the signal of a preemption or time limit (SIGUSR2 unless SUBMITIT_PREEMPT_SIGNAL names
        another) at once, in the middle of whatever runs. Here the run's own handlers stand in its place, and
        submitit's is called when the run has saved: by its protocol process 0 calls `checkpoint`, stores what that
        gives, and requeues the job.
        """
        import submitit

        requeue = signal.getsignal(submitit.JobEnvironment()._usr_sig())
        environment = submitit.helpers.TorchDistributedEnvironment().export(overwrite=True)
        os.environ["LOCAL_WORLD_SIZE"] = str(environment.local_world_size)
        stopped: list[Stopped] = []

        def run() -> None:
            try:
                run_here(load(self.cfg_file, self.overrides))
            except Stopped as reason:
                stopped.append(reason)
                raise

        status = guard(run)
        if stopped and callable(requeue):
            requeue(stopped[0].signum, None)  # ends process 0
        if status:
            raise SystemExit(status)

    def checkpoint(self, *_):
        """Called by submitit before a requeue: the same run, which resumes from its newest checkpoint."""
        import submitit

        return submitit.helpers.DelayedSubmission(self)


def submit(parsed: argparse.Namespace, cfg, num_processes: int) -> None:
    """Submit the run through submitit and print the job's number and where its logs are."""
    import submitit

    folder = Path(cfg.OUTPUT_DIR).resolve() / "submitit"
    try:
        limit = {f"{parsed.cluster}_max_num_timeout": parsed.max_timeouts}
        executor = submitit.AutoExecutor(folder=folder, cluster=parsed.cluster, **limit)
    except RuntimeError as error:  # no srun here
        raise UserError(f"--launcher submitit --cluster {parsed.cluster}: {error}") from None
    slurm = {"partition": parsed.partition, "constraint": parsed.constraint, "comment": parsed.comment}
    slurm["signal_delay_s"] = parsed.signal_seconds
    executor.update_parameters(
        name="mvidx",
        nodes=cfg.NUM_SHARDS,
        tasks_per_node=num_processes,
        gpus_per_node=0 if cfg.NUM_GPUS == 0 else num_processes,
        cpus_per_task=parsed.cpus_per_process,
        timeout_min=parsed.minutes,
        **({"mem_gb": parsed.memory_gb} if parsed.memory_gb else {}),
        **{f"slurm_{key}": value for key, value in slurm.items() if value},
    )
    try:
        job = executor.submit(SubmittedRun(os.path.abspath(parsed.cfg), tuple(parsed.overrides)))
    except (submitit.core.utils.FailedJobError, FileNotFoundError) as error:
        raise UserError(f"--launcher submitit: {' '.join(str(error).split())}") from None
    print(f"submitted job {job.job_id}; its logs are in {folder}")


def choose_launcher(num_gpus: int) -> str:
    """What runs a config when the command line does not say: "local" for several GPUs that are here, else "none"."""
    if num_gpus <= 1:
        return "none"
    import torch

    from mvidx.distributed import place_from_environment

    alone = place_from_environment().world_size == 1 and "RANK" not in os.environ
    return "local" if alone and torch.cuda.device_count() >= num_gpus else "none"


def launch(parsed: argparse.Namespace) -> int | None:
    """Run as the command line says."""
    cfg = load(parsed.cfg, parsed.overrides)  # a mistake is told here, once
    launcher = parsed.launcher or choose_launcher(cfg.NUM_GPUS)
    if launcher == "none":
        return run_here(cfg)
    num_processes = parsed.processes if parsed.processes is not None else max(1, cfg.NUM_GPUS)
    if num_processes < 1:
        raise UserError(f"--processes {num_processes}, expected at least 1")
    if launcher == "local":
        return run_local_processes(parsed.cfg, parsed.overrides, num_processes)
    return submit(parsed, cfg, num_processes)


def main(arguments: Sequence[str] | None = None, **parser: str) -> int:
    """`tools/run_net.py`, `mvidx train`. Returns the exit status."""
    return guard(launch, parse_arguments(arguments, **parser))


def test_main(arguments: Sequence[str] | None = None, **parser: str) -> int:
    """`mvidx test`: the same without training. Returns the exit status."""
    parsed = parse_arguments(arguments, **parser)
    parsed.overrides = [*parsed.overrides, "TRAIN.ENABLE", "False", "TEST.ENABLE", "True"]
    return guard(launch, parsed)


if __name__ == "__main__":
    sys.exit(main())
