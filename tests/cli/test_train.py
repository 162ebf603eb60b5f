"""`featcomp train` and `featcomp eval`: what they leave in OUTPUT_DIR."""

import logging

import networks
import pytest

from d2_featcomp import cli, experiments
from d2_featcomp.engine import setup_config, terminal


@pytest.fixture
def loggers():
    """Detectron2's handlers are those of before, afterwards."""
    named = [logging.getLogger(name) for name in terminal._LOGGERS]
    before = [list(logger.handlers) for logger in named]
    yield
    for logger, handlers in zip(named, before, strict=True):
        logger.handlers[:] = handlers
    terminal._handlers.clear()


@pytest.mark.usefixtures("loggers")
def test_the_configuration_of_a_training_stays(tmp_path, monkeypatch, coco_folder, capsys):
    """Neither an evaluation of it nor a training that ends by a mistake writes over it."""
    measured = []
    monkeypatch.setattr(experiments, "evaluate", lambda cfg: measured.append(cfg))
    path, data = tmp_path / "out" / "config.yaml", repr((coco_folder(),))
    more = ["OUTPUT_DIR", str(path.parent), "MODEL.DEVICE", "cpu", "DATASETS.TRAIN", data]
    command = [f"--config={networks.MSFC}", *more, "DATASETS.TEST", data]
    weights = ["MODEL.WEIGHTS", "a.pth", "MODEL.FEATCOMP.CODEC.BITS"]
    assert cli.main(["eval", *command, *weights, "3"]) == 0
    assert setup_config(str(path)).MODEL.FEATCOMP.CODEC.BITS == 3  # no training is there
    (path.parent / "step1").mkdir()
    assert cli.main(["eval", *command, *weights, "5"]) == 0
    assert measured[1].MODEL.FEATCOMP.CODEC.BITS == 5
    with pytest.raises(SystemExit):
        cli.main(["train", *command, *weights, "17"])
    assert "cannot carry 17 bits" in capsys.readouterr().err
    assert setup_config(str(path)).MODEL.FEATCOMP.CODEC.BITS == 3
