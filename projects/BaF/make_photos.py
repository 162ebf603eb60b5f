#!/usr/bin/env python
"""Cuts photographs into training images, and takes validation images from a video.

Run by make_photos.sh. Prints what the validation images take as JPEG files of their full size.
"""

import argparse
import io
import os
import random
import shutil

import av
from PIL import Image
from tqdm import tqdm

CROPS = 800
FRAME_STEP = 6
LONGEST_SIDE = 640  # px, of a training image
SMALLEST_PHOTO = 240  # px, shorter side


def parse_args():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--photos", nargs="+", required=True, help="folders of JPEG photographs")
    parser.add_argument("--video", required=True, help="the video file")
    parser.add_argument("--output", required=True, help="gets the folders train and val")
    return parser.parse_args()


def read_photos(folders):
    """Yields RGB images whose shorter side has at least SMALLEST_PHOTO pixels."""
    for folder in folders:
        for name in sorted(os.listdir(folder)):
            if name.lower().endswith(".jpg"):
                with Image.open(os.path.join(folder, name)) as image:
                    image = image.convert("RGB")
                    if min(image.size) >= SMALLEST_PHOTO:
                        image.thumbnail((1600, 1600))
                        yield image


def crop(photo, rng):
    """A random part, a third of the photograph's width or more, of aspect ratio 1 to 5:3."""
    width = int(photo.width * rng.uniform(0.35, 1))
    height = min(photo.height, int(width * rng.uniform(0.6, 1)))
    left, top = rng.randint(0, photo.width - width), rng.randint(0, photo.height - height)
    part = photo.crop((left, top, left + width, top + height))
    part.thumbnail((LONGEST_SIDE, LONGEST_SIDE))
    return part


def jpeg_size(image, quality):
    file = io.BytesIO()
    image.save(file, "JPEG", quality=quality)
    return file.tell()


def main(args):
    train, val = (os.path.join(args.output, part) for part in ("train", "val"))
    for folder in (train, val):
        shutil.rmtree(folder, ignore_errors=True)
        os.makedirs(folder)
    rng, photos = random.Random(1), list(read_photos(args.photos))
    for number in tqdm(range(CROPS), desc=f"crops of {len(photos)} photographs", mininterval=1):
        crop(photos[number % len(photos)], rng).save(os.path.join(train, f"{number:04d}.png"))
    frames = []
    with av.open(args.video) as video:
        for number, frame in enumerate(video.decode(video=0)):
            if number % FRAME_STEP == 0:
                frames.append(frame.to_image())
                frames[-1].save(os.path.join(val, f"{number:04d}.png"))
    for quality in (75, 95):
        size = sum(jpeg_size(frame, quality) for frame in frames) / len(frames)
        print(
            f"{len(frames)} frames {frames[0].size}, JPEG quality {quality}: {size / 1000:.1f} kB each"
        )


if __name__ == "__main__":
    main(parse_args())
