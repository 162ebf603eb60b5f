#!/usr/bin/env python
"""Codes the images of a data set at their full size, as a camera would for a network in the cloud.

    recompress_images.py --dataset coco_2017_val --codec jpeg420 --quality 75 --output jpeg75

writes each image as it is after decoding (PNG) and annotations.json into the folder, and prints how many
bytes the coded images took. Any network can then be measured on the data set images:jpeg75.
"""

import argparse
import json
import os

import numpy as np
from detectron2.data import DatasetCatalog, MetadataCatalog
from PIL import Image
from tqdm import tqdm

from d2_featcomp.codecs import build_image_codec
from d2_featcomp.data.datasets.image_folders import (
    ANNOTATIONS,
    register_image_folders,
    write_annotations,
)
from d2_featcomp.data.images import read_image
from d2_featcomp.deploy.naming import name_files
from d2_featcomp.engine import report_errors


def parse_args():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--dataset", required=True, help="a data set with annotations in COCO's format")
    parser.add_argument("--codec", default="jpeg420", help="codec for colour images (default: jpeg420)")
    parser.add_argument("--quality", type=float, required=True, help="quality, in the codec's own scale")
    parser.add_argument("--output", required=True, help="folder to write to")
    return parser.parse_args()


def code_image(codec, image):
    """Codes an image and decodes it.

    Args:
        codec (ImageCodec): of layout "colour", 8 bits.
        image (ndarray): (H, W, 3) uint8, RGB.

    Returns:
        (ndarray, int): the image as it is after decoding, and how many bytes the coded one has.
    """
    data = codec.encode(image)
    decoded = codec.decode(data, shape=image.shape, bits=8, lossless=codec.lossless)
    return decoded, len(data)


def main(args):
    codec = build_image_codec(args.codec, bits=8, quality=args.quality)
    if codec.layout != "colour":
        raise ValueError(f"--codec {args.codec} is for single channels: choose jpeg420 or hevc420")
    register_image_folders([args.dataset])
    path = MetadataCatalog.get(args.dataset).get("json_file")
    records = DatasetCatalog.get(args.dataset)
    if not path:
        raise ValueError(f"data set {args.dataset!r} has no annotations in COCO's format")
    with open(path, encoding="utf-8") as file:
        data = json.load(file)
    paths = [record["file_name"] for record in records]
    targets = [os.path.join(args.output, f"{name}.png") for name in name_files(paths)]
    if taken := {*map(os.path.realpath, targets)} & {*map(os.path.realpath, paths)}:
        raise ValueError(f"{taken.pop()!r} is an original: choose another --output, not to replace it")
    os.makedirs(args.output, exist_ok=True)
    names, sizes, originals = {}, [], []
    progress = tqdm(records, desc=f"{args.codec}, {args.quality:g}", mininterval=1)
    for record, target in zip(progress, targets, strict=True):
        decoded, size = code_image(codec, read_image(record["file_name"], format="RGB"))
        names[record["image_id"]] = os.path.basename(target)
        Image.fromarray(decoded).save(target, compress_level=1)
        sizes.append(size)
        originals.append(os.path.getsize(record["file_name"]))
    data["images"] = [
        {**image, "file_name": names[image["id"]]} for image in data["images"] if image["id"] in names
    ]
    write_annotations(json.dumps(data), os.path.join(args.output, ANNOTATIONS))
    print(
        f"{len(sizes)} images: {np.mean(sizes) / 1000:.2f} kB each; the files they were read from have "
        f"{np.mean(originals) / 1000:.2f} kB each"
    )


if __name__ == "__main__":
    arguments = parse_args()
    with report_errors():
        main(arguments)
