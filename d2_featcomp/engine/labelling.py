"""Detections of a network that is not split, as annotations, where there is no ground truth."""

import json
import os

import numpy as np
import torch
from detectron2.data import MetadataCatalog
from detectron2.structures import BoxMode
from pycocotools import mask as coco_mask
from tqdm import tqdm

from ..data.datasets.image_folders import write_annotations
from ..data.images import read_image
from ..images import ANNOTATIONS, list_images
from .inference import make_input

__all__ = ["label_images"]


@torch.no_grad()
def label_images(cfg, network, folder, *, score=0.5, class_names=None):
    """Writes `annotations.json`, in COCO's format, into a folder of images; masks, too, if the network
    predicts them (as run lengths: to train on them, set `INPUT.MASK_FORMAT` to bitmask).

    A file of that name with other content is not lost, see :func:`put_annotations`.

    Args:
        cfg (CfgNode): that `network` was built from; `INPUT` gives size and order of channels.
        network (nn.Module): a detector that is not split, in evaluation mode.
        folder (str): of images.
        score (float): smallest score of a detection that becomes an annotation, 0 to 1.
        class_names (sequence[str] or None): of the network's classes; None: COCO's if there are 80, else
            their numbers.

    Returns:
        (int, int): images and annotations.

    Raises:
        FileNotFoundError: no such folder, or no image in it. ValueError: as many names as classes are
            needed.
    """
    names = _class_names(network)
    if class_names and len(class_names) != len(names):
        raise ValueError(f"{len(class_names)} class names for a network of {len(names)} classes")
    names, images, annotations = class_names or names, [], []
    for number, path in enumerate(tqdm(list_images(folder), desc="labelling", mininterval=1), start=1):
        picture = read_image(path, format="RGB")
        found = network([make_input(picture, cfg)])[0]["instances"].to("cpu")
        found = found[found.scores >= score]
        height, width = picture.shape[:2]
        name = os.path.basename(path)
        images.append({"id": number, "file_name": name, "height": height, "width": width})
        boxes = BoxMode.convert(found.pred_boxes.tensor, BoxMode.XYXY_ABS, BoxMode.XYWH_ABS)
        masks = found.pred_masks.numpy() if found.has("pred_masks") else [None] * len(found)
        for box, label, mask in zip(boxes.tolist(), found.pred_classes.tolist(), masks, strict=True):
            annotation = {
                "id": len(annotations) + 1,
                "image_id": number,
                "category_id": label + 1,
                "bbox": [round(value, 2) for value in box],
                "area": round(box[2] * box[3], 2),
                "iscrowd": 0,
            }
            annotations.append(annotation | _mask_entries(mask))
    data = {
        "info": {"description": f"detections of a network, of score {score} and more"},
        "images": images,
        "annotations": annotations,
        "categories": [{"id": i, "name": name} for i, name in enumerate(names, start=1)],
    }
    write_annotations(json.dumps(data), os.path.join(folder, ANNOTATIONS))
    return len(images), len(annotations)


def _mask_entries(mask):
    """(H, W) bool or None -> what an annotation says of it."""
    if mask is None:
        return {}
    coded = coco_mask.encode(np.asfortranarray(mask.astype(np.uint8)))
    segmentation = {"size": coded["size"], "counts": coded["counts"].decode("ascii")}
    return {"segmentation": segmentation, "area": float(coco_mask.area(coded))}


def _class_names(network):
    detector = network if hasattr(network, "num_classes") else network.roi_heads
    coco = MetadataCatalog.get("coco_2017_val").thing_classes
    if detector.num_classes == len(coco):
        return coco
    return [str(label) for label in range(detector.num_classes)]
