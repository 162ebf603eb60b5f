import os
import platform
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).parents[2]
PINS = ("requirements.txt", "requirements.lock")

# Stands for a Python: writes down what it is asked, and does of it what files in the folder FAKE say.
PYTHON = """#!/bin/sh
echo "$*" >> "$FAKE/calls"
case "$*" in
    --version) echo "Python $(cat "$FAKE/version")" ;;
    *version_info*) test ! -e "$FAKE/old" ;;
    "-m venv "*) mkdir -p "$3/bin" && cp "$0" "$3/bin/python" ;;
    *get_path*) echo "$FAKE/site-packages" ;;
    *"import detectron2"*) test ! -e "$FAKE/no_detectron2" ;;
    *"import d2_featcomp"*) test ! -e "$FAKE/broken" ;;
    *"-m pip "*"--editable"*) test ! -e "$FAKE/last_pip_fails" ;;
    *"-m pip "*)
        if [ -e "$FAKE/killed" ]; then kill -KILL $PPID; fi
        test ! -e "$FAKE/pip_fails" ;;
    *) echo "unexpected: $*" >&2; exit 99 ;;
esac
"""


# Stands for the disk: no test depends on how full that of the tests is.
DF = """#!/bin/sh
echo 'Filesystem 1024-blocks Used Available Capacity Mounted on'
echo "/dev/vda 90000000 1000 $(cat "$FAKE/free_kb") 1% /"
"""


def fake(path, text):
    path.write_text(text)
    path.chmod(0o755)


@pytest.fixture
def home(tmp_path):
    """A copy of what install.sh reads, a fake Python of version 3.12.1 and a fake disk of 6 GB."""
    (tmp_path / "root" / "tools").mkdir(parents=True)
    for name in ("setup.py", *(f"tools/{name}" for name in ("install.sh", *PINS))):
        shutil.copy(ROOT / name, tmp_path / "root" / name)
    fake(tmp_path / "python", PYTHON)
    (tmp_path / "bin").mkdir()
    fake(tmp_path / "bin" / "df", DF)
    (tmp_path / "free_kb").write_text("6000000\n")
    (tmp_path / "version").write_text("3.12.1\n")
    return tmp_path


def install(home, python="python"):
    """Runs install.sh; returns its result and the calls of Python that it made."""
    (home / "calls").write_text("")
    python = home / python if python == "python" else python
    done = subprocess.run(
        ["sh", home / "root" / "tools" / "install.sh", python, home / "venv"],
        cwd=home,
        env={"PATH": f"{home / 'bin'}:{os.environ['PATH']}", "FAKE": str(home)},
        capture_output=True,
        text=True,
    )
    return done, (home / "calls").read_text().splitlines()


def pip_calls(calls):
    return [call.split("pip ", 1)[1] for call in calls if call.startswith("-m pip ")]


def stamp(home):
    return home / "venv" / ".complete"


def test_everything_is_installed_once(home):
    done, calls = install(home)
    assert done.returncode == 0, done.stderr
    assert f"-m venv {home / 'venv'}" in calls
    root = home / "root"
    build, pins, package = pip_calls(calls)
    assert build.endswith(f"--requirement {home / 'venv' / 'build.txt'}")
    assert pins.endswith(f"--requirement {root / 'tools' / 'requirements.lock'}")
    assert "--no-build-isolation" in pins  # nor is anything fetched to build with
    assert all("--no-deps --require-hashes" in call for call in (build, pins))
    assert package.endswith(f"--editable {root}") and "--no-deps" in package
    assert stamp(home).is_file()

    before = stamp(home).read_text()
    os.utime(stamp(home), (0, 0))
    done, calls = install(home)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    assert not pip_calls(calls) and not any("venv" in call for call in calls)
    assert stamp(home).read_text() == before
    assert stamp(home).stat().st_mtime == 0  # not even touched


def test_a_disk_that_is_too_small_is_told_at_once(home):
    (home / "free_kb").write_text("5900000\n")
    done, calls = install(home)
    assert done.returncode == 2 and "needs 6 GB, and its disk has 5 GB left" in done.stderr
    assert not any("venv" in call for call in calls)


def test_detectron2_comes_from_its_wheel_where_there_is_none(home):
    (home / "no_detectron2").touch()
    done, calls = install(home)
    assert done.returncode == 0, done.stderr
    *_, wheel, _ = pip_calls(calls)
    requirements = home / "venv" / "detectron2.txt"
    assert wheel.endswith(f"--target {home / 'site-packages'} --requirement {requirements}")
    assert "--no-deps --require-hashes" in wheel and "--python-version 3.10" in wheel
    assert re.fullmatch(r"sal-detectron2==0.7.2 --hash=sha256:[0-9a-f]{64}\n", requirements.read_text())


