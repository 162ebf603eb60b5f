"""What a terminal shows: this package's own words, above progress bars; the log file gets all."""

import contextlib
import io
import logging
import sys

import pytest
from detectron2.utils.logger import setup_logger
from fvcore.common.checkpoint import get_unexpected_parameters_message
from tqdm import tqdm

from d2_featcomp.engine import setup_terminal

LOGGERS = ("detectron2", "fvcore", "d2_featcomp")
LINES = {
    "d2_featcomp": "stage 1 begins",
    "detectron2.utils.events": "iter: 19",
    "detectron2.data.build": "distribution of instances",
    "fvcore.common.checkpoint": "loading from",
}


@pytest.fixture(autouse=True)
def own_handlers():
    """Loggers that no other test has set up, and that are as they were afterwards."""
    kept = {name: logging.getLogger(name).handlers[:] for name in LOGGERS}
    setup_logger.cache_clear()
    for name in LOGGERS:
        logging.getLogger(name).handlers.clear()
    yield
    setup_logger.cache_clear()
    for name in LOGGERS:
        logging.getLogger(name).handlers[:] = kept[name]


def log_all():
    for name, line in LINES.items():
        logging.getLogger(name).info(line)
    logging.getLogger("detectron2.data").warning("an image is missing")
    gaps = "Category ids in annotations are not in [1, #categories]! We'll apply a mapping for you."
    logging.getLogger("detectron2.data.datasets.coco").warning(gaps)
    lacks = "Some model parameters or buffers are not found in the checkpoint:\n"
    logging.getLogger("fvcore.common.checkpoint").warning(f"{lacks}feature_split.encoder")
    logging.getLogger("fvcore.common.checkpoint").warning(f"{lacks}feature_split.a\nbackbone.fpn")
    for name in ("feature_codec.model", "roi_heads.mask"):
        unused = get_unexpected_parameters_message([f"{name}.weight"])
        logging.getLogger("fvcore.common.checkpoint").warning(unused)


@pytest.mark.parametrize("verbose", [False, True])
def test_few_lines_unless_asked(tmp_path, capsys, verbose):
    setup_terminal(str(tmp_path), verbose=verbose)
    setup_terminal(str(tmp_path), verbose=verbose)
    log_all()
    shown, logged = capsys.readouterr().out, (tmp_path / "log.txt").read_text()
    for name, line in LINES.items():
        assert logged.count(line) == 1
        told = verbose or name in ("d2_featcomp", "detectron2.utils.events")
        assert shown.count(line) == told, line
    assert "an image is missing" in shown and "backbone.fpn" in shown
    assert "roi_heads.mask" in shown
    assert ("feature_split.encoder" in shown) == ("feature_codec.model" in shown) == verbose
    assert ("Category ids" in shown) == verbose and "Category ids" in logged


def test_a_folder_that_cannot_be_written_is_named(tmp_path):
    (tmp_path / "file").touch()
    folder = str(tmp_path / "file" / "out")
    with pytest.raises(
        OSError, match=rf"cannot write to the output folder '{folder}' \(Not a directory"
    ):
        setup_terminal(folder)


def test_warnings_that_no_user_can_heed():
    setup_terminal()
    for name, text, shown in (
        ("torch.fx._symbolic_trace", "is_fx_tracing will return true for both %s", False),
        ("torch.fx._symbolic_trace", "a node is lost", True),
        ("torch.utils.cpp_extension", "No CUDA runtime is found, using CUDA_HOME='%s'", False),
    ):
        logger = logging.getLogger(name)
        assert bool(logger.filter(logger.makeRecord(logger.name, 30, "", 0, text, (), None))) == shown


def test_lines_do_not_tear_bars(monkeypatch):
    terminal = io.StringIO()
    monkeypatch.setattr(sys, "stdout", terminal)
    monkeypatch.setattr(sys, "stderr", terminal)
    setup_terminal()
    with tqdm(range(3), desc="images", file=terminal, mininterval=0) as progress:
        for _ in progress:
            logging.getLogger("d2_featcomp").info("a line")
    # Each line begins where the bar was cleared.
    for before in terminal.getvalue().split("a line")[:-1]:
        assert "images" not in before.rpartition("\r")[2]


def test_lines_go_to_the_standard_output_of_the_moment(monkeypatch):
    first, second = io.StringIO(), io.StringIO()
    monkeypatch.setattr(sys, "stdout", first)
    setup_terminal()
    logging.getLogger("d2_featcomp").info("to the first")
    first.close()
    monkeypatch.setattr(sys, "stdout", second)
    logging.getLogger("d2_featcomp").info("to the second")
    assert "to the second" in second.getvalue()


def test_what_is_printed_may_be_logged(monkeypatch):
    """As what pycocotools prints is."""

    class Logged(io.StringIO):
        def write(self, text):
            logging.getLogger("d2_featcomp").info(text)

    terminal = io.StringIO()
    monkeypatch.setattr(sys, "stdout", terminal)
    setup_terminal()
    with contextlib.redirect_stdout(Logged()):
        print("a line")
    assert "a line" in terminal.getvalue()
