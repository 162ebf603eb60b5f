"""The edge's program: which sub-model it opens, and what it tells."""

import io
import logging
import sys
import types

import pytest
from PIL import Image
from tqdm import tqdm

from d2_featcomp.arguments import parse_arguments
from d2_featcomp.cli import edge as command
from d2_featcomp.cli.program import CommandParser
from d2_featcomp.serving import edge_program


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
