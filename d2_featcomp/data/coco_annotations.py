"""Annotation files in COCO's format, as other programs write them."""

import json

import numpy as np
from detectron2.data.datasets import load_coco_json
from pycocotools import mask as coco_mask

__all__ = [
    "FORMAT_ERRORS",
    "explain_format_error",
    "find_keypoint_names",
    "load_coco_file",
    "normalize_coco",
]

# What readers of the format raise at files that do not follow it.
FORMAT_ERRORS = (AssertionError, AttributeError, IndexError, KeyError, TypeError, ValueError)


def explain_format_error(path, error):
    """Explains an error in a file of annotations.

    Args:
        path (str): of the annotations.
        error (Exception): one of FORMAT_ERRORS.

    Returns:
        ValueError: that names the file.
    """
    reason = str(error)
    if isinstance(error, json.JSONDecodeError):
        reason = f"no JSON: {error}"
    elif isinstance(error, KeyError) and error.args and " " not in str(error.args[0]):
        reason = f"an entry lacks {error.args[0]!r}"
    return ValueError(f"{path!r} does not follow COCO's annotation format: {reason}")


def load_coco_file(path, image_root, dataset_name):
    """As Detectron2's `load_coco_json`, but its errors name the file.

    Args:
        path (str): of the annotations.
        image_root (str): folder that their file names refer to.
        dataset_name (str): whose metadata get the classes.

    Returns:
        list[dict]: records in Detectron2's format.

    Raises:
        ValueError: the file is no such file. OSError: it cannot be read.
    """
    try:
        return load_coco_json(path, image_root, dataset_name)
    except FORMAT_ERRORS as error:
        raise explain_format_error(path, error) from error


def find_keypoint_names(path):
    """Reads the names of keypoints from a file of annotations.

    Args:
        path (str): of the annotations, which :func:`load_coco_file` takes.

    Returns:
        list[str]: of the first category that has any; empty without.
    """
    with open(path, encoding="utf-8") as file:
        categories = json.load(file)["categories"]
    return next((list(each["keypoints"]) for each in categories if each.get("keypoints")), [])


def normalize_coco(data, path):
    """Completes annotations so that pycocotools evaluates on them as their authors meant.

    "info", "iscrowd" (0), "area" (of the mask or else the box), "bbox" (of the mask) and
    "num_keypoints" are added where they are missing. If an annotation has id 0, which pycocotools takes
    for "matched nothing", all are numbered anew.

    Args:
        data (dict): of a file; changed in place.
        path (str): for messages.

    Returns:
        bool: whether annotations were numbered anew.

    Raises:
        ValueError: an annotation has neither box nor mask.
    """
    data.setdefault("info", {})
    annotations = data["annotations"]
    sizes = {image["id"]: (image.get("height"), image.get("width")) for image in data["images"]}
    for annotation in annotations:
        annotation.setdefault("iscrowd", 0)
        if not annotation.get("bbox") or "area" not in annotation:
            _complete(annotation, sizes.get(annotation["image_id"]), path)
        if "keypoints" in annotation and "num_keypoints" not in annotation:
            annotation["num_keypoints"] = sum(flag > 0 for flag in annotation["keypoints"][2::3])
    if all(annotation["id"] != 0 for annotation in annotations):
        return False
    for number, annotation in enumerate(annotations, start=1):
        annotation["id"] = number
    return True


def _complete(annotation, size, path):
    """Adds "bbox" and "area"."""
    mask, box = annotation.get("segmentation"), annotation.get("bbox")
    coded = _run_lengths(mask, size) if mask and size and None not in size else None
    if coded is None and not box:
        raise ValueError(f"{path!r}: annotation {annotation['id']} has neither 'bbox' nor a mask")
    if not box:
        annotation["bbox"] = box = coco_mask.toBbox(coded).tolist()
    if "area" not in annotation:
        area = coco_mask.area(coded) if coded is not None else np.prod(box[2:])
        annotation["area"] = float(area)


def _run_lengths(mask, size):
    if isinstance(mask, dict):
        return coco_mask.frPyObjects(mask, *mask["size"]) if isinstance(mask["counts"], list) else mask
    polygons = [polygon for polygon in mask if len(polygon) >= 6]
    return coco_mask.merge(coco_mask.frPyObjects(polygons, *size)) if polygons else None
