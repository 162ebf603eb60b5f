#!/usr/bin/env python
"""Gathers photographs to train BaF on, and frames of a video to measure it on.

Run by make_photos.sh. OUTPUT/train gets the photographs of Debian packages, at most 1024 pixels wide or
high, and, where there are any, links to COCO's training images. OUTPUT/val gets every sixth frame of the
video and, where there are boxes of it in MOT's format, annotations.json. Prints what COCO's validation
images and the frames take as files of their full size.
"""

import argparse
import io
import os
import shutil

import av
from convert_mot import convert_mot
from PIL import Image
from tqdm import tqdm

from d2_featcomp.data.datasets.image_folders import ANNOTATIONS, list_images
from d2_featcomp.files import write_text

FRAME_STEP = 6
LONGEST_SIDE = 1024  # px, of a photograph of the packages
SMALLEST_PHOTO = 240  # px, shorter side
COCO_IMAGES = 5000  # at most


def parse_args():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--photos", nargs="+", required=True, help="folders of JPEG photographs")
    parser.add_argument("--video", required=True, help="the video file")
    parser.add_argument("--coco", required=True, help="COCO, in Detectron2's layout; may be missing")
    parser.add_argument("--boxes", required=True, help="gt.txt of the video, MOT format; may be missing")
    parser.add_argument("--output", required=True, help="gets the folders train and val")
    return parser.parse_args()


def gather_photos(folders, output):
    """Writes the photographs whose shorter side has at least SMALLEST_PHOTO pixels.

    Returns:
        int: how many.
    """
    count = 0
    for folder in folders:
        for name in tqdm(sorted(os.listdir(folder)), desc="photographs", mininterval=1):
            if not name.lower().endswith(".jpg"):
                continue
            with Image.open(os.path.join(folder, name)) as image:
                photo = image.convert("RGB")
            if min(photo.size) >= SMALLEST_PHOTO:
                photo.thumbnail((LONGEST_SIDE, LONGEST_SIDE))
                photo.save(os.path.join(output, f"photo{count:03d}.png"))
                count += 1
    return count


def link_coco(coco, output):
    """Links the first COCO_IMAGES of COCO's training images.

    Returns:
        int: how many.
    """
    folder = os.path.join(coco, "train2017")
    if not os.path.isdir(folder):
        return 0
    paths = list_images(folder)[:COCO_IMAGES]
    for path in paths:
        os.symlink(os.path.abspath(path), os.path.join(output, f"coco{os.path.basename(path)}"))
    return len(paths)


def write_frames(video, output):
    """Writes every FRAME_STEP-th frame as PNG.

    Returns:
        dict[str, int]: file name -> number of the frame in the video, from 0.
    """
    names = {}
    with av.open(video) as container:
        for number, frame in enumerate(container.decode(video=0)):
            if number % FRAME_STEP == 0:
                name = f"{number:04d}.png"
                frame.to_image().save(os.path.join(output, name))
                names[name] = number
    return names


def jpeg_size(path, quality):
    """Returns int: bytes of an image as JPEG, 4:2:0."""
    file = io.BytesIO()
    with Image.open(path) as image:
        image.save(file, "JPEG", quality=quality)
    return file.tell()


def report_sizes(coco, val):
    """Prints bytes of images as the camera gives them: COCO's own files, frames as JPEG."""
    if os.path.isdir(os.path.join(coco, "val2017")):
        paths = list_images(os.path.join(coco, "val2017"))
        size = sum(map(os.path.getsize, paths)) / len(paths)
        print(f"COCO's own JPEG files: {len(paths)} validation images, {size / 1000:.1f} kB each")
    frames = list_images(val)
    for quality in (75, 95):
        size = sum(jpeg_size(path, quality) for path in frames) / len(frames)
        print(f"{len(frames)} frames, JPEG quality {quality}: {size / 1000:.1f} kB each")


def main(args):
    train, val = (os.path.join(args.output, part) for part in ("train", "val"))
    for folder in (train, val):
        shutil.rmtree(folder, ignore_errors=True)
        os.makedirs(folder)
    photos, linked = gather_photos(args.photos, train), link_coco(args.coco, train)
    print(f"{train}: {photos} photographs of the packages, {linked} of COCO")
    if not linked:
        print(f"There are no images in {args.coco}/train2017: BaF is trained without any of COCO")
    frames = write_frames(args.video, val)
    if os.path.isfile(args.boxes):
        boxes = convert_mot(args.boxes, val, frames)
        write_text(boxes, os.path.join(val, ANNOTATIONS))
    else:
        print(f"There is no {args.boxes}: AP cannot be measured on the frames of the video")
    report_sizes(args.coco, val)


if __name__ == "__main__":
    main(parse_args())
