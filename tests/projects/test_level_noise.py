"""projects/MSFC/level_noise.py, on a random network."""

import csv

import networks
import pytest
import torch

CONFIG = networks.MSFC
SCRIPT = "projects/MSFC/level_noise.py"
SMALL = {
    **networks.TINY,
    "TEST.DETECTIONS_PER_IMAGE": "10",
    "INPUT.MIN_SIZE_TEST": "96",
    "DATALOADER.NUM_WORKERS": "0",
    "DATASETS.TEST": "('few_val',)",
}


@pytest.fixture(scope="module")
def tool(load_tool):
    return load_tool(SCRIPT)


def test_noise_has_the_variance_that_was_asked_for(tool):
    clean = {"p2": 3 * torch.randn(1, 64, 32, 32), "p3": torch.ones(1, 4, 2, 2)}

    def added(*arguments):
        noisy = tool.add_noise(clean, "p2", *arguments, torch.Generator().manual_seed(0))
        assert noisy["p3"] is clean["p3"]
        return noisy["p2"] - clean["p2"]

    noise = added(100.0, False)
    assert abs(noise.mean()) < 0.2 and noise.var() == pytest.approx(100, rel=0.02)
    assert added(0.5, True).var() == pytest.approx(4.5, rel=0.05)
    assert torch.equal(noise, added(100.0, False))
    assert tool.add_noise(clean, None, 100.0, False, None) is clean


def test_a_table_a_level(run_tool, few_scenes, tmp_path):
    networks.save("msfc", tmp_path / "a.pth")
    opts = networks.listed({**SMALL, "MODEL.WEIGHTS": tmp_path / "a.pth"})
    status, _, error = run_tool(SCRIPT, "--config-file", CONFIG, "--output", tmp_path / "out", *opts)
    assert status == 0, error
    with open(tmp_path / "out" / "level_noise.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    assert [row["level"] for row in rows] == ["no noise", "p2", "p3", "p4", "p5", "p6"]
    assert all(0 <= float(row[column]) <= 100 for row in rows for column in ("box AP", "mask AP"))
    assert (tmp_path / "out" / "level_noise.png").stat().st_size > 5000


@pytest.mark.parametrize(
    ("arguments", "words"),
    [(("--variance", "-1"), "cannot be negative"), ((), "no weights")],
)
def test_mistakes_are_told(run_tool, arguments, words):
    status, _, error = run_tool(SCRIPT, "--config-file", CONFIG, *arguments, "MODEL.WEIGHTS", "")
    assert status == 2 and words in error
