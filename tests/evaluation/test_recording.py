"""What evaluators take from single images, and what they make of it."""

import json
import tempfile
from collections import OrderedDict, defaultdict

import numpy as np
import pytest
import torch
from detectron2.evaluation import DatasetEvaluator

from d2_featcomp.evaluation import FeatureRateEvaluator
from d2_featcomp.evaluation.recording import ImageRecords, UnrecordableError


class Everything(DatasetEvaluator):
    """Keeps one of each kind."""

    def __init__(self):
        self._seen = 0
        self._settings = {"unchanged": True}

    def reset(self):
        self._pairs = []
        self._matrix = np.zeros((3, 3), np.int64)
        self._floats = np.zeros(2, np.float32)
        self._by_class = defaultdict(list)
        self._last = None
        self._tensors = []

    def process(self, inputs, outputs):
        for record, output in zip(inputs, outputs, strict=True):
            number = output["number"]
            self._seen += 1
            self._pairs.append((record["name"], np.float32(number) / 3, b"\x00\xff", None))
            self._matrix[number % 3, 1] += number
            self._floats += 0.1 * number
            self._by_class[number % 2].append({"n": np.int64(number), 5: float("nan")})
            self._last = record["name"]
            self._tensors.append(torch.arange(number))

    def evaluate(self):
        return OrderedDict(
            pairs=[(name, float(value), data, nothing) for name, value, data, nothing in self._pairs],
            matrix=self._matrix.tolist(),
            floats=self._floats.tolist(),
            classes=[
                (key, [(int(part["n"]), part[5]) for part in parts])
                for key, parts in sorted(self._by_class.items())
            ],
            last=self._last,
            tensors=[tensor.tolist() for tensor in self._tensors],
            kinds=[type(self._by_class).__name__, str(self._matrix.dtype), str(self._floats.dtype)],
        )


IMAGES = [({"name": name}, {"number": number}) for name, number in (("a", 4), ("b", 0), ("c", 9))]


def test_records_give_what_the_evaluator_itself_gives():
    evaluator = Everything()
    evaluator.reset()
    for record, output in IMAGES:
        evaluator.process([record], [output])
    expected = evaluator.evaluate()

    recorded = ImageRecords(Everything())
    assert recorded.possible
    taken = [recorded.of_image(*image) for image in IMAGES]
    assert all("_settings" not in part for part in taken)
    taken = [json.loads(json.dumps(part)) for part in taken]
    found = ImageRecords(Everything()).evaluate(taken)
    assert repr(found) == repr(expected)


def test_counters_are_added():
    recorded = ImageRecords(Everything())
    taken = [recorded.of_image(*image) for image in IMAGES]
    evaluator = Everything()
    ImageRecords(evaluator).evaluate(taken)
    assert evaluator._seen == 3


def test_nothing_recorded_is_nothing_found():
    assert ImageRecords(FeatureRateEvaluator(distributed=False)).evaluate([]) == {"feature_rate": {}}


def test_an_evaluator_that_writes_files_cannot_be_recorded():
    class Files(DatasetEvaluator):
        def reset(self):
            self._folder = tempfile.TemporaryDirectory()

    evaluator = Files()
    assert not ImageRecords(evaluator).possible
    evaluator._folder.cleanup()


def test_objects_are_refused_when_they_come():
    class Objects(DatasetEvaluator):
        def reset(self):
            self._kept = []

        def process(self, inputs, outputs):
            self._kept.append(object())

    recorded = ImageRecords(Objects())
    assert recorded.possible
    with pytest.raises(UnrecordableError, match="object"):
        recorded.of_image({}, {})
