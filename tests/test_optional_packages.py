"""Packages that are there and cannot be loaded, and imports that a signal stops: in processes."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PACKAGES = ("onnxruntime", "cv2", "av", "httpx", "constriction")
LACKS = "libgomp.so.1: cannot open shared object file: No such file or directory"
STOPPED = """
import os, signal
try:
    os.kill(os.getpid(), signal.{})
except BaseException as error:
    raise ImportError("initialization failed") from error
"""


@pytest.fixture
def run(tmp_path):
    """Runs featcomp where packages have other sources; (exit status, output, errors)."""

    def call(sources, *arguments, **variables):
        for name, source in sources.items():
            (tmp_path / "packages" / name).mkdir(parents=True)
            (tmp_path / "packages" / name / "__init__.py").write_text(source)
        path = os.pathsep.join((str(tmp_path / "packages"), str(ROOT)))
        done = subprocess.run(
            [sys.executable, "-m", "d2_featcomp", *arguments],
            env={**os.environ, "PYTHONPATH": path, "D2_FEATCOMP_TRACEBACK": "", **variables},
            cwd=tmp_path,
            capture_output=True,
            text=True,
            preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),  # "&" has it ignored
        )
        return done.returncode, done.stdout, done.stderr

    return call


@pytest.mark.parametrize(
    ("package", "given"),
    [
        ("onnxruntime", ("--input", "a.png", "--output", "out")),
        ("httpx", ("--connect", "127.0.0.1:1")),
    ],
)
def test_a_package_that_cannot_be_loaded_is_not_called_missing(run, tmp_path, package, given):
    (tmp_path / "edge.onnx").touch()
    broken = {package: f"raise ImportError({LACKS!r})"}
    status, _, errors = run(broken, "edge", "--weights", "edge.onnx", *given)
    assert status == 2 and errors.count("\n") == 1 and "missing" not in errors
    assert (
        f"{package}, and what is installed cannot be loaded ({LACKS}): install what it lacks" in errors
    )


def test_info_tells_both_apart(run):
    pytest.importorskip("torch")
    sources = dict.fromkeys(PACKAGES, f"raise ImportError({LACKS!r})")
    sources["ray"] = "raise ModuleNotFoundError(\"No module named 'ray'\", name='ray')"
    status, told, errors = run(sources, "info")
    assert (status, errors) == (0, "")
    for name in ("PyAV", "OpenCV", "onnxruntime", "httpx"):
        assert f"\n  {name:18}cannot be loaded ({LACKS}): install what it lacks (" in told
    assert f"\n  {'hevc':18}codec 'hevc' needs PyAV with libx265, and what is installed cannot" in told
    assert f"\n  {'learned':18}codec 'learned' needs the package constriction, and what" in told
    assert f"\n  {'Ray Serve':18}missing (" in told


@pytest.mark.parametrize(("name", "expected"), [("SIGTERM", 143), ("SIGINT", 130)])
def test_an_import_that_a_signal_stops_is_an_end_by_that_signal(run, tmp_path, name, expected):
    (tmp_path / "edge.onnx").touch()
    given = ("--weights", "edge.onnx", "--input", "a.png", "--output", "out")
    status, _, errors = run({"onnxruntime": STOPPED.format(name)}, "edge", *given)
    assert status == expected and "onnxruntime" not in errors


@pytest.mark.parametrize("threads", ["2,1", "two"])
def test_threads_of_several_levels(run, tmp_path, threads):
    pytest.importorskip("onnxruntime")
    (tmp_path / "edge.onnx").write_text("no ONNX")
    given = ("--weights", "edge.onnx", "--input", "a.png", "--output", "out")
    status, _, errors = run({}, "edge", *given, OMP_NUM_THREADS=threads)
    assert status == 2 and "int()" not in errors
    words = "OMP_NUM_THREADS is 'two'" if threads == "two" else "no ONNX file that onnxruntime can read"
    assert words in errors
