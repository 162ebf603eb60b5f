"""Evaluators by data set, and their registry."""

import os

from detectron2.data import MetadataCatalog
from detectron2.evaluation import (
    CityscapesInstanceEvaluator,
    CityscapesSemSegEvaluator,
    COCOPanopticEvaluator,
    DatasetEvaluators,
    LVISEvaluator,
    PascalVOCDetectionEvaluator,
    SemSegEvaluator,
)

from ..data.categories import require_same_order
from ..data.images import read_sem_seg
from ..data.requirements import (
    SEMANTIC_NETWORKS,
    find_class_setting,
    find_network_name,
    predicts_masks,
)
from ..registry import Registry
from .coco import CheckedCOCOEvaluator
from .feature_rate import FeatureRateEvaluator
from .multi_task import DisparityEvaluator, ReconstructionEvaluator

__all__ = ["EVALUATOR_REGISTRY", "build_evaluator", "build_rate_evaluator", "build_task_evaluators"]


class EvaluatorRegistry(Registry):
    """Registers functions by their own names or, `@register(name="...")`, by another one."""

    def register(self, obj=None, *, name=None):
        if name is None:
            return super().register(obj)

        def register_as(function):
            self._do_register(name, function)
            return function

        return register_as


EVALUATOR_REGISTRY = EvaluatorRegistry("EVALUATOR")
EVALUATOR_REGISTRY.__doc__ = """
Registry of evaluators: functions that can be called as `function(cfg, dataset_name, output_dir)` and
return a list[DatasetEvaluator]. They are named like the `evaluator_type` of a data set's metadata or,
for data sets of type "multi_task", like a task head, for each of `MODEL.MULTI_TASK.HEADS`.
"""


@EVALUATOR_REGISTRY.register()
def coco(cfg, dataset_name, output_dir):
    key, num_classes = find_class_setting(cfg) or ("", None)
    if num_classes is not None:
        require_same_order(dataset_name, cfg.DATASETS.TRAIN, num_classes)
    predicted = ["segm"] if predicts_masks(cfg) else []
    if cfg.MODEL.KEYPOINT_ON:
        predicted.append("keypoints")
    evaluator = CheckedCOCOEvaluator(
        dataset_name,
        num_classes=num_classes,
        num_classes_key=key,
        predicted=predicted,
        output_dir=output_dir,
    )
    return [evaluator]


@EVALUATOR_REGISTRY.register()
def sem_seg(cfg, dataset_name, output_dir):
    return _sem_seg(cfg, dataset_name, output_dir)


def _sem_seg(cfg, dataset_name, output_dir):
    def read(path, dtype=int):
        metadata = MetadataCatalog.get(dataset_name)
        labels = read_sem_seg(
            path, num_classes=len(metadata.stuff_classes), ignore_label=metadata.ignore_label
        )
        return labels.astype(dtype)

    _require_semantic_classes(cfg, dataset_name)
    return [SemSegEvaluator(dataset_name, output_dir=output_dir, sem_seg_loading_fn=read)]


def _require_semantic_classes(cfg, dataset_name):
    """Of more classes than there are, Detectron2's evaluator counts the first as no prediction, which
    raises mIoU, and fails at the others."""
    if find_network_name(cfg) not in (*SEMANTIC_NETWORKS, "CompressibleMultiTask"):
        return
    count = cfg.MODEL.SEM_SEG_HEAD.NUM_CLASSES
    classes = MetadataCatalog.get(dataset_name).get("stuff_classes")
    if classes is not None and count > len(classes):
        raise ValueError(
            f"MODEL.SEM_SEG_HEAD.NUM_CLASSES is {count}, but data set {dataset_name!r} has "
            f"{len(classes)} semantic classes: evaluate a network on a data set of its own classes"
        )


@EVALUATOR_REGISTRY.register()
def coco_panoptic_seg(cfg, dataset_name, output_dir):
    return [
        *sem_seg(cfg, dataset_name, output_dir),
        *coco(cfg, dataset_name, output_dir),
        COCOPanopticEvaluator(dataset_name, output_dir),
    ]


