"""Command lines as processes of their own, forked from one that has imported PyTorch and Detectron2."""

import contextlib
import dataclasses
import functools
import multiprocessing
import os
import pickle
import runpy
import sys
from unittest import mock

# Not d2_featcomp: it is imported by each process, since it looks at its environment.
_PRELOADED = [
    *("torchvision", "detectron2.checkpoint", "detectron2.data", "detectron2.engine"),
    *("detectron2.evaluation", "detectron2.export", "detectron2.modeling", "imagecodecs"),
    *("fastapi", "httpx", "uvicorn", "matplotlib.mathtext", "matplotlib.figure"),
    *("matplotlib.backends.backend_agg", "matplotlib.backends.backend_svg"),
]
_forks = multiprocessing.get_context("forkserver")
_forks.set_forkserver_preload(_PRELOADED)


@dataclasses.dataclass
class Running:
    """A process, and the files that get its output."""

    process: multiprocessing.Process
    stdout: str
    stderr: str

    def wait(self, timeout=120):
        """(exit status, standard output, standard error)"""
        self.process.join(timeout)
        assert self.process.exitcode is not None, "it does not end"
        return self.process.exitcode, self.read(self.stdout), self.read(self.stderr)

    def kill(self):
        self.process.kill()
        self.process.join()

    @staticmethod
    def read(path):
        with contextlib.suppress(FileNotFoundError), open(path, encoding="utf-8") as file:
            return file.read()
        return ""


def start(script, arguments, output, environment=None, spawns=False):
    """
    Args:
        script (str): of a command line.
        arguments (sequence): for it.
        output (str): path; `.out` and `.err` are appended, for what it writes.
        environment (dict or None): variables that it gets besides those of this process.
        spawns (bool): whether processes that it launches itself begin with nothing, as those of users
            do, and import everything in some 5 s each, or are forked from it.

    Returns:
        Running: the process runs, in the working folder of this one.
    """
    files = f"{output}.out", f"{output}.err"
    settings = {"OMP_NUM_THREADS": "1", "PYTHONUNBUFFERED": "1"}
    variables = {**os.environ, **settings, **(environment or {})}
    with mock.patch.dict(os.environ, settings):  # those of the process that is forked
        process = _forks.Process(
            target=_run, args=(str(script), list(map(str, arguments)), variables, spawns, *files)
        )
        process.start()
    return Running(process, *files)


def call(script, arguments, output, environment=None, timeout=120, spawns=False):
    """(exit status, standard output, standard error) of a command line; see :func:`start`."""
    return start(script, arguments, output, environment, spawns).wait(timeout)


def _run(script, arguments, variables, spawns, *files):
    for descriptor, path in enumerate(files, start=1):
        opened = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
        os.dup2(opened, descriptor)
        os.close(opened)
    os.environ.clear()
    os.environ.update(variables)
    if not spawns:
        from torch import multiprocessing as launched

        launched.start_processes = functools.partial(_fork, launched.start_processes)
    sys.argv = [script, *arguments]
    sys.path.insert(0, os.path.dirname(os.path.abspath(script)))  # as Python itself does
    runpy.run_path(script, run_name="__main__")


def _fork(start_processes, function, args=(), **options):
    """torch.multiprocessing.start_processes, of forks; arguments are pickled all the same."""
    return start_processes(function, pickle.loads(pickle.dumps(args)), **options, start_method="fork")
