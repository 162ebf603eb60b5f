"""YOLO-v3 under Detectron2's trainer and evaluator, from scratch."""

import json
import os

import pytest
from detectron2.data import DatasetCatalog

from d2_featcomp.data.datasets.scenes import procedural_recipe, register_scenes
from d2_featcomp.engine import evaluate, setup_config, train_stages


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    root = tmp_path_factory.mktemp("yolo")
    register_scenes("yolo_scenes", str(root / "scenes"), procedural_recipe({"train": 8, "val": 4}))
    DatasetCatalog.get("yolo_scenes_train")
    return [
        *("DATASETS.TRAIN", ("yolo_scenes_train",)),
        *("DATASETS.TEST", ("yolo_scenes_val",)),
        *("MODEL.DEVICE", "cpu"),
        *("DATALOADER.NUM_WORKERS", 0),
    ]


def test_training_lowers_the_losses_and_is_evaluated(data, tmp_path):
    settings = [
        *("MODEL.YOLOV3.LETTERBOX", 128),
        *("INPUT.MIN_SIZE_TRAIN", (96,), "INPUT.MAX_SIZE_TRAIN", 128),
        *("INPUT.MIN_SIZE_TEST", 96, "INPUT.MAX_SIZE_TEST", 128),
        *("SOLVER.IMS_PER_BATCH", 2, "SOLVER.WARMUP_ITERS", 1),
        *("MODEL.FEATCOMP.TRAIN.STEP1.MAX_ITER", 41),
        *("OUTPUT_DIR", str(tmp_path)),
    ]
    cfg = setup_config("configs/quick/yolov3_tiny.yaml", [*data, *settings])
    train_stages(cfg)
    with open(tmp_path / "step1" / "metrics.json", encoding="utf-8") as file:
        lines = [json.loads(line) for line in file]
    totals = [line["total_loss"] for line in lines if "total_loss" in line]
    assert totals[-1] < 0.7 * totals[0], totals
    weights = os.path.join(tmp_path, "model_final.pth")
    cfg = setup_config("configs/quick/yolov3_tiny.yaml", [*data, *settings, "MODEL.WEIGHTS", weights])
    results = evaluate(cfg)
    assert 0 <= results["bbox"]["AP"] <= 100
    assert "feature_rate" not in results
