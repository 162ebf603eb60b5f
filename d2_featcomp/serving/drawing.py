"""Draws a result onto the features that it was found in: the image itself never reaches the cloud."""

import base64
import io

import numpy as np
import torch
from detectron2.structures import Boxes, BoxMode, Instances
from PIL import Image
from pycocotools import mask as coco_mask

from ..deploy.classes import make_categories
from ..deploy.pictures import collect_metadata, draw_feature_map, draw_outputs
from ..deploy.pictures.colours import heat_colours
from ..deploy.pictures.layout import MIN_SIDE
from .results import DISPARITY_SCALE

__all__ = ["draw_on_features"]

_LONG_SIDE = 1024  # px, at most, of a picture; the short one as that of all that is drawn
_MOST_INSTANCES = 50


def draw_on_features(network, stream, result, class_names=(), threshold=0.5):
    """Draws boxes, masks, keypoints, segments or disparity onto the map of the features.

    Args:
        network (SplitInference): whose cloud sub-model made the result.
        stream (FeatureBitstream): the bitstream.
        result (dict): of :func:`make_result`, with its maps.
        class_names (sequence[str or dict]): as :func:`make_result` takes them.
        threshold (float): instances of a lower score are left out, and those beyond the 50 best.

    Returns:
        ndarray: (h, w, 3) uint8 RGB.

    Raises:
        BitstreamError: the bitstream is not of this network.
    """
    height, width = result["height"], result["width"]
    scale = min(1.0, MIN_SIDE / min(height, width), _LONG_SIDE / max(height, width))
    size = max(1, round(height * scale)), max(1, round(width * scale))
    latents = [latent.cpu().numpy() for latent in network.decode(stream)]
    ground = draw_feature_map(latents, stream.sizes, size)
    maps = result.get("maps", {})
    if "disparity" in maps and "segmentation" not in maps:
        return _draw_disparity(maps["disparity"], size)
    categories = make_categories(class_names)
    outputs = {}
    if "panoptic" in maps:
        labels = torch.from_numpy(_read_map(maps["panoptic"], size))
        outputs["panoptic_seg"] = labels, result.get("segments", [])
    elif "segmentation" in maps:
        labels = torch.from_numpy(_read_map(maps["segmentation"], size))
        classes = torch.arange(int(labels.max()) + 1)
        outputs["sem_seg"] = (labels == classes[:, None, None]).to(torch.uint8)
    if "instances" in result:
        outputs["instances"] = _make_instances(result["instances"], size, scale, categories, threshold)
    return draw_outputs(ground, outputs, collect_metadata(outputs, categories), threshold)


def _read_map(data, size):
    """PNG in base64 -> (h, w) int64."""
    with Image.open(io.BytesIO(base64.b64decode(data))) as picture:
        values = np.asarray(picture).astype(np.int32)
    return np.asarray(Image.fromarray(values).resize(size[::-1], Image.Resampling.NEAREST), np.int64)


def _draw_disparity(data, size):
    values = (_read_map(data, size) - 1) / DISPARITY_SCALE
    return heat_colours(values / max(float(values.max()), 1e-6))


def _make_instances(entries, size, scale, categories, threshold):
    """Entries of a result -> Instances of a picture of that size."""
    indices = {category["id"]: index for index, category in enumerate(categories)}
    entries = sorted((e for e in entries if e["score"] >= threshold), key=lambda e: -e["score"])
    entries = entries[:_MOST_INSTANCES]
    found = Instances(size)
    boxes = torch.tensor([entry["bbox"] for entry in entries]).reshape(-1, 4) * scale
    found.pred_boxes = Boxes(BoxMode.convert(boxes, BoxMode.XYWH_ABS, BoxMode.XYXY_ABS))
    found.scores = torch.tensor([entry["score"] for entry in entries])
    numbers = [entry["category_id"] for entry in entries]
    found.pred_classes = torch.tensor([indices.get(n, n - 1) for n in numbers], dtype=torch.int64)
    if entries and all("segmentation" in entry for entry in entries):
        # One after the other: each at the original size only while it is made smaller.
        masks = [_read_mask(entry["segmentation"], size) for entry in entries]
        found.pred_masks = torch.from_numpy(np.stack(masks))
    if entries and all("keypoints" in entry for entry in entries):
        points = torch.tensor([entry["keypoints"] for entry in entries])
        found.pred_keypoints = points.reshape(len(entries), -1, 3) * torch.tensor([scale, scale, 1.0])
    return found


def _read_mask(segmentation, size):
    mask = Image.fromarray(coco_mask.decode(segmentation) * np.uint8(255))
    return np.asarray(mask.resize(size[::-1])) > 127
