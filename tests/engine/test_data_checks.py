"""Mistakes in the data end a training before its first training stage, and name the file."""

import json
import os

import pytest
import torch
from detectron2.data import DatasetCatalog
from detectron2.modeling import build_model
from torch.utils.data import DataLoader

from d2_featcomp.data.images import read_image
from d2_featcomp.engine import (
    build_for_inference,
    evaluate,
    label_images,
    report_errors,
    setup_config,
    train_stages,
)

CONFIG = "configs/quick/msfc_R18.yaml"
SMALL = (
    *("MODEL.DEVICE", "cpu", "MODEL.FPN.OUT_CHANNELS", 16, "MODEL.FEATCOMP.SSFC.CHANNELS", 4),
    *("MODEL.ROI_BOX_HEAD.FC_DIM", 16, "MODEL.ROI_MASK_HEAD.CONV_DIM", 8),
    *("MODEL.ROI_HEADS.NUM_CLASSES", 2, "MODEL.ROI_HEADS.SCORE_THRESH_TEST", 0.0),
    *("TEST.DETECTIONS_PER_IMAGE", 3, "INPUT.MIN_SIZE_TEST", 64, "INPUT.MIN_SIZE_TRAIN", (64,)),
    *("DATALOADER.NUM_WORKERS", 0, "INPUT.MASK_FORMAT", "polygon", "SOLVER.IMS_PER_BATCH", 2),
)


def without_masks(data):
    for annotation in data["annotations"]:
        del annotation["segmentation"]


def config_of(tmp_path, train, test, *overrides):
    data = ("DATASETS.TRAIN", (train,), "DATASETS.TEST", (test,), "OUTPUT_DIR", str(tmp_path / "out"))
    return setup_config(CONFIG, [*SMALL, *data, *overrides])


@pytest.mark.parametrize("steps", [(1,), (2, 3)])
def test_before_the_first_stage(coco_folder, tmp_path, steps):
    good, bad = coco_folder(name="good"), coco_folder(without_masks, name="bad")
    more = ("MODEL.FEATCOMP.TRAIN.STEPS", steps, "MODEL.FEATCOMP.TRAIN.STEP2.LOSS", "distill")
    with pytest.raises(ValueError, match=r"4 of 4 annotations .*bad.* without a mask"):
        train_stages(config_of(tmp_path, bad, good, *more))
    with pytest.raises(ValueError, match=r"4 of 4 annotations are without masks"):
        train_stages(config_of(tmp_path, good, bad, *more, "TEST.EVAL_PERIOD", 0))
    (tmp_path / "good" / "annotations.json").unlink()
    for name in list(DatasetCatalog):
        if name == good:
            DatasetCatalog.remove(name)
    with pytest.raises(ValueError, match=r"good.* have no annotations"):
        train_stages(config_of(tmp_path, good, bad, *more))
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("key", ["MSFC.FIT_IMPORTANCE", "TRAIN.STEP2.IMPORTANCE_IMAGES"])
def test_importance_needs_labels(coco_folder, tmp_path, key):
    bad = coco_folder(without_masks, name="bad")
    settings = {"TRAIN.STEPS": (2,), "TRAIN.STEP2.LOSS": "distill", "MSFR.LATERAL": True}
    settings |= {"MSFC.FIT_IMAGES": 2, key: 2 if key.endswith("IMAGES") else True}
    flat = [part for name, value in settings.items() for part in (f"MODEL.FEATCOMP.{name}", value)]
    with pytest.raises(ValueError, match=r"4 of 4 annotations .*bad.* without a mask"):
        train_stages(config_of(tmp_path, bad, bad, *flat, "TEST.EVAL_PERIOD", -1))


class Files(torch.utils.data.Dataset):
    def __init__(self, *paths):
        self.paths = paths

    def __len__(self):
        return len(self.paths)

    def __getitem__(self, index):
        return read_image(self.paths[index], "RGB")


@pytest.mark.parametrize("workers", [0, 1])
def test_a_file_that_is_cut_short_is_named_in_one_line(coco_folder, tmp_path, capsys, workers):
    coco_folder()
    path = tmp_path / "set" / "1.png"
    os.truncate(path, path.stat().st_size // 2)
    with pytest.raises(SystemExit), report_errors():
        list(DataLoader(Files(str(path)), num_workers=workers))
    (line,) = capsys.readouterr().err.splitlines()
    assert f"error: {str(path)!r} is no image that can be read (" in line
    assert "Traceback" not in line and "worker" not in line


def test_labels_of_a_network_with_masks(coco_folder, tmp_path, caplog):
    """It reaches 100 AP on them, and annotations that were there are kept."""
    name = coco_folder()
    path = tmp_path / "set" / "annotations.json"
    own = path.read_bytes()
    torch.manual_seed(0)
    cfg = config_of(tmp_path, name, name, "MODEL.FEATCOMP.ENABLED", False)
    torch.save({"model": build_model(cfg).state_dict()}, tmp_path / "whole.pth")
    weights = ("MODEL.FEATCOMP.ENABLED", False, "MODEL.WEIGHTS", str(tmp_path / "whole.pth"))
    cfg = config_of(tmp_path, name, name, *weights)
    network = build_for_inference(cfg, cfg.MODEL.WEIGHTS, enabled=False)
    with caplog.at_level("WARNING", "d2_featcomp"):
        images, labels = label_images(cfg, network, str(tmp_path / "set"), score=0.0)
    assert (images, labels) == (2, 6)
    assert (tmp_path / "set" / "annotations.bak.json").read_bytes() == own
    assert "annotations.bak.json" in caplog.text
    written = json.loads(path.read_text())["annotations"]
    for annotation in written:
        assert annotation["segmentation"]["size"] == [64, 96]
    label_images(cfg, network, str(tmp_path / "set"), score=0.0)  # the same again: nothing to keep
    assert sorted(p.name for p in (tmp_path / "set").glob("*.json")) == [
        "annotations.bak.json",
        "annotations.json",
    ]
    label_images(cfg, network, str(tmp_path / "set"), score=0.0, class_names=["x", "y"])
    assert (tmp_path / "set" / "annotations.bak2.json").exists()
    assert (tmp_path / "set" / "annotations.bak.json").read_bytes() == own
    DatasetCatalog.remove(name)
    results = evaluate(config_of(tmp_path, name, name, *weights))
    assert results["bbox"]["AP"] == pytest.approx(100)
    assert results["segm"]["AP"] > 0
