import numpy as np
import pytest
import torch
from detectron2.data import DatasetCatalog, MetadataCatalog
from PIL import Image

from d2_featcomp.data.datasets.image_folders import register_image_folders
from d2_featcomp.engine import setup_config
from d2_featcomp.evaluation import EVALUATOR_REGISTRY, build_evaluator
from d2_featcomp.evaluation.build import build_task_evaluators

TASKS = "configs/quick/mtl_R34.yaml"


@pytest.fixture
def three_classes(tmp_path):
    """A function: (h, w) labels -> name of a data set of one image, and its record."""
    names = []

    def register(labels):
        path = tmp_path / f"{len(names)}_labels.png"
        Image.fromarray(np.asarray(labels, np.uint8)).save(path)
        name = f"three_classes_{path}"
        records = [{"file_name": str(path) + ".jpg", "sem_seg_file_name": str(path)}]
        DatasetCatalog.register(name, lambda: records)
        MetadataCatalog.get(name).set(
            evaluator_type="multi_task", stuff_classes=["a", "b", "c"], ignore_label=255
        )
        names.append(name)
        return name, records[0]

    yield register
    for name in names:
        DatasetCatalog.remove(name)


def segmentation(*heads, classes=3):
    overrides = ["MODEL.MULTI_TASK.HEADS", heads or ("SegmentationHead",)]
    return setup_config(TASKS, [*overrides, "MODEL.SEM_SEG_HEAD.NUM_CLASSES", classes])


def evaluated(name, record, predicted):
    (evaluator,) = build_task_evaluators(segmentation(), name)
    evaluator.reset()
    scores = torch.nn.functional.one_hot(torch.tensor(predicted), 3).permute(2, 0, 1).float()
    evaluator.process([record], [{"sem_seg": scores}])
    return evaluator.evaluate()["sem_seg"]


def test_miou_by_hand(three_classes):
    """Class a: 3 of 5 pixels (4 true, 4 predicted). b: 2 of 5. c: 1 of 2. What is ignored, not."""
    name, record = three_classes([[0, 0, 0, 0], [1, 1, 1, 2], [255, 255, 2, 255]])
    found = evaluated(name, record, [[0, 0, 0, 1], [1, 1, 0, 2], [0, 1, 1, 2]])
    assert found["IoU-a"] == pytest.approx(100 * 3 / 5)
    assert found["IoU-b"] == pytest.approx(100 * 2 / 5)
    assert found["IoU-c"] == pytest.approx(100 * 1 / 2)
    assert found["mIoU"] == pytest.approx(50.0)
    assert found["pACC"] == pytest.approx(100 * 6 / 9)


def test_a_network_of_more_semantic_classes_than_the_data_is_refused(three_classes):
    """A fourth class would count as no prediction: pixels that it gets would not count as missed."""
    name, _ = three_classes([[0, 1, 2]])
    with pytest.raises(ValueError, match=r"NUM_CLASSES is 4, but .* has 3 semantic classes"):
        build_task_evaluators(segmentation(classes=4), name)
    assert build_task_evaluators(segmentation(classes=2), name)


def test_stereo_pairs_have_no_semantic_maps(tmp_path):
    name = f"stereo:{tmp_path}"
    heads = ("SegmentationHead", "DisparityHead", "ReconstructionHead")
    cfg = setup_config(TASKS, ["MODEL.MULTI_TASK.HEADS", heads, "DATASETS.TEST", (name,)])
    built = [type(evaluator).__name__ for evaluator in build_task_evaluators(cfg, name)]
    assert built == ["DisparityEvaluator", "ReconstructionEvaluator"]


def test_labels_of_no_class_stop_the_evaluation(three_classes):
    name, record = three_classes([[0, 3]])
    with pytest.raises(ValueError, match=r"labels\.png' holds label 3: there are 3 classes"):
        evaluated(name, record, [[0, 0]])


def test_a_task_head_without_an_evaluator_is_told(three_classes):
    name, _ = three_classes([[0]])
    with pytest.raises(ValueError, match=r"no evaluator is known for the task head EdgeHead"):
        build_task_evaluators(segmentation("SegmentationHead", "EdgeHead"), name)


def test_evaluators_of_ones_own_are_registered(three_classes):
    def EdgeHead(cfg, dataset_name, output_dir):
        return [(dataset_name, output_dir)]

    def of_my_data(cfg, dataset_name, output_dir):
        return []

    name, _ = three_classes([[0]])
    for function in (EdgeHead, of_my_data):
        EVALUATOR_REGISTRY.register(function)
    try:
        cfg = segmentation("EdgeHead")
        assert build_task_evaluators(cfg, name) == [(name, f"{cfg.OUTPUT_DIR}/inference")]
        MetadataCatalog.get("mine").evaluator_type = "of_my_data"
        assert build_task_evaluators(cfg, "mine") == []
    finally:
        for function in (EdgeHead, of_my_data):
            del EVALUATOR_REGISTRY._obj_map[function.__name__]
        MetadataCatalog.remove("mine")


def test_data_that_cannot_be_evaluated_on_is_told(tmp_path):
    Image.new("RGB", (9, 9)).save(tmp_path / "a.png")
    register_image_folders([f"images:{tmp_path}"])
    with pytest.raises(ValueError, match=r"no annotations to evaluate on .*annotations\.json"):
        build_evaluator(setup_config(TASKS), f"images:{tmp_path}")
    MetadataCatalog.get("odd").evaluator_type = "odd_kind"
    with pytest.raises(ValueError, match=r"evaluator_type 'odd_kind': no evaluator is known .*coco"):
        build_evaluator(setup_config(TASKS), "odd")
    MetadataCatalog.remove("odd")
