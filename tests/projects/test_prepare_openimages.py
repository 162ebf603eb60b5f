"""Open Images, on a few files of the official layout."""

import csv
import json
import os

import numpy as np
import pytest
from detectron2.data import DatasetCatalog, MetadataCatalog
from PIL import Image
from pycocotools.coco import COCO

from d2_featcomp.data.datasets.image_folders import register_image_folders

IMAGES = {"000a": (60, 40), "000b": (32, 48), "000c": (20, 20)}
SEGMENTATION = ["MaskPath", "ImageID", "LabelName", "BoxID", "BoxXMin", "BoxXMax", "BoxYMin", "BoxYMax"]
BOX = ["ImageID", "Source", "LabelName", "Confidence", "XMin", "XMax", "YMin", "YMax", "IsGroupOf"]
# Mask file, image, label, x0, x1, y0, y1 as shares of the image.
OBJECTS = [
    ("000a_m0k4j_1.png", "000a", "/m/0k4j", 0.0, 0.5, 0.25, 0.75),
    ("000a_m0ch_2.png", "000a", "/m/0ch", 0.5, 1.0, 0.0, 1.0),
    ("a00b_m0k4j_3.png", "000b", "/m/0k4j", 0.25, 0.75, 0.5, 1.0),
    ("000c_m0other_4.png", "000c", "/m/0other", 0.0, 1.0, 0.0, 1.0),
    ("missing_m0k4j_5.png", "not_there", "/m/0k4j", 0.0, 1.0, 0.0, 1.0),
]


def write_csv(path, head, lines):
    with open(path, "w", newline="") as file:
        writer = csv.writer(file)
        writer.writerows([head, *lines] if head else lines)


@pytest.fixture
def official(tmp_path):
    write_csv(
        tmp_path / "classes.csv", None, [("/m/0k4j", "Car"), ("/m/0ch", "Fish"), ("/m/0other", "Other")]
    )
    write_csv(
        tmp_path / "segmentations.csv",
        [*SEGMENTATION, "PredictedIoU", "Clicks"],
        [(mask, image, label, "box", *corners, 0.9, "") for mask, image, label, *corners in OBJECTS],
    )
    boxes = [(image, "x", label, 1, *corners, 0) for _, image, label, *corners in OBJECTS]
    boxes[2] = (*boxes[2][:-1], 1)
    write_csv(tmp_path / "boxes.csv", BOX, boxes)
    (tmp_path / "masks" / "a").mkdir(parents=True)
    (tmp_path / "images").mkdir()
    for name, size in IMAGES.items():
        Image.new("RGB", size).save(tmp_path / "images" / f"{name}.jpg")
    for mask, image, _, left, right, top, bottom in OBJECTS[:4]:
        width, height = IMAGES[image]
        pixels = np.zeros((2 * height, 2 * width), bool)  # masks come in sizes of their own
        pixels[
            int(2 * height * top) : int(2 * height * bottom),
            int(2 * width * left) : int(2 * width * right),
        ] = True
        folder = tmp_path / "masks" / ("a" if mask.startswith("a") else "")
        Image.fromarray(pixels).save(folder / mask)
    return tmp_path


@pytest.fixture
def prepare(official, run_tool):
    def run(*classes, **changes):
        flags = {
            "descriptions": "classes.csv",
            "segmentations": "segmentations.csv",
            "boxes": "boxes.csv",
            "masks": "masks",
            "images": "images",
            **changes,
        }
        given = {f"--{name}": official / value for name, value in flags.items() if value}
        pairs = [part for pair in given.items() for part in pair]
        return run_tool("projects/MSFC/prepare_openimages.py", "--classes", *classes, *pairs)

    return run


def test_objects_become_coco(official, prepare):
    status, told, error = prepare("fish", "Car")
    assert status == 0, error
    assert "3 objects in 2 images" in told and "1 images" in error
    path = official / "images" / "annotations.json"
    coco = COCO(str(path))
    assert [category["name"] for category in coco.loadCats(coco.getCatIds())] == ["fish", "Car"]
    by_file = {image["file_name"]: image for image in coco.dataset["images"]}
    assert {name: (image["width"], image["height"]) for name, image in by_file.items()} == {
        "000a.jpg": (60, 40),
        "000b.jpg": (32, 48),
    }
    assert coco.dataset["info"]["description"]  # releases 2.0.9 and 2.0.10 of pycocotools need "info"
    car, fish, cars = coco.dataset["annotations"]
    assert (car["category_id"], fish["category_id"], cars["category_id"]) == (2, 1, 2)
    assert (car["bbox"], fish["bbox"], cars["bbox"]) == (
        [0, 10, 30, 20],
        [30, 0, 30, 40],
        [8, 24, 16, 24],
    )
    assert (car["area"], car["iscrowd"], cars["iscrowd"]) == (600, 0, 1)
    mask = coco.annToMask(car)
    assert mask.shape == (40, 60) and mask[10:30, :30].all() and mask.sum() == 600
    name = f"images:{official / 'images'}"
    register_image_folders([name])
    assert [len(record["annotations"]) for record in DatasetCatalog.get(name)] == [2, 1]
    assert MetadataCatalog.get(name).thing_classes == ["fish", "Car"]


def test_classes_from_a_file_and_without_boxes(official, prepare):
    (official / "list.txt").write_text("Car\n\n")
    status, _, error = prepare(official / "list.txt", boxes=None)
    assert status == 0, error
    with open(official / "images" / "annotations.json") as file:
        assert [entry["iscrowd"] for entry in json.load(file)["annotations"]] == [0, 0]


def test_annotations_that_are_there_are_kept(official, prepare):
    path, kept = official / "images" / "annotations.json", official / "images" / "annotations.bak.json"
    path.write_text("corrected by hand")
    assert prepare("Car")[0] == 0
    assert kept.read_text() == "corrected by hand"
    first = path.read_text()
    assert prepare("Car")[0] == 0  # the same again
    assert path.read_text() == first and not (official / "images" / "annotations.bak2.json").exists()
    assert prepare("Fish")[0] == 0
    assert (official / "images" / "annotations.bak2.json").read_text() == first


@pytest.mark.parametrize(
    ("classes", "changes", "words"),
    [
        (["Unicorn"], {}, "describes no class Unicorn"),
        (["Car", "Car"], {}, "twice"),
        (["Car"], {"segmentations": "nowhere.csv"}, "no file"),
        (["Car"], {"segmentations": "boxes.csv"}, "has no column MaskPath"),
        (["Car"], {"masks": "nowhere"}, "no folder"),
        (["Car"], {"masks": "images"}, "no mask '000a_m0k4j_1.png'"),
        (["Car"], {"images": "masks"}, "no object of these classes"),
    ],
)
def test_mistakes_leave_nothing_behind(official, prepare, classes, changes, words):
    status, _, error = prepare(*classes, **changes)
    assert status == 2 and words in error
    assert not [name for name in os.listdir(official / "images") if "json" in name]