def test_packages_are_built_with_the_locked_tools(home):
    install(home)
    build = (home / "venv" / "build.txt").read_text()
    names = re.findall(r"^(\S+)==", build, re.MULTILINE)
    assert names == ["setuptools", "wheel"]
    assert build.count("--hash=sha256:") >= 4 and not build.endswith("\\\n")


def applies(requirement, python):
    """Whether a requirement is one of this Python on Linux."""
    system = {"python_version": python, "python_full_version": f"{python}.0", "sys_platform": "linux"}
    return requirement.marker is None or requirement.marker.evaluate(system)


def test_the_lock_is_of_the_pins():
    """Each pinned version is there with checksums; after a change, tools/lock.sh writes them."""
    locked = {}
    for line in (ROOT / "tools" / "requirements.lock").read_text().replace("\\\n", " ").splitlines():
        if not line.startswith("#"):
            pin, checksum, checksums = line.partition("--hash=sha256:")
            assert checksum and re.fullmatch(r"[0-9a-f]{64}( +--hash=sha256:[0-9a-f]{64})*", checksums)
            requirement = Requirement(pin)
            locked.setdefault(canonicalize_name(requirement.name), []).append(requirement)
    for line in (ROOT / "tools" / "requirements.txt").read_text().splitlines():
        if not line or line.startswith("#"):
            continue
        pin = Requirement(line)
        for python in ("3.10", "3.11", "3.12", "3.13"):
            if applies(pin, python):
                others = locked[canonicalize_name(pin.name)]
                found = [str(other.specifier) for other in others if applies(other, python)]
                assert found == [str(pin.specifier)], (line, python)


@pytest.mark.parametrize(
    "changed",
    ["tools/requirements.txt", "tools/requirements.lock", "setup.py", "tools/install.sh", "version"],
)
def test_a_change_installs_again(home, changed):
    install(home)
    path = home / changed if changed == "version" else home / "root" / changed
    path.write_text(path.read_text().replace("3.12.1", "3.12.2") + "# changed\n")
    done, calls = install(home)
    assert done.returncode == 0 and len(pip_calls(calls)) == 3
    assert not pip_calls(install(home)[1])


@pytest.mark.parametrize("failure", ["pip_fails", "last_pip_fails", "broken", "killed"])
@pytest.mark.parametrize("complete_before", [False, True])
def test_what_failed_or_was_interrupted_is_not_taken_for_complete(home, failure, complete_before):
    if complete_before:
        install(home)
        assert stamp(home).exists()
        (home / "root" / "setup.py").write_text("# another release\n")
    (home / failure).touch()
    for _ in range(2):  # trying again does not help either
        done, calls = install(home)
        assert done.returncode != 0
        assert pip_calls(calls)
        assert not stamp(home).exists()
    (home / failure).unlink()
    done, calls = install(home)
    assert done.returncode == 0 and len(pip_calls(calls)) == 3
    assert stamp(home).exists()


def test_an_old_python_is_refused(home):
    (home / "old").touch()
    (home / "version").write_text("3.9.2\n")
    done, calls = install(home)
    assert done.returncode == 2
    assert done.stderr == (
        "error: Python 3.9.2 is too old: d2_featcomp needs Python 3.10 or newer; set PYTHON=\n"
    )
    assert not pip_calls(calls) and not (home / "venv").exists()


def test_a_missing_python_is_told(home):
    done, _ = install(home, python="python-that-is-not-there")
    assert done.returncode == 2
    assert done.stderr.startswith("error: ") and done.stderr.count("\n") == 1
    assert "python-that-is-not-there" in done.stderr and "PYTHON=" in done.stderr
    assert "too old" not in done.stderr
    assert not (home / "venv").exists()


def test_the_python_of_the_tests_is_new_enough(home):
    """With the stamp that it wants already there, nothing but the check of its version runs."""
    (home / "python").write_text(f'#!/bin/sh\nexec {sys.executable} "$@"\n')
    tools = home / "root" / "tools"
    files = [*(tools / name for name in PINS), home / "root" / "setup.py", tools / "install.sh"]
    content = b"".join(path.read_bytes() for path in files)
    checksum = subprocess.run(["cksum"], input=content, capture_output=True, check=True).stdout.decode()
    (home / "venv").mkdir()
    stamp(home).write_text(f"{checksum.strip()} Python {platform.python_version()} {home / 'root'}\n")
    done, _ = install(home)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    assert [path.name for path in (home / "venv").iterdir()] == [".complete"]
