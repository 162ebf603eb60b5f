"""A tiny look-alike of Cityscapes, in its layout."""

import json
import os

import numpy as np
import pytest
from detectron2.data import DatasetCatalog, MetadataCatalog
from PIL import Image

from d2_featcomp.data.datasets.cityscapes import (
    load_cityscapes_multi_task,
    register_cityscapes_multi_task,
)
from d2_featcomp.data.mappers import MultiTaskMapper

FRAMES = ("aachen_000000_000019", "aachen_000001_000019", "bochum_000000_000313")


def save(array, *path):
    os.makedirs(os.path.join(*path[:-1]), exist_ok=True)
    Image.fromarray(array).save(os.path.join(*path))


@pytest.fixture
def root(tmp_path):
    rng = np.random.default_rng(0)
    for frame in FRAMES:
        city = frame.split("_")[0]
        image = rng.integers(0, 256, (16, 32, 3), dtype=np.uint8)
        save(image, tmp_path, "leftImg8bit", "train", city, f"{frame}_leftImg8bit.png")
        labels = rng.integers(0, 19, (16, 32), dtype=np.uint8)
        labels[0] = 255
        for kind in ("labelIds", "labelTrainIds", "instanceIds"):
            save(labels, tmp_path, "gtFine", "train", city, f"{frame}_gtFine_{kind}.png")
        polygons = tmp_path / "gtFine" / "train" / city / f"{frame}_gtFine_polygons.json"
        polygons.write_text(json.dumps({"imgHeight": 16, "imgWidth": 32, "objects": []}))
        disparity = np.full((16, 32), 256 * 7 + 1, np.uint16)
        save(disparity, tmp_path, "disparity", "train", city, f"{frame}_disparity.png")
    return tmp_path


def test_images_labels_and_disparities_belong_together(root):
    dicts = load_cityscapes_multi_task(str(root), "train")
    assert sorted(os.path.basename(d["file_name"]) for d in dicts) == [
        f"{frame}_leftImg8bit.png" for frame in FRAMES
    ]
    for record in dicts:
        frame = os.path.basename(record["file_name"]).removesuffix("_leftImg8bit.png")
        assert os.path.basename(record["disparity_file_name"]) == f"{frame}_disparity.png"
        assert record["sem_seg_file_name"].endswith(f"{frame}_gtFine_labelTrainIds.png")
        assert (record["height"], record["width"]) == (16, 32)
    out = MultiTaskMapper(augmentations=[], image_format="BGR")(dicts[0])
    assert out["disparity"].unique().tolist() == [7.0]
    assert out["sem_seg"][0].unique().tolist() == [255] and out["sem_seg"][1:].max() < 19


def test_registration(root):
    name = f"cityscapes_test_{root.name}"
    register_cityscapes_multi_task(name, str(root), "train")
    assert len(DatasetCatalog.get(name)) == 3
    metadata = MetadataCatalog.get(name)
    assert metadata.evaluator_type == "multi_task" and metadata.ignore_label == 255
    assert len(metadata.stuff_classes) == len(metadata.stuff_colors) == 19
    assert metadata.stuff_classes[0] == "road"


def test_both_parts_are_registered_by_the_package():
    assert {"cityscapes_multi_task_train", "cityscapes_multi_task_val"} <= set(DatasetCatalog)


def test_missing_folders_and_files_are_named(root):
    with pytest.raises(FileNotFoundError, match=r"no folder '.*leftImg8bit.val'"):
        load_cityscapes_multi_task(str(root), "val")
    missing = root / "disparity" / "train" / "bochum" / f"{FRAMES[2]}_disparity.png"
    missing.unlink()
    with pytest.raises(FileNotFoundError, match=rf"no disparity map '.*{missing.name}' for image"):
        load_cityscapes_multi_task(str(root), "train")
    os.rename(root / "disparity", root / "elsewhere")
    with pytest.raises(FileNotFoundError, match=r"disparity.train'.*disparity_trainvaltest\.zip"):
        load_cityscapes_multi_task(str(root), "train")


def test_labels_that_were_not_prepared(root):
    for path in (root / "gtFine").rglob("*labelTrainIds.png"):
        path.unlink()
    with pytest.raises(FileNotFoundError, match=r"createTrainIdLabelImgs\.py"):
        load_cityscapes_multi_task(str(root), "train")


def test_label_ids_in_place_of_train_ids_are_told(root):
    for path in (root / "gtFine").rglob("*labelTrainIds.png"):
        save(np.full((16, 32), 23, np.uint8), path.parent, path.name)  # the sky's id, no train id
    with pytest.raises(ValueError, match=r"holds label 23: there are 19 .*createTrainIdLabelImgs\.py"):
        load_cityscapes_multi_task(str(root), "train")
