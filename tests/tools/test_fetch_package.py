"""tools/fetch_package.sh, with a program in place of Python that writes down what it is asked."""

import subprocess
from pathlib import Path

import pytest

SCRIPT = Path(__file__).parents[2] / "tools" / "fetch_package.sh"


def fetch(folder, kind, code):
    python = folder / "python"
    python.write_text(f'#!/bin/sh\nprintf "%s\\n" "$@" > "{folder}/asked"\nexit {code}\n')
    python.chmod(0o755)
    command = ["sh", SCRIPT, python, kind, "some-package==1.2", "0" * 64, folder / "files to keep"]
    done = subprocess.run(command, capture_output=True, text=True)
    return done, (folder / "asked").read_text().splitlines()


@pytest.mark.parametrize(
    ("kind", "allowed"),
    [
        ("wheel", ["--only-binary", ":all:"]),
        ("source", ["--no-binary", ":all:", "--no-build-isolation"]),
    ],
)
def test_pip_gets_the_package_and_its_checksum(tmp_path, kind, allowed):
    done, asked = fetch(tmp_path, kind, 0)
    assert (done.returncode, done.stderr) == (0, "")
    folder = tmp_path / "files to keep"
    assert asked[asked.index("--no-deps") + 1 : asked.index("--require-hashes")] == allowed
    assert asked[-4:] == ["--dest", str(folder), "--requirement", str(folder / "hash.txt")]
    assert (folder / "hash.txt").read_text() == f"some-package==1.2 --hash=sha256:{'0' * 64}\n"


def test_a_package_that_cannot_be_had_is_told(tmp_path):
    done, _ = fetch(tmp_path, "wheel", 1)
    assert done.returncode == 2
    assert done.stderr == "error: cannot download some-package==1.2, or it is not the file that it was\n"
