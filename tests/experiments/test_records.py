"""Who may measure into a folder, in real processes."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from d2_featcomp.experiments.records import locked

ROOT = Path(__file__).parents[2]
HOLDER = """
import os, sys, time
from d2_featcomp.experiments.records import locked
with locked(sys.argv[1]):
    child = os.fork()
    if child:
        print(child, flush=True)
    time.sleep(60)
"""


@pytest.fixture
def holder(tmp_path):
    """A process that measures, and the number of what it has forked."""
    process = subprocess.Popen(
        [sys.executable, "-c", HOLDER, str(tmp_path)],
        stdout=subprocess.PIPE,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
    )
    child = int(process.stdout.readline())
    yield process, child
    process.kill()
    process.wait()
    process.stdout.close()
    os.kill(child, signal.SIGKILL)


def test_two_programs_do_not_measure_into_one_folder(holder, tmp_path):
    with (
        pytest.raises(ValueError, match=r"another program is measuring into .*: wait for it"),
        locked(str(tmp_path)),
    ):
        pass


def test_what_a_stopped_program_has_forked_does_not_hold_the_folder(holder, tmp_path):
    process, child = holder
    process.terminate()
    process.wait()
    os.kill(child, 0)  # it is still there, as workers that read data are for seconds
    with locked(str(tmp_path)):
        pass
