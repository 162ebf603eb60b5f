"""Which evaluators a data set calls for."""

import os

from detectron2.data import MetadataCatalog
from detectron2.evaluation import (
    CityscapesInstanceEvaluator,
    CityscapesSemSegEvaluator,
    COCOEvaluator,
    COCOPanopticEvaluator,
    DatasetEvaluators,
    LVISEvaluator,
    PascalVOCDetectionEvaluator,
    SemSegEvaluator,
)

from .feature_rate import FeatureRateEvaluator

__all__ = ["build_evaluator"]


def _coco(name, folder):
    return [COCOEvaluator(name, output_dir=folder)]


def _sem_seg(name, folder):
    return [SemSegEvaluator(name, distributed=True, output_dir=folder)]


def _panoptic(name, folder):
    return [*_sem_seg(name, folder), *_coco(name, folder), COCOPanopticEvaluator(name, folder)]


# Detectron2's own choices, by the data set's `evaluator_type`.
_EVALUATORS = {
    "coco": _coco,
    "sem_seg": _sem_seg,
    "coco_panoptic_seg": _panoptic,
    "lvis": lambda name, folder: [LVISEvaluator(name, output_dir=folder)],
    "pascal_voc": lambda name, folder: [PascalVOCDetectionEvaluator(name)],
    "cityscapes_instance": lambda name, folder: [CityscapesInstanceEvaluator(name)],
    "cityscapes_sem_seg": lambda name, folder: [CityscapesSemSegEvaluator(name)],
}


def build_evaluator(cfg, dataset_name):
    """Builds the data set's evaluators and, if the network is cut, the rate's.

    Args:
        cfg (CfgNode): with the keys of :func:`add_featcomp_config`.
        dataset_name (str): registered, with `evaluator_type` in its metadata.

    Returns:
        DatasetEvaluators

    Raises:
        ValueError: unknown `evaluator_type`.
    """
    folder = os.path.join(cfg.OUTPUT_DIR, "inference")
    kind = MetadataCatalog.get(dataset_name).get("evaluator_type")
    if kind not in _EVALUATORS:
        raise ValueError(
            f"data set {dataset_name!r} has evaluator_type {kind!r}: no evaluator is known for it "
            f"(known: {', '.join(_EVALUATORS)})"
        )
    evaluators = _EVALUATORS[kind](dataset_name, folder)
    if cfg.MODEL.FEATCOMP.ENABLED:
        evaluators.append(FeatureRateEvaluator(folder))
    return DatasetEvaluators(evaluators)
