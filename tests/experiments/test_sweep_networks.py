"""Sweeps of the other systems: BaF and MTL, with their anchors."""

import csv
import os

import networks
import pytest
import torch
from detectron2.data import DatasetCatalog

from d2_featcomp.data.datasets.scenes import procedural_recipe, register_scenes
from d2_featcomp.experiments import plan_sweep, run_sweep

NETWORKS = {
    "baf": ("configs/quick/baf_yolov3_tiny.yaml", "networks_val", (), "box AP"),
    "tasks": (
        "configs/quick/mtl_R34.yaml",
        "networks_multi_task_val",
        networks.listed({**networks.TINY_TASKS, "INPUT.MIN_SIZE_TEST": 48, "INPUT.MAX_SIZE_TEST": 64}),
        "PSNR",
    ),
}


@pytest.fixture(scope="module", autouse=True)
def scenes(tmp_path_factory):
    root = tmp_path_factory.mktemp("networks")
    register_scenes("networks", str(root / "scenes"), procedural_recipe({"train": 1, "val": 2}))
    DatasetCatalog.get("networks_val")


@pytest.mark.parametrize("name", [pytest.param("baf", marks=pytest.mark.slow), "tasks"])
def test_all_anchors(random_network, tmp_path, name):
    config, dataset, settings, quality = NETWORKS[name]
    torch.save({"model": random_network(name).state_dict()}, tmp_path / "weights.pth")
    opts = [
        *("MODEL.DEVICE", "cpu", "MODEL.WEIGHTS", str(tmp_path / "weights.pth")),
        *("DATASETS.TEST", f"('{dataset}',)", "DATALOADER.NUM_WORKERS", "0"),
        *map(str, settings),
    ]
    description = {
        "curves": [
            {"codec": "png", "bits": [3, 6]},
            {"name": "three", "points": [{"codec": "png", "bits": 8}, {"codec": "jpeg", "bits": 8}]},
        ],
        "anchors": ["image:jpeg420", "features:jpeg", "raw"],
    }
    out = str(tmp_path / "out")
    sweep = plan_sweep(description, config, opts, out)
    run_sweep(sweep, out)
    with open(os.path.join(out, "curves.csv"), newline="") as file:
        rows = {row["setting"]: row for row in csv.DictReader(file)}
    assert len(rows) == 4 + 6 + 7 + 1 + 1
    splits = {row["curve"]: row["split"] for row in rows.values()}
    own, every = {"baf": ("BaF", "IntermediateLayerSplit"), "tasks": ("QLayer", "QLayer")}[name]
    assert splits[f"{own}, png"] == splits["three"] == own and splits["image, jpeg420"] == "ImageSplit"
    assert splits["features, jpeg"] == splits["raw features, float32"] == every
    kb = {setting: float(row["kB"]) for setting, row in rows.items() if row["kB"]}
    assert kb[f"{own}, png, n = 3"] <= kb[f"{own}, png, n = 6"] < kb["raw features, float32"]
    metric = {"box AP": "bbox/AP", "PSNR": "reconstruction/PSNR"}[quality]
    raw, uncompressed = (float(rows[n][metric]) for n in ("raw features, float32", "uncompressed"))
    assert raw == pytest.approx(uncompressed, abs=1e-3)
    assert os.path.isfile(os.path.join(out, f"{quality.replace(' ', '_')}_bpp.png"))
