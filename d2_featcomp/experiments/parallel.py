"""The trainings of a plan by several processes."""

import contextlib
import logging
import os
import re
import signal
import subprocess
import sys
import time

import torch

from .run import open_run

__all__ = ["share_cores", "train_in_parallel"]

_PERIOD = 0.5  # seconds between two looks at the processes
_END = 10  # seconds that a process gets to end
# A logged line: level of a warning, time and logger, message; between them a terminal's colours.
_LOGGED = re.compile(
    r"(\x1b\[[\d;]*m)*(?P<level>[A-Z]*)(\x1b\[[\d;]*m| )*"
    r"\[\d\d/\d\d [\d:]+ [\w.]+\]:(\x1b\[[\d;]*m| )*(?P<message>.*)"
)


def train_in_parallel(plan, output, *, workers, make_command, retrain=False, trained_in=None):
    """Does the trainings of a plan, several at a time, each in a process of its own.

    A training begins when the one that it starts from is done. Each process has its share of the CPU's
    cores (OMP_NUM_THREADS, unless that is set) and, where there are several GPUs, one of them. What it
    says goes to `trainings/<name>.txt`; what it logs is logged here, too, after its name. Trainings
    that were done before are left as they are.
    To be called from the main thread, where SIGTERM ends the processes, too.

    Args:
        plan (Plan): whose trainings these are.
        output (str): folder, as of :func:`run_plan`.
        workers (int): processes at a time, 1 or more.
        make_command (callable): name of a training -> list[str], the command that does it alone.
        retrain (bool), trained_in (str or None): see :func:`run_plan`.

    Raises:
        ValueError, FileNotFoundError: see :func:`run_plan`. ChildProcessError: a training failed; the
        others were stopped, and go on when this is called again.
    """
    if not workers >= 1:
        raise ValueError(f"the number of workers is {workers}: it must be 1 or more")
    run = open_run(plan, output, retrain, trained_in)
    left = {name: training for name, training in plan.trainings.items() if not training.checkpoint}
    devices, running = _Devices(), {}
    # A job that is cancelled must not leave its trainings behind.
    before = signal.signal(signal.SIGTERM, lambda number, frame: sys.exit(128 + number))
    try:
        while left:
            for name, training in left.items():
                if name in running or training.start in left:
                    continue
                if run.is_trained(training):
                    del left[name]
                    break
                if len(running) < workers:
                    running[name] = _Process(
                        name, run.trained_in(name), make_command(name), workers, devices
                    )
            else:
                time.sleep(_PERIOD)
            for name, process in list(running.items()):
                if process.is_done():
                    del running[name], left[name]
    finally:
        for process in running.values():
            process.stop()
        signal.signal(signal.SIGTERM, before)


def share_cores(workers):
    """Lets this process, one of `workers` (int), compute by its share of the CPU's cores, unless
    OMP_NUM_THREADS says by how many threads."""
    if "OMP_NUM_THREADS" not in os.environ:
        torch.set_num_threads(_find_share(workers))


def _find_share(workers):
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return max(1, cores // workers)


class _Devices:
    """Gives each process the GPU that the fewest others have."""

    def __init__(self):
        named = os.environ.get("CUDA_VISIBLE_DEVICES")
        names = named.split(",") if named else map(str, range(torch.cuda.device_count()))
        self._users = dict.fromkeys(names, 0)

    def take(self):
        """Returns str, or None where there is no choice."""
        if len(self._users) < 2:
            return None
        name = min(self._users, key=self._users.get)
        self._users[name] += 1
        return name

    def give_back(self, name):
        if name is not None:
            self._users[name] -= 1


class _Process:
    def __init__(self, name, folder, command, workers, devices):
        self._name, self._devices, self._device = name, devices, devices.take()
        self._log, self._relayed = f"{folder}.txt", 0  # bytes
        self._began = time.monotonic()
        environment = {"OMP_NUM_THREADS": str(_find_share(workers)), **os.environ}
        environment["PYTHONUNBUFFERED"] = "1"  # else errors come before what was printed first
        if self._device is not None:
            environment["CUDA_VISIBLE_DEVICES"] = self._device
        os.makedirs(os.path.dirname(self._log), exist_ok=True)
        with open(self._log, "w", encoding="utf-8") as log:
            self._process = subprocess.Popen(
                command, stdin=subprocess.DEVNULL, stdout=log, stderr=subprocess.STDOUT, env=environment
            )
        _tell("Training %r begins, see %s", name, self._log)

    def is_done(self):
        """Whether it has ended. ChildProcessError: by an error."""
        status = self._process.poll()
        self._relay()
        if status is None:
            return False
        self._devices.give_back(self._device)
        if status:
            raise ChildProcessError(
                f"training {self._name!r} ended with status {status}: {_read_last_line(self._log)} "
                f"({self._log} has all that it said)"
            )
        minutes = (time.monotonic() - self._began) / 60
        _tell("Training %r is done, in %.1f minutes", self._name, minutes)
        return True

    def _relay(self):
        """Logs what the process has logged since the last call."""
        with open(self._log, "rb") as file:
            file.seek(self._relayed)
            said = file.read()
        said = said[: said.rfind(b"\n") + 1]  # not yet what is being written
        self._relayed += len(said)
        for line in said.decode(errors="replace").splitlines():
            if logged := _LOGGED.match(line):
                level = logging.WARNING if logged["level"] else logging.INFO
                logging.getLogger("d2_featcomp").log(level, "%s: %s", self._name, logged["message"])

    def stop(self):
        if self._process.poll() is None:
            self._process.terminate()
            with contextlib.suppress(subprocess.TimeoutExpired):
                self._process.wait(_END)
            self._process.kill()
            self._process.wait()


def _read_last_line(path):
    with open(path, encoding="utf-8", errors="replace") as file:
        lines = [line.strip() for line in file if line.strip()]
    return lines[-1] if lines else "it said nothing"


def _tell(words, *values):
    logging.getLogger("d2_featcomp").info(words, *values)
