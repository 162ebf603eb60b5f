"""The edge's program: which sub-model it opens, and what it tells."""

import io
import itertools
import json
import logging
import os
import signal
import sys
import types

import numpy as np
import pytest
from PIL import Image
from tqdm import tqdm

from d2_featcomp.arguments import parse_arguments
from d2_featcomp.cli import edge as command
from d2_featcomp.cli.program import CommandParser
from d2_featcomp.codecs import ImageSizes
from d2_featcomp.serving import edge_program
from d2_featcomp.serving.inputs import Frame


@pytest.fixture
def own_handlers():
    """Loggers without handlers, which are as they were afterwards."""
    loggers = [logging.getLogger(name) for name in ("detectron2", "fvcore", "d2_featcomp")]
    kept = [logger.handlers[:] for logger in loggers]
    for logger in loggers:
        logger.handlers.clear()
    yield
    for logger, handlers in zip(loggers, kept, strict=True):
        logger.handlers[:] = handlers


class FixedRate:
    """An edge whose codec has one rate."""

    feature_codec = types.SimpleNamespace(name="learned", rate=None)

    def __init__(self, *arguments):
        pass


def test_an_edge_in_pytorch_shows_what_other_commands_do(tmp_path, monkeypatch, own_handlers):
    terminal = io.StringIO()
    monkeypatch.setattr(sys, "stdout", terminal)
    monkeypatch.setattr("d2_featcomp.deploy.torch_edge.TorchEdge", FixedRate)
    path = tmp_path / "edge.pth"
    path.touch()
    assert isinstance(edge_program.open_edge(str(path)), FixedRate)
    with pytest.raises(ValueError, match=r"CODEC.RATE has no effect: codec 'learned' has one rate"):
        edge_program.open_edge(str(path), "", ["MODEL.FEATCOMP.CODEC.RATE", "0.5"])
    with tqdm(total=1, desc="images", file=terminal, mininterval=0):
        logging.getLogger("d2_featcomp").info("a line")
    logging.getLogger("fvcore.common.checkpoint").info("loading from")
    assert "a line" in terminal.getvalue() and "loading from" not in terminal.getvalue()
    assert "images" not in terminal.getvalue().partition("a line")[0].rpartition("\r")[2]


class Coded:
    """An edge that codes any picture as a few bytes, until something happens."""

    categories = ()
    feature_codec = types.SimpleNamespace(name="learned", rate=None)

    def __init__(self, happens=None, size=(8, 8)):
        self.happens, self.size, self.count = happens, size, 0

    def compute(self, picture):
        return types.SimpleNamespace(sizes=ImageSizes(self.size, self.size, self.size))

    def encode(self, features):
        self.count += 1
        if self.happens and self.count == 3:
            self.happens()
        return types.SimpleNamespace(to_bytes=lambda: b"bytes")


def run(monkeypatch, edge, *given):
    monkeypatch.setattr(edge_program, "open_edge", lambda *arguments: edge)
    parser = CommandParser()
    command.add_arguments(parser)
    return edge_program.run_edge(parse_arguments(parser, [str(word) for word in given]))


def interrupt():
    raise KeyboardInterrupt


@pytest.mark.parametrize(
    ("happens", "kind"),
    [(interrupt, KeyboardInterrupt), (lambda: os.kill(os.getpid(), signal.SIGTERM), SystemExit)],
)
def test_what_was_coded_before_an_end_is_listed(tmp_path, monkeypatch, happens, kind):
    """A camera has no other end."""
    before = signal.getsignal(signal.SIGTERM)
    frames = (Frame(f"camera0_{n}", np.zeros((8, 8, 3), np.uint8), n / 4) for n in itertools.count())
    monkeypatch.setattr(edge_program, "read_timed_frames", lambda *arguments: frames)
    with pytest.raises(kind) as raised:
        run(monkeypatch, Coded(happens), "--input", "camera:0", "--output", tmp_path)
    assert kind is KeyboardInterrupt or raised.value.code == 128 + signal.SIGTERM
    listed = json.loads((tmp_path / "images.json").read_text())["images"]
    assert [(entry["name"], entry["time"]) for entry in listed] == [
        ("camera0_0", 0.0),
        ("camera0_1", 0.25),
    ]
    assert signal.getsignal(signal.SIGTERM) == before


