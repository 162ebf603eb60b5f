"""From a data set's record to what a network is trained on."""

import copy

import numpy as np
import torch
from detectron2.config import configurable
from detectron2.data import DatasetMapper, transforms
from detectron2.data import detection_utils as utils

from ..registry import Registry
from .disparity import convert_disparity, read_stored_disparity
from .images import read_image, read_sem_seg
from .requirements import SEMANTIC_NETWORKS, find_network_name, load_records, require_labels

__all__ = [
    "DATASET_MAPPER_REGISTRY",
    "ImageMapper",
    "MultiTaskMapper",
    "build_test_mapper",
    "build_train_mapper",
    "train_dicts",
]

DATASET_MAPPER_REGISTRY = Registry("DATASET_MAPPER")
DATASET_MAPPER_REGISTRY.__doc__ = """
Registry of training mappers: called as `cls(cfg, is_train=True)`, then on each record of a data set.
"""


class ImageMapper(DatasetMapper):
    """Detectron2's mapper, with :func:`read_image` and :func:`read_sem_seg` in place of its own reader.

    Args:
        sem_seg_classes (int or None): classes of semantic maps; None: these are not looked at.
        sem_seg_ignore (int): label of pixels of no class.
        others: of Detectron2's mapper.
    """

    @configurable
    def __init__(self, *, sem_seg_classes=None, sem_seg_ignore=255, **others):
        super().__init__(**others)
        self.sem_seg_labels = {"num_classes": sem_seg_classes, "ignore_label": sem_seg_ignore}

    @classmethod
    def from_config(cls, cfg, is_train=True):
        labels = _sem_seg_labels(cfg) if find_network_name(cfg) in SEMANTIC_NETWORKS else {}
        settings = super().from_config(cfg, is_train)
        settings["augmentations"] = _resize_to_input_size(cfg, settings["augmentations"])
        return {**settings, **labels}

    def __call__(self, record):
        """Maps a record to what a network takes.

        Args:
            record (dict): of a data set, in Detectron2's format. Not changed.

        Returns:
            dict: as Detectron2's mapper.

        Raises:
            FileNotFoundError, ValueError: see :func:`read_image` and :func:`read_sem_seg`.
        """
        record = copy.deepcopy(record)
        image = read_image(record["file_name"], format=self.image_format)
        utils.check_image_size(record, image)
        sem_seg = None
        path = record.pop("sem_seg_file_name", None)
        if path is not None and self.is_train:
            sem_seg = _read_labels(path, self.sem_seg_labels)
        inputs = transforms.AugInput(image, sem_seg=sem_seg)
        applied = self.augmentations(inputs)
        shape = inputs.image.shape[:2]
        record["image"] = torch.from_numpy(np.ascontiguousarray(inputs.image.transpose(2, 0, 1)))
        if sem_seg is not None:
            record["sem_seg"] = torch.from_numpy(inputs.sem_seg.astype(np.int64))
        if self.proposal_topk is not None:
            utils.transform_proposals(record, shape, applied, proposal_topk=self.proposal_topk)
        if not self.is_train:
            record.pop("annotations", None)
        elif "annotations" in record:
            self._transform_annotations(record, applied, shape)
        return record


@DATASET_MAPPER_REGISTRY.register()
class MultiTaskMapper:
    """Reads an image, its semantic map and its disparity map, and augments the three alike.

    Args:
        augmentations (list[Augmentation]): of Detectron2.
        image_format (str): order of the channels, as `INPUT.FORMAT`.
        sem_seg_classes (int or None): classes of the semantic maps; None: labels are not looked at.
        sem_seg_ignore (int): label of pixels of no class.
    """

    @configurable
    def __init__(self, *, augmentations, image_format, sem_seg_classes=None, sem_seg_ignore=255):
        self.augmentations = transforms.AugmentationList(augmentations)
        self.image_format = image_format
        self.sem_seg_labels = {"num_classes": sem_seg_classes, "ignore_label": sem_seg_ignore}

    @classmethod
    def from_config(cls, cfg, is_train=True):
        chosen = DatasetMapper.from_config(cfg, is_train)
        return {
            "augmentations": _resize_to_input_size(cfg, chosen["augmentations"]),
            "image_format": chosen["image_format"],
            **_sem_seg_labels(cfg),
        }

    def __call__(self, record):
        """Maps a record to what a network takes.

        Args:
            record (dict): with "file_name" and, where they are known, "sem_seg_file_name" (gray, the
                class of each pixel) and "disparity_file_name" (see :func:`read_disparity`). Not changed.

        Returns:
            dict: the record with "image", (3, h, w) uint8; "sem_seg", (h, w) int64; "disparity", (h, w)
            float32, in pixels of the image as it is now (it scales with the width), 0 where unknown.

        Raises:
            FileNotFoundError, ValueError: see :func:`read_image`, :func:`read_sem_seg` and
            :func:`read_disparity`; or two of the files differ in size.
        """
        record = copy.deepcopy(record)
        image = read_image(record["file_name"], format=self.image_format)
        utils.check_image_size(record, image)
        sem_seg = None
        if "sem_seg_file_name" in record:
            sem_seg = _read_labels(record["sem_seg_file_name"], self.sem_seg_labels)
            _require_size(record["sem_seg_file_name"], sem_seg, image)
        inputs = transforms.AugInput(image, sem_seg=sem_seg)
        applied = self.augmentations(inputs)
        record["image"] = torch.from_numpy(np.ascontiguousarray(inputs.image.transpose(2, 0, 1)))
        if sem_seg is not None:
            record["sem_seg"] = torch.from_numpy(inputs.sem_seg.astype(np.int64))
        if "disparity_file_name" in record:
            stored = read_stored_disparity(record["disparity_file_name"])
            _require_size(record["disparity_file_name"], stored, image)
            disparity = convert_disparity(_apply(applied, stored)) * np.float32(_width_scale(applied))
            record["disparity"] = torch.from_numpy(np.ascontiguousarray(disparity))
        return record


