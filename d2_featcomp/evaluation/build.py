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

__all__ = ["build_evaluator", "rate_evaluator", "task_evaluators"]


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
    evaluators = task_evaluators(cfg, dataset_name)
    if cfg.MODEL.FEATCOMP.ENABLED:
        evaluators.append(rate_evaluator(cfg))
    return DatasetEvaluators(evaluators)


def task_evaluators(cfg, dataset_name):
    """list[DatasetEvaluator]: the data set's own; arguments and errors are those of
    :func:`build_evaluator`."""
    folder = _folder(cfg)
    kind = MetadataCatalog.get(dataset_name).get("evaluator_type")
    if kind == "multi_task":
        heads = cfg.MODEL.MULTI_TASK.HEADS
        found = [_OF_HEADS[head](dataset_name) for head in heads if head in _OF_HEADS]
        return [evaluator for group in found for evaluator in group]
    if kind not in _EVALUATORS:
        raise ValueError(
            f"data set {dataset_name!r} has evaluator_type {kind!r}: no evaluator is known for it "
            f"(known: {', '.join([*_EVALUATORS, 'multi_task'])})"
        )
    return _EVALUATORS[kind](dataset_name, folder)


def rate_evaluator(cfg):
    """FeatureRateEvaluator: that writes where the data set's evaluators do."""
    return FeatureRateEvaluator(_folder(cfg))


def _folder(cfg):
    return os.path.join(cfg.OUTPUT_DIR, "inference")
