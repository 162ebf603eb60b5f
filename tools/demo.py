#!/usr/bin/env python
"""Runs a network with compressed features on images and draws what was sent and what came out.

For every input image it writes, below --output:

    NAME_detections.png   what is found; with --reference, beside what that uncut network finds
    NAME_features.png     the tiled features that are sent
    NAME.d2fc             the feature bitstream itself
"""

import argparse
import os

import numpy as np
import torch
from detectron2.data import DatasetCatalog, MetadataCatalog, transforms
from detectron2.data.detection_utils import read_image
from detectron2.modeling import build_model
from PIL import Image
from tqdm import tqdm

from d2_featcomp.engine import load_weights, report_errors, setup_config
from d2_featcomp.engine.pictures import draw_features, draw_outputs, side_by_side

SUFFIXES = (".jpg", ".jpeg", ".png", ".bmp", ".webp", ".tif", ".tiff", ".ppm")


def parse_args():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--config-file", required=True, help="YAML config")
    parser.add_argument("--input", nargs="+", required=True, help="images or folders of images")
    parser.add_argument("--output", required=True, help="folder to write to")
    parser.add_argument(
        "--reference", metavar="WEIGHTS", help="checkpoint of the uncut network, to compare with"
    )
    parser.add_argument(
        "--confidence-threshold", type=float, default=0.5, help="smallest score shown (0 to 1)"
    )
    parser.add_argument("--limit", type=int, help="stop after this many images")
    parser.add_argument(
        "opts", nargs=argparse.REMAINDER, help="config overrides, KEY VALUE ..., at the end"
    )
    return parser.parse_args()


def list_images(paths):
    images = []
    for path in paths:
        if os.path.isdir(path):
            names = sorted(n for n in os.listdir(path) if n.lower().endswith(SUFFIXES))
            images += [os.path.join(path, name) for name in names]
        elif os.path.isfile(path):
            images.append(path)
        else:
            raise FileNotFoundError(f"no image or folder {path!r}")
    if not images:
        raise FileNotFoundError(f"no images in {', '.join(paths)}")
    return images


def build(cfg, weights, enabled=True):
    cfg = cfg.clone()
    cfg.defrost()
    cfg.MODEL.FEATCOMP.ENABLED = enabled
    model = build_model(cfg).eval()
    load_weights(model, weights)
    return model


def main(args):
    cfg = setup_config(args.config_file, args.opts)
    images = list_images(args.input)[: args.limit]
    model = build(cfg, cfg.MODEL.WEIGHTS)
    reference = build(cfg, args.reference, enabled=False) if args.reference else None
    metadata = MetadataCatalog.get(cfg.DATASETS.TEST[0])
    if metadata.get("thing_classes") is None:
        DatasetCatalog.get(cfg.DATASETS.TEST[0])  # sets the class names
    resize = transforms.ResizeShortestEdge(cfg.INPUT.MIN_SIZE_TEST, cfg.INPUT.MAX_SIZE_TEST)
    os.makedirs(args.output, exist_ok=True)
    for path in tqdm(images, desc="images", mininterval=1):
        picture = read_image(path, format="RGB")
        height, width = picture.shape[:2]
        pixels = resize.get_transform(picture).apply_image(picture)
        if cfg.INPUT.FORMAT == "BGR":
            pixels = pixels[:, :, ::-1]
        tensor = torch.as_tensor(np.ascontiguousarray(pixels.transpose(2, 0, 1), dtype=np.float32))
        inputs = [{"image": tensor, "height": height, "width": width}]
        output = model(inputs)[0]
        stream = output["bitstream"]
        drawn = {}
        if reference is not None:
            with torch.no_grad():
                before = reference(inputs)[0]
            drawn["uncompressed"] = draw_outputs(picture, before, metadata, args.confidence_threshold)
        caption = f"{stream.codec}, {stream.bits} bits: {stream.total_bits // 8} bytes"
        drawn[caption] = draw_outputs(picture, output, metadata, args.confidence_threshold)
        stem = os.path.join(args.output, os.path.splitext(os.path.basename(path))[0])
        Image.fromarray(side_by_side(drawn)).save(f"{stem}_detections.png")
        Image.fromarray(draw_features(stream)).save(f"{stem}_features.png")
        with open(f"{stem}.d2fc", "wb") as file:
            file.write(stream.to_bytes())


if __name__ == "__main__":
    with report_errors():
        main(parse_args())
