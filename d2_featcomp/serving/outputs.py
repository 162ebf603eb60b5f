"""Reads results back as what networks give, so that they can be drawn."""

import base64
import io

import numpy as np
import torch
from detectron2.structures import Boxes, BoxMode, Instances
from PIL import Image
from pycocotools import mask as coco_mask

__all__ = ["list_categories", "read_map", "read_outputs"]


def read_outputs(result, size, categories=(), threshold=0.0, most=None):
    """Inverse of :func:`make_result`, of what can be drawn onto an image, at any size.

    Args:
        result (dict): of an image.
        size ((int, int)): height and width, of what it is drawn onto.
        categories (sequence[dict]): "id" and "name" of each class, in the network's order; without them
            an "id" counts from 1.
        threshold (float): instances of a lower score are left out.
        most (int or None): instances, the best ones; None: all.

    Returns:
        dict: as a network's output, with those of "instances", "sem_seg" and "panoptic_seg" that the
        result has.
    """
    outputs, maps = {}, result.get("maps", {})
    if "panoptic" in maps:
        labels = torch.from_numpy(read_map(maps["panoptic"], size))
        outputs["panoptic_seg"] = labels, result.get("segments", [])
    elif "segmentation" in maps:
        labels = torch.from_numpy(read_map(maps["segmentation"], size))
        classes = torch.arange(int(labels.max()) + 1)
        outputs["sem_seg"] = (labels == classes[:, None, None]).to(torch.uint8)
    if "instances" in result:
        entries = (entry for entry in result["instances"] if entry["score"] >= threshold)
        entries = sorted(entries, key=lambda entry: -entry["score"])[:most]
        scale = size[0] / result["height"], size[1] / result["width"]
        outputs["instances"] = _make_instances(entries, size, scale, categories)
    return outputs


def read_map(data, size):
    """Reads a map of a result, a PNG file in base64: (h, w) int64, the values of the nearest pixels."""
    with Image.open(io.BytesIO(base64.b64decode(data))) as picture:
        values = np.asarray(picture).astype(np.int32)
    return np.asarray(Image.fromarray(values).resize(size[::-1], Image.Resampling.NEAREST), np.int64)


def list_categories(results):
    """Lists the categories that results name, "id" and "name" of each, in the order of their ids."""
    names = {
        entry["category_id"]: entry.get("category", str(entry["category_id"]))
        for result in results
        for entry in result.get("instances", [])
    }
    return [{"id": number, "name": names[number]} for number in sorted(names)]


def _make_instances(entries, size, scale, categories):
    """Entries of a result -> Instances of a picture of that size."""
    vertical, horizontal = scale
    indices = {category["id"]: index for index, category in enumerate(categories)}
    found = Instances(tuple(size))
    boxes = torch.tensor([entry["bbox"] for entry in entries]).reshape(-1, 4)
    boxes = boxes * torch.tensor([horizontal, vertical, horizontal, vertical])
    found.pred_boxes = Boxes(BoxMode.convert(boxes, BoxMode.XYWH_ABS, BoxMode.XYXY_ABS))
    found.scores = torch.tensor([entry["score"] for entry in entries])
    numbers = [entry["category_id"] for entry in entries]
    found.pred_classes = torch.tensor([indices.get(n, n - 1) for n in numbers], dtype=torch.int64)
    if entries and all("segmentation" in entry for entry in entries):
        # One after the other: each at the original size only while it is made smaller.
        masks = [_read_mask(entry["segmentation"], size) for entry in entries]
        found.pred_masks = torch.from_numpy(np.stack(masks))
    if entries and all("keypoints" in entry for entry in entries):
        points = torch.tensor([entry["keypoints"] for entry in entries]).reshape(len(entries), -1, 3)
        found.pred_keypoints = points * torch.tensor([horizontal, vertical, 1.0])
    return found


def _read_mask(segmentation, size):
    mask = Image.fromarray(coco_mask.decode(segmentation) * np.uint8(255))
    return np.asarray(mask.resize(size[::-1])) > 127