def _sem_seg_labels(cfg):
    head = cfg.MODEL.SEM_SEG_HEAD
    return {"sem_seg_classes": head.NUM_CLASSES, "sem_seg_ignore": head.IGNORE_VALUE}


def _read_labels(path, known):
    """Reads a semantic map, (h, w), of uint8, or of float32 where a label is above 255: Detectron2
    cannot resize integers of more bytes."""
    labels = read_sem_seg(path, **known)
    return labels if labels.dtype == np.uint8 else labels.astype(np.float32)


def _apply(applied, stored):
    """Moves a (h, w) uint16 map just as a semantic map, by bytes: of other types than uint8 Detectron2
    takes other pixels when it resizes."""
    low, high = (applied.apply_segmentation(np.uint8(part)) for part in (stored & 255, stored >> 8))
    return low.astype(np.uint16) | high.astype(np.uint16) << 8


def _require_size(path, target, image):
    if target.shape != image.shape[:2]:
        raise ValueError(
            f"{path!r} has {target.shape[1]} x {target.shape[0]} pixels, its image "
            f"{image.shape[1]} x {image.shape[0]}"
        )


def _width_scale(applied):
    """By how much the width of what is seen grew; a crop changes nothing."""
    scale = 1.0
    for transform in applied.transforms:
        if isinstance(transform, transforms.ResizeTransform):
            scale *= transform.new_w / transform.w
    return scale


def read_input_size(cfg):
    """Reads `MODEL.FEATCOMP.INPUT_SIZE`: (height, width) in pixels, or ().

    Raises:
        ValueError: it is not two positive numbers.
    """
    size = tuple(cfg.MODEL.FEATCOMP.INPUT_SIZE)
    if size and (len(size) != 2 or not all(isinstance(side, int) and side > 0 for side in size)):
        raise ValueError(f"MODEL.FEATCOMP.INPUT_SIZE is {size}: give (height, width) in pixels, or ()")
    return size


def _resize_to_input_size(cfg, augmentations):
    """Puts `MODEL.FEATCOMP.INPUT_SIZE`, where it is set, in the place of Detectron2's own resizing."""
    size = read_input_size(cfg)
    if not size:
        return augmentations
    resize = transforms.Resize(size)
    return [
        resize if isinstance(each, transforms.ResizeShortestEdge) else each for each in augmentations
    ]


def build_train_mapper(cfg):
    """Builds the mapper of training records.

    Args:
        cfg (CfgNode): with the keys of :func:`add_featcomp_config`.

    Returns:
        callable: that `MODEL.FEATCOMP.TRAIN.MAPPER` names.

    Raises:
        ValueError: none of that name is registered.
    """
    name = cfg.MODEL.FEATCOMP.TRAIN.MAPPER
    if not name:
        return ImageMapper(cfg, is_train=True)
    if name not in DATASET_MAPPER_REGISTRY:
        known = ", ".join(sorted(mapper for mapper, _ in DATASET_MAPPER_REGISTRY))
        raise ValueError(
            f"unknown mapper {name!r} (MODEL.FEATCOMP.TRAIN.MAPPER): choose one of {known}, or ''"
        )
    return DATASET_MAPPER_REGISTRY.get(name)(cfg, is_train=True)


def build_test_mapper(cfg):
    """Returns the mapper of evaluation: image and size, without targets."""
    return ImageMapper(cfg, is_train=False)


def train_dicts(cfg):
    """Loads the training records.

    Args:
        cfg (CfgNode): with the keys of :func:`add_featcomp_config`.

    Returns:
        list[dict]: records of DATASETS.TRAIN as Detectron2 trains on them; the first
        `MODEL.FEATCOMP.TRAIN.IMAGES`, or all if that is 0.

    Raises:
        ValueError: there are fewer than that; or the network cannot be trained on their annotations, see
            :func:`require_labels`.
    """
    dicts = load_records(
        cfg.DATASETS.TRAIN,
        filter_empty=cfg.DATALOADER.FILTER_EMPTY_ANNOTATIONS,
        min_keypoints=cfg.MODEL.ROI_KEYPOINT_HEAD.MIN_KEYPOINTS_PER_IMAGE
        if cfg.MODEL.KEYPOINT_ON
        else 0,
        proposal_files=cfg.DATASETS.PROPOSAL_FILES_TRAIN if cfg.MODEL.LOAD_PROPOSALS else None,
    )
    count = cfg.MODEL.FEATCOMP.TRAIN.IMAGES
    if not 0 <= count <= len(dicts):
        raise ValueError(
            f"MODEL.FEATCOMP.TRAIN.IMAGES is {count}: the data sets {tuple(cfg.DATASETS.TRAIN)} hold "
            f"{len(dicts)} images"
        )
    require_labels(cfg, dicts)
    return dicts[: count or None]
