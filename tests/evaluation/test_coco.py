import logging
import math
import shutil

import pytest
import torch
from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.structures import Boxes, BoxMode, Instances
from pycocotools.cocoeval import COCOeval

from d2_featcomp.deploy.classes import choose_categories
from d2_featcomp.engine import setup_config
from d2_featcomp.evaluation import ImageMatches, build_evaluator
from d2_featcomp.evaluation.coco import CheckedCOCOEvaluator

RCNN = "configs/quick/msfc_R18.yaml"


def truth_as_predictions(records, masks=False):
    outputs = []
    for record in records:
        found = Instances((record["height"], record["width"]))
        boxes = torch.tensor([annotation["bbox"] for annotation in record["annotations"]]).float()
        found.pred_boxes = Boxes(torch.cat([boxes[:, :2], boxes[:, :2] + boxes[:, 2:]], dim=1))
        found.scores = torch.linspace(0.9, 0.8, len(boxes))
        found.pred_classes = torch.tensor([a["category_id"] for a in record["annotations"]])
        if masks:
            found.pred_masks = torch.zeros(
                len(boxes), record["height"], record["width"], dtype=torch.bool
            )
            for mask, (left, top, width, height) in zip(
                found.pred_masks, boxes.int().tolist(), strict=True
            ):
                mask[top : top + height, left : left + width] = True
        outputs.append({"instances": found})
    return outputs


def evaluated(name, tmp_path, masks=False, **options):
    records = DatasetCatalog.get(name)
    evaluator = CheckedCOCOEvaluator(name, output_dir=str(tmp_path), **options)
    evaluator.reset()
    evaluator.process(records, truth_as_predictions(records, masks))
    return evaluator.evaluate()


def boxes_at(*places, ids=(1, 2)):
    """Records in Detectron2's own form, with objects at these places."""
    return [
        {
            "file_name": f"{image}.png",
            "image_id": image,
            "height": 64,
            "width": 96,
            "annotations": [
                {"bbox": [x, 10, 24, 30], "bbox_mode": BoxMode.XYWH_ABS, "category_id": 0}
                for x in places
            ],
        }
        for image in ids
    ]


@pytest.fixture
def registered():
    """A function that registers records under the name "own", which it returns."""

    def register(records):
        DatasetCatalog.register("own", lambda: records)
        MetadataCatalog.get("own").set(thing_classes=["a"])
        return "own"

    yield register
    DatasetCatalog.pop("own", None)
    MetadataCatalog.pop("own", None)


def test_ids_of_images_may_be_words(registered, tmp_path):
    found = evaluated(registered(boxes_at(10, 40, ids=("first", "second"))), tmp_path)
    assert found["bbox"]["AP"] == pytest.approx(100)
    assert ImageMatches.load(str(tmp_path / "matches_bbox.npz")).image_ids.tolist() == [
        "first",
        "second",
    ]


def test_annotations_without_a_file_are_those_of_the_moment(registered, tmp_path):
    """Detectron2 keeps a converted file, and its path, of which a training may remove the folder."""
    records = boxes_at(10)
    evaluated(registered(records), tmp_path / "removed")
    shutil.rmtree(tmp_path / "removed")
    for record in records:
        record["annotations"] += boxes_at(40)[0]["annotations"]
    assert evaluated("own", tmp_path)["bbox"]["AP"] == pytest.approx(100)
    records[0]["annotations"].pop()
    assert evaluated("own", tmp_path)["bbox"]["AP"] == pytest.approx(100)
    assert ImageMatches.load(str(tmp_path / "matches_bbox.npz")).objects.tolist() == [[1, 2]]


def each(change):
    def edit(data):
        for annotation in data["annotations"]:
            change(annotation)

    return edit


def from_0(annotation):
    annotation["id"] -= 1


def test_what_pycocotools_prints_goes_to_the_log(coco_folder, tmp_path, capsys, caplog):
    with caplog.at_level("INFO", "detectron2"):
        logger = logging.getLogger("detectron2")
        logger.addHandler(caplog.handler)
        evaluated(coco_folder(), tmp_path)
        logger.removeHandler(caplog.handler)
    assert any("Average Precision" in line for line in caplog.messages)
    assert capsys.readouterr().out == ""


@pytest.mark.parametrize(
    "edit",
    [
        None,
        each(from_0),
        each(lambda annotation: annotation.pop("area")),
        each(lambda annotation: annotation.pop("iscrowd")),
        lambda data: data.pop("info"),
    ],
    ids=["complete", "ids from 0", "no area", "no iscrowd", "no info"],
)
def test_the_truth_has_100_ap_whatever_program_wrote_it(coco_folder, tmp_path, edit):
    found = evaluated(coco_folder(edit), tmp_path, masks=True, predicted=["segm"])
    assert found["bbox"]["AP"] == pytest.approx(100) and found["segm"]["AP"] == pytest.approx(100)
    assert found["bbox"]["APs"] == pytest.approx(100)  # 24 x 30 pixels are small


def test_ids_from_0_are_told(coco_folder, tmp_path, caplog):
    name = coco_folder(each(from_0))
    DatasetCatalog.get(name)
    with caplog.at_level("WARNING", "d2_featcomp"):
        CheckedCOCOEvaluator(name, output_dir=str(tmp_path))
    assert "annotations.json: an annotation id is 0" in caplog.text


def built(name, *overrides, config=RCNN):
    DatasetCatalog.get(name)
    classes = () if "NUM_CLASSES" in str(overrides) else ("MODEL.ROI_HEADS.NUM_CLASSES", 2)
    return build_evaluator(setup_config(config, [*classes, *overrides]), name)


