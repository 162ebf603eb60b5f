"""An experiment of a few iterations, run for real."""

import csv
import json
import os

import pytest
import yaml
from detectron2.data import DatasetCatalog

from d2_featcomp.codecs import FeatureBitstream
from d2_featcomp.data.datasets.scenes import procedural_recipe, register_scenes
from d2_featcomp.engine import read_experiment, run_experiment

TINY = {
    "MODEL.DEVICE": "cpu",
    "MODEL.FPN.OUT_CHANNELS": 16,
    "MODEL.FEATCOMP.SSFC.CHANNELS": 4,
    "MODEL.FEATCOMP.MSFF.LEVEL": "p5",
    "MODEL.ROI_BOX_HEAD.FC_DIM": 16,
    "MODEL.ROI_MASK_HEAD.CONV_DIM": 8,
    "INPUT.MIN_SIZE_TRAIN": [96],
    "INPUT.MIN_SIZE_TEST": 96,
    "SOLVER.IMS_PER_BATCH": 2,
    "SOLVER.WARMUP_ITERS": 1,
    "DATALOADER.NUM_WORKERS": 0,
    "DATASETS.TRAIN": ["experiment_train"],
    "DATASETS.TEST": ["experiment_val"],
}


def description(**changes):
    return {
        "title": "a small one",
        "config_file": os.path.abspath("configs/quick/msfc_R18.yaml"),
        "trainings": {
            "detector": {
                "overrides": {
                    **TINY,
                    "MODEL.FEATCOMP.TRAIN.STEPS": [1],
                    "MODEL.FEATCOMP.TRAIN.STEP1.MAX_ITER": 2,
                }
            },
            "msfc": {
                "start": "detector",
                "overrides": {
                    **TINY,
                    "MODEL.FEATCOMP.TRAIN.STEPS": [3],
                    "MODEL.FEATCOMP.TRAIN.STEP3.MAX_ITER": 2,
                },
            },
        },
        "settings": [
            {
                "name": "floats",
                "training": "detector",
                "overrides": {
                    "MODEL.FEATCOMP.SPLIT": "Pyramid",
                    "MODEL.FEATCOMP.CODEC.NAME": "raw",
                    "MODEL.FEATCOMP.CODEC.BITS": 32,
                },
            },
            {"name": "n = 2", "training": "msfc", "curve": "MSFC"},
        ],
        "pictures": {"setting": "n = 2", "reference": "detector", "count": 1},
        "goals": [
            {"setting": "n = 2", "column": "BPFE packed", "at_most": 0.01},
            {"setting": "n = 2", "column": "BPFE", "minus": "floats", "at_least": 0},
        ],
        **changes,
    }


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    root = tmp_path_factory.mktemp("experiment")
    register_scenes("experiment", str(root / "scenes"), procedural_recipe({"train": 4, "val": 3}))
    DatasetCatalog.get("experiment_train")
    return root


def run(folder, **changes):
    path = folder / "experiment.yaml"
    path.write_text(yaml.safe_dump(description(**changes)))
    return run_experiment(read_experiment(str(path)), str(folder / "out"))


def times(folder):
    kept = ("trainings/detector/model_final.pth", "trainings/msfc/model_final.pth")
    measured = [f"settings/{name}/inference/feature_rates.csv" for name in ("floats", "n_=_2")]
    return [os.stat(folder / "out" / name).st_mtime_ns for name in (*kept, *measured)]


def test_an_experiment_from_start_to_end_and_again(folder):
    missed = run(folder)
    assert len(missed) == 1 and missed[0].startswith("n = 2: BPFE minus that of floats -")
    out = folder / "out"
    with open(out / "results.csv", newline="") as file:
        rows = {row["setting"]: row for row in csv.DictReader(file)}
    # p2..p5 of 96 x 128 pixels as floats, p6 not sent: 1020 of 1024 positions. n = 2: 4 channels of 12.
    assert float(rows["floats"]["BPFE packed"]) == pytest.approx(32 * 1020 / 1024)
    assert float(rows["n = 2"]["BPFE packed"]) == pytest.approx(4 * 12 * 2 / (16 * 1024))
    assert 0 <= float(rows["n = 2"]["box AP"]) <= 100
    with open(out / "results.json") as file:
        assert set(json.load(file)["settings"]) == {"floats", "n = 2"}
    assert (out / "curves.png").stat().st_size > 5000 and (out / "curves.svg").stat().st_size > 5000
    assert sorted(os.listdir(out / "pictures")) == [
        f"000000{end}" for end in (".d2fc", "_detections.png", "_features.png")
    ]
    FeatureBitstream.from_bytes((out / "pictures" / "000000.d2fc").read_bytes())

    # Nothing is done twice.
    before = times(folder)
    run(folder)
    assert times(folder) == before

    # What changed is done again, and what depends on it; nothing else.
    settings = description()["settings"]
    settings[1]["overrides"] = {"MODEL.FEATCOMP.CODEC.BITS": 4}
    run(folder, settings=settings)
    assert [a == b for a, b in zip(times(folder), before, strict=True)] == [True, True, True, False]
    trainings = description()["trainings"]
    trainings["msfc"]["overrides"]["SEED"] = 5
    before = times(folder)
    run(folder, settings=settings, trainings=trainings)
    assert [a == b for a, b in zip(times(folder), before, strict=True)] == [True, False, True, False]
