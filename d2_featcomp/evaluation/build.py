"""Which evaluators a data set calls for."""

import os

import numpy as np
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
from PIL import Image

from .feature_rate import FeatureRateEvaluator
from .multi_task import DisparityEvaluator, ReconstructionEvaluator

__all__ = ["build_evaluator"]


def _coco(name, folder):
    return [COCOEvaluator(name, output_dir=folder)]


def _sem_seg(name, folder):
    return [SemSegEvaluator(name, distributed=True, output_dir=folder, sem_seg_loading_fn=_read_labels)]


def _read_labels(path, dtype=int):
    # Detectron2's own function asks NumPy for what its version 2 refuses.
    with Image.open(path) as image:
        return np.array(image, dtype=dtype)


def _panoptic(name, folder):
    return [*_sem_seg(name, folder), *_coco(name, folder), COCOPanopticEvaluator(name, folder)]


# By what a head of CompressibleMultiTask predicts; other heads need evaluators of their own.
_OF_HEADS = {
    "SegmentationHead": lambda name: _sem_seg(name, None),
    "DisparityHead": lambda name: [DisparityEvaluator()],
    "ReconstructionHead": lambda name: [ReconstructionEvaluator()],
}

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
    if kind == "multi_task":
        heads = cfg.MODEL.MULTI_TASK.HEADS
        found = [_OF_HEADS[head](dataset_name) for head in heads if head in _OF_HEADS]
        evaluators = [evaluator for group in found for evaluator in group]
    elif kind in _EVALUATORS:
        evaluators = _EVALUATORS[kind](dataset_name, folder)
    else:
        raise ValueError(
            f"data set {dataset_name!r} has evaluator_type {kind!r}: no evaluator is known for it "
            f"(known: {', '.join([*_EVALUATORS, 'multi_task'])})"
        )
    if cfg.MODEL.FEATCOMP.ENABLED:
        evaluators.append(FeatureRateEvaluator(folder))
    return DatasetEvaluators(evaluators)
