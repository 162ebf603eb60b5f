#!/usr/bin/env python
"""Cuts Middlebury's stereo pairs into crops with their disparity: the data set stereo:OUTPUT.

    make_middlebury.py --output middlebury --pair left.png disparity.npz 1 --pair aloeL.jpg aloeGT.png 2

Each pair is a left image, its disparity map and a whole number of times that both are made smaller. A
map is an .npz file, a TIFF file of floats or a gray image of 8 bits, whose values are pixels; 0,
infinite or no number stands for unknown. An image may be a TIFF file of floats, too. Disparity is in
pixels of the crops. Run by make_middlebury.sh.
"""

import argparse
import os

import imagecodecs
import numpy as np
from PIL import Image

from d2_featcomp.data.disparity import LARGEST_DISPARITY, make_stored_disparity
from d2_featcomp.data.images import open_image
from d2_featcomp.engine import report_errors

WIDTH, HEIGHT = 256, 192  # px, of a crop


def parse_args():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--pair",
        nargs=3,
        action="append",
        required=True,
        metavar=("IMAGE", "DISPARITY", "FACTOR"),
        help="a pair; can be repeated",
    )
    parser.add_argument("--output", required=True, help="gets the folders images and disparity")
    return parser.parse_args()


def is_tiff(path):
    return path.lower().endswith((".tif", ".tiff"))


def read_tiff(path):
    """Reads the numbers of a TIFF file: of floats, which Pillow cannot read in colour. ValueError: it is
    damaged."""
    with open(path, "rb") as file:
        data = file.read()
    try:
        return imagecodecs.tiff_decode(data)
    except (RuntimeError, ValueError) as error:
        raise ValueError(f"{path!r} cannot be read: {error}") from error


def read_left(path):
    """Reads an image: of Pillow, RGB."""
    if not is_tiff(path):
        return open_image(path, lambda opened: opened.convert("RGB"))
    values = read_tiff(path)
    if values.ndim != 3 or values.shape[2] != 3:
        raise ValueError(f"{path!r} is of shape {values.shape}: an image is (height, width, 3)")
    return Image.fromarray(np.round(values).clip(0, 255).astype(np.uint8))


def read_map(path):
    """Reads a disparity map: (height, width) float64, 0 where it is unknown.

    Raises:
        ValueError: it is no map, or holds a disparity that cannot be stored.
    """
    if path.endswith(".npz"):
        with np.load(path) as arrays:
            if len(arrays.files) != 1:
                raise ValueError(f"{path!r} holds {len(arrays.files)} arrays: it must be one")
            values = arrays[arrays.files[0]].astype(np.float64)
    elif is_tiff(path):
        values = read_tiff(path).astype(np.float64)
    else:
        mode, values = open_image(path, lambda image: (image.mode, np.array(image)))
        if mode != "L":
            raise ValueError(f"{path!r} is an image of mode {mode}: maps are gray, of 8 bits")
        values = values.astype(np.float64)
    values = np.where(np.isfinite(values), values, 0)
    if values.ndim != 2 or values.min() < 0 or values.max() > LARGEST_DISPARITY:
        raise ValueError(f"{path!r} is no map of disparities of 0 to {LARGEST_DISPARITY:.0f} pixels")
    return values


def shrink(image, disparity, factor):
    """Makes both smaller by a whole number of times. A disparity is one of those that it stands for, the
    middle one: a mean of near and far is neither."""
    if factor == 1:
        return image, disparity
    height, width = (side // factor for side in disparity.shape)
    image = image.crop((0, 0, width * factor, height * factor)).reduce(factor)
    middle = factor // 2
    return image, disparity[middle::factor, middle::factor][:height, :width] / factor


def cut(image_path, map_path, factor, output):
    """Writes the crops of a pair, row by row, centred in it.

    Returns:
        int: how many.

    Raises:
        ValueError: image and map are of different sizes, or too small for one crop.
    """
    image = read_left(image_path)
    disparity = read_map(map_path)
    if disparity.shape != image.size[::-1]:
        raise ValueError(
            f"{image_path!r} is of {image.width} x {image.height} pixels, {map_path!r} of "
            f"{disparity.shape[1]} x {disparity.shape[0]}"
        )
    image, disparity = shrink(image, disparity, factor)
    columns, rows = image.width // WIDTH, image.height // HEIGHT
    if not columns or not rows:
        raise ValueError(
            f"{image_path!r}, {factor} times smaller, has {image.width} x {image.height} pixels: crops "
            f"are of {WIDTH} x {HEIGHT}"
        )
    stem = os.path.splitext(os.path.basename(image_path))[0]
    left, top = (image.width - columns * WIDTH) // 2, (image.height - rows * HEIGHT) // 2
    for index in range(rows * columns):
        x, y = left + index % columns * WIDTH, top + index // columns * HEIGHT
        name = f"{stem}_{index}.png"
        image.crop((x, y, x + WIDTH, y + HEIGHT)).save(os.path.join(output, "images", name))
        stored = make_stored_disparity(disparity[y : y + HEIGHT, x : x + WIDTH])
        Image.fromarray(stored).save(os.path.join(output, "disparity", name))
    return rows * columns


def main():
    args = parse_args()
    with report_errors():
        for folder in ("images", "disparity"):
            os.makedirs(os.path.join(args.output, folder), exist_ok=True)
        for image, disparity, factor in args.pair:
            if not factor.isdecimal() or int(factor) < 1:
                raise ValueError(f"the factor {factor!r} of {image!r} must be a whole number from 1")
            count = cut(image, disparity, int(factor), args.output)
            print(f"{image}: {count} crops of {WIDTH} x {HEIGHT} pixels")


if __name__ == "__main__":
    main()
