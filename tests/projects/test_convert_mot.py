"""Boxes of a video in MOT's format, on a few lines of it."""

import json

import pytest
import torch
from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.structures import Boxes, Instances
from PIL import Image

from d2_featcomp.data.datasets.image_folders import register_image_folders
from d2_featcomp.evaluation.coco import CheckedCOCOEvaluator

SCRIPT = "projects/BaF/convert_mot.py"
LINES = [
    "1,9,11,21,30.5,20,1,-4.1,-7.3,0",
    "1,15,91,1,20,40,1,-1,-1,-1",  # reaches over the right edge
    "1,19,41,41,10,10,0,-1,-1,-1",  # to be ignored
    "2,9,12,21,30,20,1,-1,-1,-1",  # of a frame that is not there
    "3,9,-9,51,20,40,1,-1,-1,-1",  # over the left and lower edges
    "3,15,201,201,20,40,1,-1,-1,-1",  # outside
]


@pytest.fixture
def video(tmp_path):
    frames = tmp_path / "frames"
    frames.mkdir()
    for number in (1, 3):
        Image.new("RGB", (100, 80)).save(frames / f"{number:06d}.png")
    (tmp_path / "gt.txt").write_text("\n".join(LINES) + "\n")
    return tmp_path


@pytest.fixture
def convert(video, run_tool):
    return lambda: run_tool(SCRIPT, "--boxes", video / "gt.txt", "--frames", video / "frames")


def test_boxes_become_persons_of_a_data_set_that_detectors_of_coco_are_measured_on(video, convert):
    status, told, error = convert()
    assert status == 0, error
    assert "3 boxes" in told
    data = json.loads((video / "frames" / "annotations.json").read_text())
    assert [image["file_name"] for image in data["images"]] == ["000001.png", "000003.png"]
    assert len(data["categories"]) == 80
    # MOT counts pixels from 1.
    boxes = [(a["image_id"], a["category_id"], *a["bbox"]) for a in data["annotations"]]
    assert boxes == [(1, 1, 10, 20, 30.5, 20), (1, 1, 90, 0, 10, 40), (2, 1, 0, 50, 10, 30)]
    assert [a["area"] for a in data["annotations"]] == [610, 400, 300]

    name = f"images:{video / 'frames'}"
    register_image_folders([name])
    try:
        records = DatasetCatalog.get(name)
        assert MetadataCatalog.get(name).thing_classes[0] == "person"
        evaluator = CheckedCOCOEvaluator(name, num_classes=80, output_dir=str(video))
        evaluator.reset()
        for record in records:
            found = Instances((80, 100))
            boxes = [annotation["bbox"] for annotation in record["annotations"]]
            corners = [[x, y, x + w, y + h] for x, y, w, h in [*boxes, [0, 0, 5, 5]]]
            found.pred_boxes = Boxes(torch.tensor(corners))
            found.scores = torch.full((len(corners),), 0.9)
            # One detection is of a class without ground truth, which does not count.
            found.pred_classes = torch.tensor([0] * len(boxes) + [2])
            evaluator.process([record], [{"instances": found}])
        assert evaluator.evaluate()["bbox"]["AP"] == pytest.approx(100)
    finally:
        DatasetCatalog.remove(name)
        MetadataCatalog.remove(name)


def test_other_annotations_are_kept_once(video, convert):
    path = video / "frames" / "annotations.json"
    path.write_text("{}")
    for _ in range(2):  # the second time they are those that are there
        assert convert()[0] == 0
    assert {each.name for each in path.parent.glob("annotations*")} == {
        path.name,
        "annotations.bak.json",
    }
    assert (path.parent / "annotations.bak.json").read_text() == "{}"


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("1,9,11,21,30,20", "line 7: no line of MOT's format"),
        ("1,9,11,x,30,20,1", "line 7: no line of MOT's format"),
        ("1,9,nan,21,30,20,1", "line 7: no line of MOT's format"),
        ("0,9,11,21,30,20,1", "line 7: no line of MOT's format"),
    ],
)
def test_lines_of_another_format_are_refused(video, convert, line, message):
    with open(video / "gt.txt", "a") as file:
        file.write(line)
    status, _, error = convert()
    assert status and message in error


def test_boxes_of_other_frames_alone_are_refused(video, convert):
    (video / "gt.txt").write_text("7,9,11,21,30,20,1\n")
    status, _, error = convert()
    assert status and "has no box in any of the 2 frames" in error


def test_frames_have_numbers(video, convert):
    (video / "frames" / "000003.png").rename(video / "frames" / "last.png")
    status, _, error = convert()
    assert status and "does not end in the number of a frame" in error