def test_images_that_a_cloud_will_refuse_are_told_once(tmp_path, monkeypatch, capsys):
    for name in ("a.png", "b.png"):
        Image.new("RGB", (8, 8)).save(tmp_path / name)
    given = ("--input", tmp_path, "--output", tmp_path / "out")
    assert run(monkeypatch, Coded(size=(2**13, 2**10)), *given) == 0
    assert capsys.readouterr().err.count("refuses") == 0
    assert run(monkeypatch, Coded(size=(2**13, 2**10 + 1)), *given) == 0
    told = capsys.readouterr().err
    assert told.count("refuses") == 1 and "--max-pixels" in told and "8396800 pixels" in told


def test_a_drawing_that_cannot_be_made_is_told_before_anything_is_sent(tmp_path, monkeypatch):
    (tmp_path / "v.mp4").touch()
    monkeypatch.setattr(edge_program, "Spool", None)
    given = ("--input", tmp_path / "v.mp4", "--output", tmp_path, "--connect", "127.0.0.1:1")
    with pytest.raises(ValueError, match="is the video itself"):
        run(monkeypatch, Coded(), *given, "--draw", tmp_path / "v.mp4")


def test_what_could_not_be_coded_is_told_once_and_counted(tmp_path, monkeypatch, capsys):
    class Edge:
        categories = ()
        feature_codec = None

        def compute(self, picture):
            raise RuntimeError("too large")

    monkeypatch.setattr(edge_program, "open_edge", lambda *arguments: Edge())
    (tmp_path / "a.jpg").write_text("no image")
    Image.new("RGB", (8, 8)).save(tmp_path / "b.png")
    parser = CommandParser()
    command.add_arguments(parser)
    given = ["--input", str(tmp_path), "--output", str(tmp_path / "out")]
    assert edge_program.run_edge(parse_arguments(parser, given)) == 3
    told = capsys.readouterr()
    assert told.out == "2 images could not be coded\n"
    assert told.err.count("a.jpg") == 1 and "of no known format" in told.err
    assert "b: too large" in told.err


def test_what_is_left_out_of_a_folder_is_told_and_no_failure(tmp_path, monkeypatch, capsys):
    photos = tmp_path / "photos"
    photos.mkdir()
    Image.new("RGB", (8, 8)).save(photos / "a.png")
    (photos / "IMG_0001.HEIC").touch()
    given = ("--input", photos, "--output", tmp_path / "out")
    assert run(monkeypatch, Coded(), *given) == 0
    assert capsys.readouterr().err.count("'IMG_0001.HEIC'") == 1
    for limit in (0, -1):
        with pytest.raises(ValueError, match=f"--limit is {limit}: it must be at least 1"):
            run(monkeypatch, Coded(), *given, "--limit", limit)


def test_a_name_that_is_too_long_is_of_one_image(tmp_path, monkeypatch, capsys):
    photos, longest = tmp_path / "photos", "b" * 251  # with ".png" what file systems allow
    photos.mkdir()
    for name in ("a", longest, "c"):
        Image.new("RGB", (8, 8)).save(photos / f"{name}.png")
    assert run(monkeypatch, Coded(), "--input", photos, "--output", tmp_path / "out") == 3
    told = capsys.readouterr()
    assert "is too long a name for a file: rename the image" in told.err
    assert "2 images, " in told.out and "1 image could not be coded" in told.out
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == ["a.d2fc", "c.d2fc"]


@pytest.mark.parametrize(
    ("option", "value"),
    [("--bandwidth", "nan"), ("--bandwidth", "0"), ("--latency", "nan"), ("--latency", "inf")],
)
def test_links_that_are_none(tmp_path, monkeypatch, option, value):
    given = ("--input", tmp_path, "--output", tmp_path / "out", option, value)
    with pytest.raises(ValueError, match=f"{option[2:]} is {value}"):
        run(monkeypatch, Coded(), *given)
