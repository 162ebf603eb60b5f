"""What evaluators collect from single images, and what they make of it."""

import json

import numpy as np
import pytest
import torch
from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.evaluation import (
    COCOEvaluator,
    DatasetEvaluator,
    PascalVOCDetectionEvaluator,
    SemSegEvaluator,
)
from detectron2.structures import Boxes, Instances
from PIL import Image

from d2_featcomp.evaluation import (
    DisparityEvaluator,
    FeatureRateEvaluator,
    ReconstructionEvaluator,
)
from d2_featcomp.evaluation.build import build_task_evaluators
from d2_featcomp.experiments.collecting import can_collect, collect, evaluate_collected


class Everything(DatasetEvaluator):
    """Keeps one of each kind."""

    collects = ("_pairs", "_matrix", "_floats", "_by_class")

    def reset(self):
        self._pairs = []
        self._matrix = np.zeros((3, 3), np.int64)
        self._floats = np.zeros(2, np.float32)
        self._by_class = {0: [], 1: []}

    def process(self, inputs, outputs):
        for record, output in zip(inputs, outputs, strict=True):
            number = output["number"]
            self._pairs.append((record["name"], np.float32(number) / 3, b"\x00\xff", None))
            self._matrix[number % 3, 1] += number
            self._floats += 0.1 * number
            self._by_class[number % 2].append({"n": np.int64(number), "nan": float("nan")})

    def evaluate(self):
        return {
            "pairs": [(name, float(value), data, none) for name, value, data, none in self._pairs],
            "matrix": (self._matrix.tolist(), str(self._matrix.dtype)),
            "floats": (self._floats.tolist(), str(self._floats.dtype)),
            "classes": {key: [(int(p["n"]), p["nan"]) for p in v] for key, v in self._by_class.items()},
        }


IMAGES = [({"name": name}, {"number": number}) for name, number in (("a", 4), ("b", 0), ("c", 9))]


def both_ways(make, images):
    """What an evaluator finds itself, and what it finds in what was collected and written."""
    evaluator = make()
    evaluator.reset()
    for record, output in images:
        evaluator.process([record], [output])
    expected = evaluator.evaluate()
    taken = [json.dumps(collect(make(), *image)) for image in images]
    return expected, evaluate_collected(make(), map(json.loads, taken))


def test_every_kind_is_kept():
    expected, found = both_ways(Everything, IMAGES)
    assert repr(found) == repr(expected)
    assert found["matrix"] == ([[0, 9, 0], [0, 4, 0], [0, 0, 0]], "int64")


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """Two images with a semantic map and a box each."""
    folder = tmp_path_factory.mktemp("collected")

    records = []
    for index in range(2):
        labels = np.tile(np.arange(8, dtype=np.uint8) // 4, (8, 1))
        Image.fromarray(labels).save(folder / f"{index}.png")
        records.append(
            {
                "file_name": str(folder / f"{index}.jpg"),
                "sem_seg_file_name": str(folder / f"{index}.png"),
                "image_id": index,
                "height": 8,
                "width": 8,
                "annotations": [{"bbox": [1, 1, 4, 4], "bbox_mode": 1, "category_id": 0, "iscrowd": 0}],
            }
        )
    DatasetCatalog.register("collected", lambda: records)
    MetadataCatalog.get("collected").set(
        thing_classes=["thing"],
        stuff_classes=["left", "right"],
        ignore_label=255,
        evaluator_type="coco",
        thing_dataset_id_to_contiguous_id={1: 0},
    )
    yield records, str(folder)
    DatasetCatalog.remove("collected")
    MetadataCatalog.remove("collected")


def read_labels(path, dtype=int):
    with Image.open(path) as image:
        return np.array(image, dtype=dtype)


def compute_outputs(index):
    generator = torch.Generator().manual_seed(index)
    found = Instances((8, 8))
    found.pred_boxes = Boxes(torch.tensor([[1.0, 1.0, 5.0, 5.0 + index]]))
    found.scores = torch.tensor([0.9])
    found.pred_classes = torch.tensor([0])
    return {"instances": found, "sem_seg": torch.rand(2, 8, 8, generator=generator)}


@pytest.mark.parametrize("kind", ["coco", "sem_seg"])
def test_detectron2s_own_evaluators(data, kind):
    records, folder = data

    def make():
        if kind == "coco":
            return COCOEvaluator("collected", ("bbox",), False, folder)
        return SemSegEvaluator("collected", False, sem_seg_loading_fn=read_labels)

    images = [(record, compute_outputs(index)) for index, record in enumerate(records)]
    expected, found = both_ways(make, images)
    assert json.dumps(found, default=float) == json.dumps(expected, default=float)
    if kind == "coco":  # IoU 16 / 16 and 16 / 20: right at thresholds 0.5 to 0.75, and at 0.8
        assert 0 < found["bbox"]["AP"] < 100 and found["bbox"]["AP50"] == pytest.approx(100)


def test_dictionaries_have_keys_that_are_no_strings(data, monkeypatch):
    monkeypatch.setattr(PascalVOCDetectionEvaluator, "__init__", lambda self: None)
    evaluator = PascalVOCDetectionEvaluator()
    evaluator._cpu_device = torch.device("cpu")
    monkeypatch.setattr(PascalVOCDetectionEvaluator, "evaluate", lambda self: dict(self._predictions))
    images = [(record, compute_outputs(index)) for index, record in enumerate(data[0])]
    expected, found = both_ways(lambda: evaluator, images)
    assert found == expected and list(found) == [0] and len(found[0]) == 2


def test_who_can_be_collected_from(data, configured):
    cfg = configured("msfc", "", "MODEL.MASK_ON", False, "MODEL.ROI_HEADS.NUM_CLASSES", 1)
    assert all(
        map(can_collect, (FeatureRateEvaluator(), DisparityEvaluator(), ReconstructionEvaluator()))
    )
    assert all(map(can_collect, build_task_evaluators(cfg, "collected")))
    assert not can_collect(DatasetEvaluator())

    class Other(COCOEvaluator):
        def process(self, inputs, outputs):
            self._more.append(inputs)

    class Named(COCOEvaluator):
        pass

    evaluators = [kind.__new__(kind) for kind in (COCOEvaluator, Named, Other)]
    assert [can_collect(evaluator) for evaluator in evaluators] == [True, True, False]


def test_what_cannot_be_written_is_named():
    class Objects(DatasetEvaluator):
        collects = ("_kept",)

        def reset(self):
            self._kept = []

        def process(self, inputs, outputs):
            self._kept.append(object())

    with pytest.raises(ValueError, match=r"Objects\._kept cannot be written: it holds a object"):
        collect(Objects(), {}, {})
