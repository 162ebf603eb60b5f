"""Evaluation of several data sets, and of the first images of one."""

import json

import pytest
from detectron2.data import DatasetCatalog, MetadataCatalog
from measuring import IMAGES, alone, detections, same

from d2_featcomp.experiments import evaluate
from d2_featcomp.experiments.keys import digest_data
from d2_featcomp.experiments.subsets import limit_images


def test_evaluation_of_several_data_sets(msfc, tmp_path):
    cfg = msfc("png", 4)
    few = limit_images(cfg, 2, str(tmp_path / "truth"))
    both = msfc("png", 4, DATASETS__TEST=(*cfg.DATASETS.TEST, *few.DATASETS.TEST))
    results = evaluate(both)
    assert list(results) == ["measured_val", "measured_val, first 2"]
    same(results["measured_val"], alone(cfg))
    same(results["measured_val, first 2"], evaluate(few))
    assert len(detections(few)) == 2


def test_the_first_images_are_evaluated_against_their_own_truth(msfc, tmp_path):
    cfg = msfc("png", 4)
    few = limit_images(cfg, 2, str(tmp_path / "truth"))
    (path,) = (tmp_path / "truth").iterdir()
    truth = json.loads(path.read_text())
    records = DatasetCatalog.get("measured_val")
    assert [entry["id"] for entry in truth["images"]] == [record["image_id"] for record in records[:2]]
    assert len(truth["annotations"]) == sum(len(record["annotations"]) for record in records[:2])
    before = path.stat().st_mtime_ns
    assert limit_images(cfg, 2, str(tmp_path / "truth")).DATASETS.TEST == few.DATASETS.TEST
    assert path.stat().st_mtime_ns == before  # so that measured numbers stay those of this data set
    whole = limit_images(cfg, IMAGES, str(tmp_path / "truth"))
    same(evaluate(whole), evaluate(cfg))
    MetadataCatalog.get("elsewhere").set(evaluator_type="cityscapes_instance")
    DatasetCatalog.register("elsewhere", list)
    with pytest.raises(ValueError, match="takes the whole data set only"):
        limit_images(msfc("png", 4, DATASETS__TEST=("elsewhere",)), 2, str(tmp_path))


def test_a_moved_folder_holds_the_same_measurements(msfc, tmp_path):
    found = []
    for folder in ("here", "there"):
        few = limit_images(msfc("png", 4), 2, str(tmp_path / folder))
        found.append(digest_data(*few.DATASETS.TEST, DatasetCatalog.get(few.DATASETS.TEST[0])))
    other = limit_images(msfc("png", 4), 3, str(tmp_path / "there"))
    assert found[0] == found[1]
    assert found[0] != digest_data(*other.DATASETS.TEST, DatasetCatalog.get(other.DATASETS.TEST[0]))
