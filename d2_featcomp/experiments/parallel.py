"""The trainings of a plan, and measurements beside them, by several processes."""

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
from .schema import file_name

__all__ = ["share_cores", "train_in_parallel"]

_PERIOD = 0.5  # seconds between two looks at the processes
_END = 10  # seconds that a process gets to end
# A logged line: level of a warning, time and logger, message; between them a terminal's colours.
_LOGGED = re.compile(
    r"(\x1b\[[\d;]*m)*(?P<level>[A-Z]*)(\x1b\[[\d;]*m| )*"
    r"\[\d\d/\d\d [\d:]+ [\w.]+\]:(\x1b\[[\d;]*m| )*(?P<message>.*)"
)


def train_in_parallel(plan, output, *, workers, make_command, retrain=False, trained_in=None):
    """Does the trainings of a plan, several at a time, each in a process of its own; a process that
    finds no training to do measures a network that is trained.

    A training begins when the one that it starts from is done. Each process has its share of the CPU's
    cores (OMP_NUM_THREADS, unless that is set) and, where there are several GPUs, one of them. What it
    says goes to `trainings/<name>.txt`, of a measurement to `records/<name>.txt`; what it logs is logged
    here, too, after its name. Trainings that were done before are left as they are. Measurements end
    with the last training: :func:`run_plan` goes on with them, by all processes.
    To be called from the main thread, where SIGTERM ends the processes, too.

    Args:
        plan (Plan): whose trainings these are.
        output (str): folder, as of :func:`run_plan`.
        workers (int): processes at a time, 1 or more.
        make_command (callable): "train" or "measure", name of a training -> list[str], the command that
            does this alone.
        retrain (bool), trained_in (str or None): see :func:`run_plan`.

    Raises:
        ValueError, FileNotFoundError: see :func:`run_plan`. ChildProcessError: a training failed; the
        others were stopped, and go on when this is called again.
    """
    if not workers >= 1:
        raise ValueError(f"the number of workers is {workers}: it must be 1 or more")
    run = open_run(plan, output, retrain, trained_in)
    jobs = _Jobs(run, workers, make_command)
    # A job that is cancelled must not leave its trainings behind.
    before = signal.signal(signal.SIGTERM, lambda number, frame: sys.exit(128 + number))
    try:
        while jobs.are_left():
            if not (jobs.begin_training() or jobs.begin_measurement()):
                time.sleep(_PERIOD)
            jobs.check()
    finally:
        jobs.stop()
        signal.signal(signal.SIGTERM, before)


class _Jobs:
    """Which trainings are left, which run, and which network is measured beside them."""

    def __init__(self, run, workers, make_command):
        self._run, self._workers, self._make_command = run, workers, make_command
        self._devices = _Devices()
        self._left = {name: one for name, one in run.plan.trainings.items() if not one.checkpoint}
        self._running, self._measurement = {}, None
        measured = {point.training for point in run.plan.points.values()}
        self._unmeasured = [name for name in run.plan.trainings if name in measured]

    def are_left(self):
        """Whether there are trainings to do, or to wait for."""
        return bool(self._left)

    def begin_training(self):
        """Begins a training, or finds that it is done; False where none can begin."""
        for name, training in self._left.items():
            if name in self._running or training.start in self._left:
                continue
            if self._run.is_trained(training):
                del self._left[name]
                return True
            if len(self._running) < self._workers:
                if self._measurement and len(self._running) + 1 == self._workers:
                    self._stop_measurement()
                folder = self._run.trained_in(name)
                self._running[name] = self._begin("train", name, f"{folder}.txt")
                return True
        return False

    def begin_measurement(self):
        """Begins to measure a network that is trained; False where none can begin."""
        if self._measurement or len(self._running) >= self._workers:
            return False
        for name in self._unmeasured:
            if name not in self._left:
                self._unmeasured.remove(name)
                log = os.path.join(self._run.records, f"{file_name(name)}.txt")
                self._measurement = self._begin("measure", name, log)
                return True
        return False

    def _begin(self, task, name, log):
        return _Process(task, name, log, self._make_command(task, name), self._workers, self._devices)

    def check(self):
        """Looks which processes have ended. ChildProcessError: a training did, by an error."""
        for name, process in list(self._running.items()):
            if process.is_done():
                del self._running[name], self._left[name]
        if self._measurement:
            try:
                if self._measurement.is_done():
                    self._measurement = None
            except ChildProcessError as error:  # told again at the end
                logging.getLogger("d2_featcomp").warning("%s", error)
                self._measurement = None

    def stop(self):
        """Stops all processes."""
        for process in self._running.values():
            process.stop()
        self._stop_measurement()

    def _stop_measurement(self):
        if self._measurement:
            self._measurement.stop()
            self._unmeasured.append(self._measurement.name)
            self._measurement = None


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
    def __init__(self, task, name, log, command, workers, devices):
        self.name, self._devices, self._device = name, devices, devices.take()
        self._task = {"train": "training", "measure": "measurement of"}[task]
        self._label = name if task == "train" else f"measuring {name}"
        self._log, self._relayed = log, 0  # bytes
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
        _tell("%s %r begins, see %s", self._task.capitalize(), name, self._log)

    def is_done(self):
        """Whether it has ended. ChildProcessError: by an error."""
        status = self._process.poll()
        self._relay()
        if status is None:
            return False
        self._devices.give_back(self._device)
        if status:
            raise ChildProcessError(
                f"{self._task} {self.name!r} ended with status {status}: {_read_last_line(self._log)} "
                f"({self._log} has all that it said)"
            )
        minutes = (time.monotonic() - self._began) / 60
        _tell("%s %r is done, in %.1f minutes", self._task.capitalize(), self.name, minutes)
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
                logging.getLogger("d2_featcomp").log(level, "%s: %s", self._label, logged["message"])

    def stop(self):
        self._devices.give_back(self._device)
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
