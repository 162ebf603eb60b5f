"""Errors of command lines: one line for each, after the progress bars."""

import io
import sys

import pytest
from tqdm import tqdm

from d2_featcomp.errors import report_errors


@pytest.fixture
def fail(capsys, monkeypatch):
    """What is told about an error that a function raises."""
    monkeypatch.delenv("D2_FEATCOMP_TRACEBACK", raising=False)

    def call(function, *arguments):
        with pytest.raises(SystemExit) as ended, report_errors("featcomp edge"):
            function(*arguments)
        assert ended.value.code == 2
        told = capsys.readouterr().err
        assert told.count("\n") == 1 and told.startswith("featcomp edge: error: ")
        return told.removeprefix("featcomp edge: error: ").rstrip()

    return call


def test_errors_of_the_operating_system_name_the_file(fail, tmp_path):
    file = tmp_path / "file"
    file.touch()
    assert fail(open, str(tmp_path / "none")) == f"{str(tmp_path / 'none')!r}: no such file or directory"
    assert fail(open, str(tmp_path)) == f"{str(tmp_path)!r}: is a directory"
    place = f"{str(file)!r}: there is a file, where a folder is needed"
    assert fail(lambda: file.mkdir(exist_ok=True)) == place
    assert fail(lambda: list(file.iterdir())) == place


def test_errors_of_this_package_are_told_as_they_are(fail):
    def refuse():
        raise FileExistsError("'a' is there already")

    assert fail(refuse) == "'a' is there already"


def test_an_error_without_words_is_named(fail):
    def refuse():
        raise AssertionError

    assert fail(refuse) == "AssertionError (set D2_FEATCOMP_TRACEBACK=1 to see where)"


def test_an_error_stands_below_the_bars(monkeypatch):
    terminal = io.StringIO()
    monkeypatch.setattr(sys, "stderr", terminal)
    monkeypatch.delenv("D2_FEATCOMP_TRACEBACK", raising=False)
    bar = None
    with pytest.raises(SystemExit), report_errors("featcomp edge"):
        bar = tqdm(total=3, desc="images", file=terminal, mininterval=0)
        bar.update()
        raise ValueError("no TLS")
    bar.update()
    lines = terminal.getvalue().splitlines()
    assert lines[-1] == "featcomp edge: error: no TLS" and "images" in terminal.getvalue()
