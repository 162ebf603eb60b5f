"""Checks of the data: that they are there, and that they have what a network is trained on."""

import logging
import os
import random

from detectron2.data import MetadataCatalog, get_detection_dataset_dicts
from detectron2.utils.logger import log_first_n

from .datasets.scenes import find_data_root

__all__ = [
    "SEMANTIC_NETWORKS",
    "find_class_setting",
    "find_network_name",
    "load_records",
    "predicts_masks",
    "require_labels",
    "sample_records",
]

# Meta-architecture -> the config node that holds its number of classes of instances.
_CLASS_NODES = {
    "GeneralizedRCNN": "ROI_HEADS",
    "PanopticFPN": "ROI_HEADS",
    "RetinaNet": "RETINANET",
    "YOLOV3": "YOLOV3",
}

# Of Detectron2, that are trained on semantic maps.
SEMANTIC_NETWORKS = ("PanopticFPN", "SemanticSegmentor")
_LOOKED_AT = 100  # images of a data set; each takes a look at the disk


def load_records(names, **options):
    """Loads the records of data sets, as Detectron2's `get_detection_dataset_dicts`.

    Args:
        names (sequence[str]): registered.
        options: of that function.

    Returns:
        list[dict]

    Raises:
        FileNotFoundError: a file of theirs is missing, an image among some that are looked at included;
            tells where data sets are looked for.
        ValueError: no data set is named; or images are left out by their annotations, and there are
            none, or no image stays.
    """
    if not names:
        raise ValueError("DATASETS.TRAIN names no data set")
    try:
        records = get_detection_dataset_dicts(names, **options)
    except FileNotFoundError as error:
        if error.filename is None:  # it says already what is missing, and of what
            raise
        raise _describe_missing("file", error.filename, names) from error
    except (AssertionError, KeyError) as error:
        reason = _explain_filter(error)
        if reason is None:
            raise
        raise ValueError(
            f"of the data sets {', '.join(map(repr, names))} {reason}: set "
            "DATALOADER.FILTER_EMPTY_ANNOTATIONS to False to train on images without objects, too"
        ) from error
    # A wrong folder lacks all, an unpacking that was interrupted the last ones.
    for record in [*records[:: max(len(records) // _LOOKED_AT, 1)], *records[-1:]]:
        path = os.fspath(record.get("file_name", ""))  # of a pathlib.Path, too
        if path and "://" not in path and not os.path.exists(path):
            raise _describe_missing("image", path, names)
    return records


def _explain_filter(error):
    """Why Detectron2 fails where it leaves out images without objects; None of another error."""
    if isinstance(error, KeyError):  # it looks at the first image to tell whether there are any
        return "some have no annotations" if error.args == ("annotations",) else None
    if str(error).startswith("No valid data found"):
        return "no image has an object (a crowd is none)"
    return None


def sample_records(records, count, seed):
    """Chooses records at random, `count` at most, in the order of the data set.

    Args:
        records (list[dict]): to choose from.
        count (int): of records.
        seed (int): decides which; below 0, which elsewhere is none, it counts as 0.

    Returns:
        list[dict]
    """
    chosen = random.Random(max(seed, 0)).sample(range(len(records)), min(count, len(records)))
    return [records[index] for index in sorted(chosen)]


def _describe_missing(kind, path, names):
    root = os.path.abspath(find_data_root())
    if os.path.abspath(path).startswith(os.path.join(root, "")):
        advice = (
            "put the data set there, or set DETECTRON2_DATASETS (now "
            f"{find_data_root()!r}) to the folder of yours"
        )
    else:
        start = "" if os.path.isabs(path) else f", which begins at {os.getcwd()!r}"
        advice = f"correct its path{start}, where the data set is registered"
    return FileNotFoundError(f"no {kind} {path!r}, which is of {', '.join(map(repr, names))}: {advice}")


def find_network_name(cfg):
    """Returns the meta-architecture of the network, whether or not it is split."""
    name = cfg.MODEL.META_ARCHITECTURE
    return cfg.MODEL.FEATCOMP.TASK_NETWORK if name == "SplitNetwork" else name


def find_class_setting(cfg):
    """Finds the setting of the number of classes.

    Returns:
        (str, int) or None: the key that says how many classes of instances the network tells apart, and
        its value; None for networks that find no instances or are not known here.
    """
    node = _CLASS_NODES.get(find_network_name(cfg))
    return (f"MODEL.{node}.NUM_CLASSES", cfg.MODEL[node].NUM_CLASSES) if node else None


def predicts_masks(cfg):
    """Returns whether the network predicts masks of instances."""
    return bool(cfg.MODEL.MASK_ON) and _CLASS_NODES.get(find_network_name(cfg)) == "ROI_HEADS"


def require_labels(cfg, records):
    """Raises ValueError if a network cannot be trained on what a data set holds.

    Args:
        cfg (CfgNode): of one training; `DATASETS.TRAIN` is named in messages.
        records (list[dict]): in Detectron2's format.
    """
    featcomp = cfg.MODEL.FEATCOMP
    setting = find_class_setting(cfg)
    if featcomp.TRAIN.MAPPER or (featcomp.ENABLED and featcomp.LOSS == "distill"):
        return
    names = ", ".join(map(repr, cfg.DATASETS.TRAIN))
    if find_network_name(cfg) in SEMANTIC_NETWORKS:
        _require_semantic_maps(cfg, names, records)
    if setting is None:
        return
    without = sum("annotations" not in record for record in records)
    if without:
        raise ValueError(
            f"{without} of {len(records)} images of the data sets {names} (DATASETS.TRAIN) have no "
            f"annotations, which {find_network_name(cfg)} is trained on: a folder needs a file "
            "annotations.json in COCO's format, or name one: images:FOLDER:FILE.json"
        )
    annotations = [
        annotation
        for record in records
        for annotation in record.get("annotations", ())
        if not annotation.get("iscrowd", 0)
    ]
    _require_classes(cfg, names, *setting, annotations)
    _require_key("bbox", "a box", f"{find_network_name(cfg)} is trained on boxes", names, annotations)
    if predicts_masks(cfg):
        need = "MODEL.MASK_ON is True: set it to False or add masks"
        _require_key("segmentation", "a mask", need, names, annotations)
        _require_mask_format(cfg, names, annotations)
    if cfg.MODEL.KEYPOINT_ON:
        need = "MODEL.KEYPOINT_ON is True: set it to False or add keypoints"
        _require_key("keypoints", "keypoints", need, names, annotations)
        _require_keypoint_count(cfg, names, annotations)


def _require_keypoint_count(cfg, names, annotations):
    count = cfg.MODEL.ROI_KEYPOINT_HEAD.NUM_KEYPOINTS
    known = MetadataCatalog.get(cfg.DATASETS.TRAIN[0]).get("keypoint_names")
    found = {len(known)} if known else {len(each["keypoints"]) // 3 for each in annotations}
    if found - {count}:
        raise ValueError(
            f"MODEL.ROI_KEYPOINT_HEAD.NUM_KEYPOINTS is {count}, but objects of the data sets {names} "
            f"(DATASETS.TRAIN) have {', '.join(map(str, sorted(found)))} keypoints: set it, and as many "
            "TEST.KEYPOINT_OKS_SIGMAS"
        )


def _require_semantic_maps(cfg, names, records):
    without = sum("sem_seg_file_name" not in record for record in records)
    if without:
        raise ValueError(
            f"{without} of {len(records)} images of the data sets {names} (DATASETS.TRAIN) are without "
            f"a semantic map ('sem_seg_file_name'), which {find_network_name(cfg)} is trained on: "
            "register them with their maps"
        )


def _require_classes(cfg, names, key, count, annotations):
    largest = max((annotation["category_id"] for annotation in annotations), default=0)
    classes = MetadataCatalog.get(cfg.DATASETS.TRAIN[0]).get("thing_classes") or ()
    if largest < count and len(classes) in (0, count):
        return
    needed = max(largest + 1, len(classes))
    some = f" ({', '.join([*classes[:6], *['...'] * (len(classes) > 6)])})" if classes else ""
    message = (
        f"{key} is {count}, but the data sets {names} (DATASETS.TRAIN) have {needed} classes{some}: set "
        f"it to {needed}"
    )
    if largest >= count:
        raise ValueError(message)
    # It can be trained, but nothing teaches the other classes, and an evaluation may stop at one.
    log_first_n(logging.WARNING, message, name="d2_featcomp", key="message")


def _require_key(key, thing, need, names, annotations):
    without = sum(key not in annotation for annotation in annotations)
    if without:
        raise ValueError(
            f"{without} of {len(annotations)} annotations of the data sets {names} (DATASETS.TRAIN) are "
            f"without {thing} ({key!r}), but {need}"
        )


def _require_mask_format(cfg, names, annotations):
    rle = any(isinstance(annotation["segmentation"], dict) for annotation in annotations)
    if rle and cfg.INPUT.MASK_FORMAT == "polygon":
        raise ValueError(
            f"the data sets {names} (DATASETS.TRAIN) hold masks as run lengths, not polygons: set "
            "INPUT.MASK_FORMAT to bitmask"
        )