def test_masks_that_are_missing_are_told_before_the_evaluation(coco_folder, tmp_path):
    empty = coco_folder(each(lambda annotation: annotation.update(segmentation=[])), "empty")
    none = coco_folder(each(lambda annotation: annotation.pop("segmentation")), "none")
    for name in (empty, none):
        with pytest.raises(
            ValueError, match=r"4 of 4 annotations are without masks .* MODEL.MASK_ON to F"
        ):
            built(name)
        assert built(name, "MODEL.MASK_ON", False)
        assert evaluated(name, tmp_path)["bbox"]["AP"] == pytest.approx(100)
    with pytest.raises(ValueError, match=r"without keypoints .*MODEL.KEYPOINT_ON to False"):
        built(coco_folder(name="points"), "MODEL.KEYPOINT_ON", True)


def test_a_network_of_more_classes_is_told_before_the_evaluation(coco_folder):
    name = coco_folder()
    with pytest.raises(ValueError, match=r"MODEL.ROI_HEADS.NUM_CLASSES is 80, but .* has 2 classes"):
        built(name, "MODEL.ROI_HEADS.NUM_CLASSES", 80)
    yolo = {"config": "configs/quick/yolov3_tiny.yaml"}
    with pytest.raises(ValueError, match=r"MODEL.YOLOV3.NUM_CLASSES is 6, but data set .* 2 classes"):
        built(name, "MODEL.YOLOV3.NUM_CLASSES", 6, **yolo)
    assert built(name, "MODEL.YOLOV3.NUM_CLASSES", 2, **yolo)


def test_classes_in_another_order_are_told_before_the_evaluation(coco_folder):
    """Else boxes of one class would be compared with objects of another."""

    def swap(data):
        for category in data["categories"]:
            category["id"] = 3 - category["id"]

    def add(data):
        data["categories"].append({"id": 0, "name": "c"})

    name, others = coco_folder(), [coco_folder(swap, "swapped"), coco_folder(add, "more")]
    for other in others:
        with pytest.raises(ValueError, match=r"class 0 of data set .* is '[bc]', but 'a' of .*TRAIN\)"):
            built(other, "DATASETS.TRAIN", (name,))
        assert built(other, "DATASETS.TRAIN", ("scenes_train",))  # of another network
    cfg = setup_config(RCNN, ["DATASETS.TRAIN", (name,), "DATASETS.TEST", (others[0],)])
    assert choose_categories(cfg, 2) == [{"id": 1, "name": "a"}, {"id": 2, "name": "b"}]


def test_a_file_that_is_no_annotation_file_is_named(coco_folder, tmp_path):
    name = coco_folder()
    DatasetCatalog.get(name)
    (tmp_path / "set" / "annotations.json").write_text("[]")
    with pytest.raises(ValueError, match=r"annotations\.json' does not follow COCO's annotation format"):
        CheckedCOCOEvaluator(name, output_dir=str(tmp_path))


class CompiledEvaluation(COCOeval):
    """Keeps its matches to itself, as Detectron2's compiled evaluation does."""

    def accumulate(self, p=None):
        super().accumulate(p)
        self.evalImgs = []


@pytest.mark.parametrize("compiled", [False, True])
def test_matches_are_written_where_they_are_known_or_asked_for(
    coco_folder, tmp_path, monkeypatch, compiled
):
    if compiled:
        for name in ("COCOeval", "COCOeval_opt"):
            monkeypatch.setattr(f"detectron2.evaluation.coco_evaluation.{name}", CompiledEvaluation)
    name, path = coco_folder(), tmp_path / "matches_bbox.npz"
    assert evaluated(name, tmp_path)["bbox"]["AP"] == pytest.approx(100)
    assert path.exists() is not compiled
    monkeypatch.setattr(CheckedCOCOEvaluator, "match_again", True)
    evaluated(name, tmp_path)
    matches = ImageMatches.load(str(path))
    assert matches.image_ids.tolist() == [1, 2] and matches.objects.tolist() == [[1, 1], [1, 1]]
    assert matches.hits.all() and matches.hits.shape == (10, 4)


def test_a_network_that_finds_nothing_has_an_ap_of_0(coco_folder, tmp_path):
    """Not NaN, which would leave a BD-rate undefined; NaN is of sizes that no object has."""
    name = coco_folder()
    records = DatasetCatalog.get(name)
    evaluator = CheckedCOCOEvaluator(name, predicted=["segm"], output_dir=str(tmp_path))
    evaluator.reset()
    evaluator.process(records, [{"instances": nothing_found(record)} for record in records])
    found = evaluator.evaluate()
    for task in ("bbox", "segm"):
        assert [found[task][metric] for metric in ("AP", "AP50", "AP75", "APs")] == [0] * 4
        assert math.isnan(found[task]["APm"]) and math.isnan(found[task]["APl"])
        assert found[task]["AP-a"] == 0
        assert len(ImageMatches.load(str(tmp_path / f"matches_{task}.npz")).image_ids) == 2


def nothing_found(record):
    found = Instances((record["height"], record["width"]))
    found.pred_boxes, found.scores = Boxes(torch.zeros(0, 4)), torch.zeros(0)
    found.pred_classes = torch.zeros(0, dtype=torch.int64)
    found.pred_masks = torch.zeros(0, record["height"], record["width"], dtype=torch.bool)
    return found


def test_without_objects_nothing_is_measured(coco_folder, tmp_path):
    name = coco_folder(lambda data: data["annotations"].clear())
    records = DatasetCatalog.get(name)
    evaluator = CheckedCOCOEvaluator(name, output_dir=str(tmp_path))
    evaluator.reset()
    evaluator.process(records, [{"instances": nothing_found(record)} for record in records])
    assert math.isnan(evaluator.evaluate()["bbox"]["AP"])
