"""An experiment with several seeds, plots and BD-rates, run for real on several tasks."""

import csv
import math
import os
import statistics

import networks
import pytest
import yaml
from detectron2.data import DatasetCatalog

from d2_featcomp.data.datasets.scenes import procedural_recipe, register_scenes
from d2_featcomp.experiments import read_experiment, run_experiment

TINY = {
    **networks.TINY_TASKS,
    "MODEL.FEATCOMP.TRAIN.STEP3.MAX_ITER": 2,
    "INPUT.MIN_SIZE_TRAIN": [48],
    "INPUT.MIN_SIZE_TEST": 48,
    "SOLVER.IMS_PER_BATCH": 2,
    "SOLVER.AMP.ENABLED": False,
    "DATALOADER.NUM_WORKERS": 0,
    "MODEL.FEATCOMP.TRAIN.IMAGES": 0,
    "DATASETS.TRAIN": ["seeds_multi_task_train"],
    "DATASETS.TEST": ["seeds_multi_task_val"],
}
DESCRIPTION = {
    "title": "Two seeds",
    "config_file": os.path.abspath("configs/quick/mtl_R34.yaml"),
    "seeds": [3, 4],
    "trainings": {
        "common": {"overrides": TINY},
        "tested": {"start": "common", "overrides": {**TINY, "SOLVER.MOMENTUM": 0.5}},
    },
    "curves": [
        {
            "name": training,
            "training": training,
            "points": [
                {"name": f"{training}, {quality}", "codec": "jpeg", "quality": quality}
                for quality in (95, 60, 20)
            ],
        }
        for training in ("common", "tested")
    ],
    "plot": {"x": "BPFE", "y": ["mIoU", "PSNR"]},
    "columns": ["mIoU", "PSNR", "BPFE"],
    "bd_rates": [
        {
            "anchor": "common",
            "test": "tested",
            "columns": ["PSNR"],
            "method": "pchip",
            "points": 2,
        },
        {"anchor": "common", "test": "common", "columns": ["PSNR"], "method": "akima"},
        {"anchor": "common", "test": "common", "columns": ["PSNR"]},
    ],
    "pictures": {"setting": "tested, 60", "count": 1},
    "goals": [
        {"setting": "common, 95", "column": "BPFE", "minus": "common, 20", "at_least": 0.01},
        {"bd_rate": "common", "anchor": "common", "column": "PSNR", "at_least": -1, "at_most": 1},
    ],
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    root = tmp_path_factory.mktemp("seeds")
    register_scenes("seeds", str(root / "scenes"), procedural_recipe({"train": 4, "val": 3}))
    DatasetCatalog.get("seeds_train")
    return root


def write(folder, **changes):
    path = folder / "experiment.yaml"
    path.write_text(yaml.safe_dump({**DESCRIPTION, **changes}))
    return str(path)


def test_everything_is_done_with_each_seed(folder):
    experiment = read_experiment(write(folder, bd_rates=DESCRIPTION["bd_rates"][:2]))
    assert list(experiment.trainings) == [
        f"{name}, seed {seed}" for seed in (3, 4) for name in ("common", "tested")
    ]
    assert experiment.trainings["tested, seed 4"].start == "common, seed 4"
    assert experiment.trainings["tested, seed 4"].overrides["SEED"] == 4
    out = folder / "out"
    assert run_experiment(experiment, str(out)) == []
    with open(out / "results.csv", newline="") as file:
        rows = {row["setting"]: row for row in csv.DictReader(file)}
    assert len(rows) == 12
    psnr = [float(rows[f"common, 95, seed {seed}"]["PSNR"]) for seed in (3, 4)]
    assert psnr[0] != psnr[1]
    table = (out / "table.md").read_text()
    line = next(line for line in table.splitlines() if line.startswith("| common, 95 "))
    assert f"{statistics.fmean(psnr):.2f} ± {statistics.stdev(psnr):.2f}" in line
    assert len(table.splitlines()) == 2 + 6
    plots = [f"curves_{column}.{end}" for column in ("PSNR", "mIoU") for end in ("png", "svg")]
    assert {name for name in os.listdir(out) if name.startswith("curves_")} == set(plots)
    assert sorted(os.listdir(out / "pictures")) == [
        f"000000{end}" for end in (".d2fc", "_features.png", "_tasks.png")
    ]
    with open(out / "bd_rates.csv", newline="") as file:
        found = list(csv.DictReader(file))
    assert [(row["test"], row["seed"]) for row in found] == [
        ("tested", "3"),
        ("tested", "4"),
        ("tested", "mean"),
        ("common", "3"),
        ("common", "4"),
        ("common", "mean"),
    ]
    for row in found[3:]:
        assert float(row["percent"]) == pytest.approx(0, abs=1e-6)
    assert "| common  | common    | PSNR |      all | akima" in (out / "bd_rates.md").read_text()


def test_a_training_done_once_is_the_start_of_all(folder):
    trainings = {name: dict(entry) for name, entry in DESCRIPTION["trainings"].items()}
    trainings["common"] = {**trainings["common"], "once": True}
    curves = [entry for entry in DESCRIPTION["curves"] if entry["training"] == "tested"]
    changes = {"trainings": trainings, "curves": curves, "bd_rates": [], "goals": []}
    experiment = read_experiment(write(folder, **changes))
    assert list(experiment.trainings) == ["common", "tested, seed 3", "tested, seed 4"]
    starts = [training.start for training in experiment.trainings.values()]
    assert starts == ["", "common", "common"]
    seeds = [training.overrides["SEED"] for training in experiment.trainings.values()]
    assert seeds == [3, 3, 4]


def test_what_cannot_be_compared_is_noted(folder):
    experiment = read_experiment(write(folder, bd_rates=DESCRIPTION["bd_rates"][2:]))
    missed = run_experiment(experiment, str(folder / "out"))
    assert len(missed) == 1 and "BD-rate against common by PSNR" in missed[0]
    with open(folder / "out" / "bd_rates.csv", newline="") as file:
        first, second, _ = csv.DictReader(file)
    assert math.isnan(float(first["percent"])) and first["seed"] == "3"
    assert "has 3 points of different quality: BD-rate by cubic needs at least 4" in second["note"]


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"seeds": [1, 1]}, "seeds must be distinct whole numbers"),
        ({"seeds": ["a"]}, "seeds must be distinct whole numbers"),
        ({"plot": {"y": ["mIoU", "accuracy"]}}, "unknown column 'accuracy'"),
        ({"bd_rates": [{"anchor": "x", "test": "tested", "columns": ["PSNR"]}]}, "unknown curve 'x'"),
        (
            {"bd_rates": [{"anchor": "common", "test": "tested", "columns": ["AP"]}]},
            "unknown column 'AP'",
        ),
        (
            {
                "bd_rates": [
                    {"anchor": "common", "test": "tested", "columns": ["PSNR"], "method": "linear"}
                ]
            },
            "unknown method 'linear'",
        ),
        (
            {"bd_rates": [{"anchor": "common", "test": "tested", "columns": ["PSNR"], "points": 2.5}]},
            "points must be a whole number",
        ),
        ({"bd_rates": []}, "must be among bd_rates"),
    ],
)
def test_mistakes_are_found_at_once(folder, changes, expected):
    with pytest.raises(ValueError, match=expected):
        read_experiment(write(folder, **changes))
