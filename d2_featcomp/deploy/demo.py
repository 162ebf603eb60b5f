"""Runs a network with compressed features on image files and draws the results."""

import os

import torch
from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.data.detection_utils import read_image
from PIL import Image
from tqdm import tqdm

from ..engine import as_input
from .pictures import draw_features, draw_outputs, draw_tasks, side_by_side

__all__ = ["draw_images"]


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
