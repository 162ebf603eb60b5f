"""Runs a network with compressed features on image files and draws the results."""

import os

import numpy as np
import torch
from detectron2.data import DatasetCatalog, MetadataCatalog, transforms
from detectron2.data.detection_utils import read_image
from detectron2.modeling import build_model
from PIL import Image
from tqdm import tqdm

from .checkpoint import load_weights
from .inference import prepare_for_inference
from .pictures import draw_features, draw_outputs, draw_tasks, side_by_side
from .steps import require_split

__all__ = ["as_input", "build_for_inference", "draw_images"]


def build_for_inference(cfg, weights, enabled=True):
    """Builds a network in evaluation mode with trained weights.

    Args:
        cfg (CfgNode): with the keys of :func:`add_featcomp_config`; not changed.
        weights (str): checkpoint.
        enabled (bool): False builds the task network alone, uncut.

    Returns:
        nn.Module

    Raises:
        FileNotFoundError, CheckpointError: see :func:`load_weights`.
    """
    cfg = cfg.clone()
    cfg.defrost()
    cfg.MODEL.FEATCOMP.ENABLED = enabled
    model = build_model(cfg)
    require_split(model, enabled)
    load_weights(model, weights)
    prepare_for_inference(model, cfg)
    return model


def draw_images(cfg, model, records, folder, *, reference=None, threshold=0.5):
    """Writes, for each image, what is found in it, what was sent, and the bitstream itself.

    Args:
        cfg (CfgNode): that `model` was built from; `DATASETS.TEST` gives the class names.
        model (nn.Module): a split network in evaluation mode.
        records (sequence[dict]): with "file_name" of an image and, for several tasks, optionally
            "sem_seg_file_name" and "disparity_file_name" of the truth.
        folder (str): where `NAME_detections.png` or, for several tasks, `NAME_tasks.png`, and
            `NAME_features.png` and `NAME.d2fc` go.
        reference (nn.Module or None): the uncut network, to draw beside.
        threshold (float): instances of a lower score are not drawn.
    """
    metadata = MetadataCatalog.get(cfg.DATASETS.TEST[0])
    if metadata.get("thing_classes") is None and metadata.get("stuff_classes") is None:
        DatasetCatalog.get(cfg.DATASETS.TEST[0])  # sets the class names
    os.makedirs(folder, exist_ok=True)
    for record in tqdm(records, desc="images", mininterval=1):
        picture = read_image(record["file_name"], format="RGB")
        inputs = [as_input(picture, cfg)]
        output = model(inputs)[0]
        stream = output["bitstream"]
        stem = os.path.join(folder, os.path.splitext(os.path.basename(record["file_name"]))[0])
        caption = f"{stream.codec}, {stream.bits} bits: {stream.total_bits // 8} bytes"
        if "disparity" in output or "reconstruction" in output:
            image = inputs[0]["image"].flip(0) if cfg.INPUT.FORMAT == "BGR" else inputs[0]["image"]
            drawn = draw_tasks(image, output, record, metadata, bgr=cfg.INPUT.FORMAT == "BGR")
            Image.fromarray(side_by_side({caption: drawn})).save(f"{stem}_tasks.png")
        else:
            drawn = {}
            if reference is not None:
                with torch.no_grad():
                    before = reference(inputs)[0]
                drawn["uncompressed"] = draw_outputs(picture, before, metadata, threshold)
            drawn[caption] = draw_outputs(picture, output, metadata, threshold)
            Image.fromarray(side_by_side(drawn)).save(f"{stem}_detections.png")
        Image.fromarray(draw_features(stream, model.feature_codec)).save(f"{stem}_features.png")
        with open(f"{stem}.d2fc", "wb") as file:
            file.write(stream.to_bytes())


def as_input(picture, cfg):
    """
    Args:
        picture (ndarray): (H, W, 3) uint8 RGB.
        cfg (CfgNode): `INPUT.MIN_SIZE_TEST`, `MAX_SIZE_TEST` and `FORMAT` are used.

    Returns:
        dict: as a Detectron2 network takes it.
    """
    height, width = picture.shape[:2]
    resize = transforms.ResizeShortestEdge(cfg.INPUT.MIN_SIZE_TEST, cfg.INPUT.MAX_SIZE_TEST)
    pixels = resize.get_transform(picture).apply_image(picture)
    if cfg.INPUT.FORMAT == "BGR":
        pixels = pixels[:, :, ::-1]
    tensor = torch.as_tensor(np.ascontiguousarray(pixels.transpose(2, 0, 1), dtype=np.float32))
    return {"image": tensor, "height": height, "width": width}
