"""Runs a network with compressed features on image files and draws the results."""

import os

import torch
from PIL import Image
from tqdm import tqdm

from ..data.images import read_image
from ..engine.inference import make_input
from ..files import write_bytes
from .classes import choose_categories, count_classes
from .naming import name_files
from .pictures import collect_metadata, draw_features, draw_outputs, draw_tasks, side_by_side

__all__ = ["draw_images"]


def draw_images(cfg, model, records, folder, *, reference=None, threshold=0.5):
    """Writes, for each image, what is found in it, its latents, and the bitstream itself.

    Args:
        cfg (CfgNode): that `model` was built from; its data sets give the class names, none is loaded.
        model (nn.Module): a split network in evaluation mode.
        records (sequence[dict]): with "file_name" of an image and, for several tasks, optionally
            "sem_seg_file_name" and "disparity_file_name" of the truth.
        folder (str): where `NAME_detections.png` or, for several tasks, `NAME_tasks.png`, and
            `NAME_features.png` and `NAME.d2fc` go, NAME as :func:`name_files` gives it.
        reference (nn.Module or None): the network that is not split, to draw beside.
        threshold (float): instances of a lower score are not drawn.
    """
    categories = choose_categories(cfg, count_classes(model))
    dataset = cfg.DATASETS.TEST[0] if cfg.DATASETS.TEST else None
    os.makedirs(folder, exist_ok=True)
    records = list(records)
    names = name_files([record["file_name"] for record in records])
    for name, record in zip(names, tqdm(records, desc="images", mininterval=1), strict=True):
        picture = read_image(record["file_name"], "RGB")
        inputs = [make_input(picture, cfg)]
        output = model(inputs)[0]
        stream = output["bitstream"]
        stem = os.path.join(folder, name)
        metadata = collect_metadata(output, categories, dataset)
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
        write_bytes(stream.to_bytes(), f"{stem}.d2fc")
