"""projects/MSFC/level_noise.py, on a random network."""

import csv

import pytest
import torch
from detectron2.data import DatasetCatalog
from detectron2.modeling import build_model

from d2_featcomp.data.datasets.scenes import procedural_recipe, register_scenes
from d2_featcomp.engine import setup_config

CONFIG = "configs/quick/msfc_R18.yaml"
SCRIPT = "projects/MSFC/level_noise.py"
SMALL = {
    "MODEL.DEVICE": "cpu",
    "MODEL.FPN.OUT_CHANNELS": "16",
    "MODEL.FEATCOMP.SSFC.CHANNELS": "4",
    "MODEL.ROI_BOX_HEAD.FC_DIM": "16",
    "MODEL.ROI_MASK_HEAD.CONV_DIM": "8",
    "INPUT.MIN_SIZE_TEST": "96",
    "DATALOADER.NUM_WORKERS": "0",
    "DATASETS.TEST": "('noisy_val',)",
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


def test_a_table_a_level(run_tool, tmp_path):
    register_scenes("noisy", str(tmp_path / "noisy"), procedural_recipe({"train": 1, "val": 2}))
    DatasetCatalog.get("noisy_val")
    torch.manual_seed(0)
    network = build_model(setup_config(CONFIG, [part for item in SMALL.items() for part in item]))
    torch.save({"model": network.state_dict()}, tmp_path / "a.pth")
    opts = [part for item in {**SMALL, "MODEL.WEIGHTS": tmp_path / "a.pth"}.items() for part in item]
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