@EVALUATOR_REGISTRY.register()
def lvis(cfg, dataset_name, output_dir):
    return [LVISEvaluator(dataset_name, output_dir=output_dir)]


@EVALUATOR_REGISTRY.register()
def pascal_voc(cfg, dataset_name, output_dir):
    return [PascalVOCDetectionEvaluator(dataset_name)]


@EVALUATOR_REGISTRY.register()
def cityscapes_instance(cfg, dataset_name, output_dir):
    return [CityscapesInstanceEvaluator(dataset_name)]


@EVALUATOR_REGISTRY.register()
def cityscapes_sem_seg(cfg, dataset_name, output_dir):
    return [CityscapesSemSegEvaluator(dataset_name)]


@EVALUATOR_REGISTRY.register()
def multi_task(cfg, dataset_name, output_dir):
    return _of_heads(cfg.MODEL.MULTI_TASK.HEADS, cfg, dataset_name, output_dir)


@EVALUATOR_REGISTRY.register()
def stereo(cfg, dataset_name, output_dir):
    """Of images with disparity maps, which have no labels for other tasks."""
    heads = [head for head in cfg.MODEL.MULTI_TASK.HEADS if head != "SegmentationHead"]
    return _of_heads(heads, cfg, dataset_name, output_dir)


def _of_heads(heads, cfg, dataset_name, output_dir):
    unknown = [head for head in heads if head not in EVALUATOR_REGISTRY]
    if unknown:
        raise ValueError(
            f"no evaluator is known for the task head {unknown[0]} (MODEL.MULTI_TASK.HEADS): register a "
            "function of that name in EVALUATOR_REGISTRY (it may return an empty list)"
        )
    built = [EVALUATOR_REGISTRY.get(head)(cfg, dataset_name, output_dir) for head in heads]
    return [evaluator for group in built for evaluator in group]


@EVALUATOR_REGISTRY.register()
def SegmentationHead(cfg, dataset_name, output_dir):
    return _sem_seg(cfg, dataset_name, None)


@EVALUATOR_REGISTRY.register()
def DisparityHead(cfg, dataset_name, output_dir):
    return [DisparityEvaluator()]


@EVALUATOR_REGISTRY.register()
def ReconstructionHead(cfg, dataset_name, output_dir):
    return [ReconstructionEvaluator()]


def build_evaluator(cfg, dataset_name):
    """Builds the data set's evaluators and, if the network is split, the rate's.

    Args:
        cfg (CfgNode): with the keys of :func:`add_featcomp_config`.
        dataset_name (str): registered, with `evaluator_type` in its metadata.

    Returns:
        DatasetEvaluators

    Raises:
        ValueError: the data set has no annotations, its `evaluator_type` or a task head is unknown, or
            it does not fit the network.
    """
    evaluators = build_task_evaluators(cfg, dataset_name)
    if cfg.MODEL.FEATCOMP.ENABLED:
        evaluators.append(build_rate_evaluator(cfg))
    return DatasetEvaluators(evaluators)


def build_task_evaluators(cfg, dataset_name):
    """Builds, list[DatasetEvaluator], the data set's own; arguments and errors are those of
    :func:`build_evaluator`."""
    kind = MetadataCatalog.get(dataset_name).get("evaluator_type")
    if kind is None:
        raise ValueError(
            f"data set {dataset_name!r} has no annotations to evaluate on (no evaluator_type in its "
            "metadata): a folder needs a file annotations.json in COCO's format; featcomp label-images "
            "writes one of what a network sees"
        )
    if kind not in EVALUATOR_REGISTRY:
        known = ", ".join(sorted(name for name, _ in EVALUATOR_REGISTRY))
        raise ValueError(
            f"data set {dataset_name!r} has evaluator_type {kind!r}: no evaluator is known for it "
            f"(known: {known})"
        )
    return EVALUATOR_REGISTRY.get(kind)(cfg, dataset_name, _folder(cfg))


def build_rate_evaluator(cfg):
    """Builds the FeatureRateEvaluator, which writes where the data set's evaluators do."""
    return FeatureRateEvaluator(_folder(cfg))


def _folder(cfg):
    return os.path.join(cfg.OUTPUT_DIR, "inference")
