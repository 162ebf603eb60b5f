#!/usr/bin/env python
"""Converts the boxes of a video in MOT's format to COCO's, for a folder of its frames.

    convert_mot.py --boxes gt/gt.txt --frames img1

writes img1/annotations.json; the data set images:img1 can then be evaluated on. Frames are image files
whose names end in their number, counted from 1 as in gt.txt. Other annotations that are there are kept,
as annotations.bak.json.

A line of gt.txt is: frame, identity, left, top, width, height, flag, ...; frames and pixels are counted
from 1, and lines of flag 0 are to be ignored (Milan et al., "MOT16: A Benchmark for Multi-Object
Tracking", arXiv 1603.00831). All boxes become persons, clipped at the frame. COCO's other categories are
listed, too, so that detectors of COCO can be measured: those without objects do not count in AP.
"""

import argparse
import csv
import json
import math
import os
import re

from detectron2.data import MetadataCatalog

from d2_featcomp.data.datasets.image_folders import ANNOTATIONS, list_images, write_annotations
from d2_featcomp.data.images import open_image
from d2_featcomp.engine import report_errors

FIELDS = 7  # that are read
PERSON = "person"


def parse_args():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--boxes", required=True, help="gt.txt")
    parser.add_argument("--frames", required=True, help="folder of image files")
    return parser.parse_args()


def read_mot(path):
    """Reads ground truth in MOT's format.

    Args:
        path (str): of gt.txt.

    Returns:
        dict[int, list[list[float]]]: number of the frame, from 1 -> left, top, width, height of each
        box whose flag is not 0, in pixels from 0.

    Raises:
        ValueError: a line is not of this format; the message names it. OSError: it cannot be read.
    """
    found = {}
    with open(path, encoding="utf-8", newline="") as file:
        for number, row in enumerate(csv.reader(file), start=1):
            try:
                values = [float(value) for value in row[:FIELDS]]
                frame, _, left, top, width, height, flag = values
                if not all(map(math.isfinite, values)) or frame < 1 or frame % 1:
                    raise ValueError("a number is out of range")
            except ValueError as error:
                where = f"{path!r}, line {number}"
                raise ValueError(f"{where}: no line of MOT's format ({error})") from error
            if flag:
                found.setdefault(int(frame), []).append([left - 1, top - 1, width, height])
    return found


def convert_mot(path, folder, frames):
    """Converts boxes in MOT's format to annotations in COCO's.

    Args:
        path (str): of gt.txt.
        folder (str): of the frames' image files.
        frames (dict[str, int]): name of an image file -> number of the frame, from 0.

    Returns:
        str: JSON, for `annotations.json` of the folder.

    Raises:
        ValueError: the file is not of this format, or has no box in any of these frames.
    """
    boxes, images, annotations = read_mot(path), [], []
    names = MetadataCatalog.get("coco_2017_val").thing_classes
    person = names.index(PERSON) + 1
    for image_id, (name, number) in enumerate(frames.items(), start=1):
        width, height = open_image(os.path.join(folder, name), lambda image: image.size)
        images.append({"id": image_id, "file_name": name, "width": width, "height": height})
        for box in boxes.get(number + 1, ()):
            clipped = _clip(box, width, height)
            if min(clipped[2:]) <= 0:
                continue
            annotation = {"id": len(annotations) + 1, "image_id": image_id, "category_id": person}
            area = clipped[2] * clipped[3]
            annotations.append({**annotation, "bbox": clipped, "area": area, "iscrowd": 0})
    if not annotations:
        raise ValueError(f"{path!r} has no box in any of the {len(frames)} frames of {folder!r}")
    categories = [{"id": number, "name": name} for number, name in enumerate(names, start=1)]
    return json.dumps({"images": images, "annotations": annotations, "categories": categories})


def _clip(box, width, height):
    left, top, wide, high = box
    x, y = max(left, 0), max(top, 0)
    return [x, y, min(left + wide, width) - x, min(top + high, height) - y]


def number_frames(folder):
    """Reads the numbers of frames from file names that end in them, counted from 1.

    Returns:
        dict[str, int]: as :func:`convert_mot` takes them, counted from 0.

    Raises:
        ValueError: a name does not end in a number.
    """
    numbers = {}
    for name in map(os.path.basename, list_images(folder)):
        match = re.search(r"(\d+)\.\w+$", name)
        if not match:
            raise ValueError(f"{folder!r}: the name of {name!r} does not end in the number of a frame")
        numbers[name] = int(match[1]) - 1
    return numbers


def main(args):
    text = convert_mot(args.boxes, args.frames, number_frames(args.frames))
    path = os.path.join(args.frames, ANNOTATIONS)
    write_annotations(text, path)
    print(f"{path}: {len(json.loads(text)['annotations'])} boxes")


if __name__ == "__main__":
    arguments = parse_args()
    with report_errors():
        main(arguments)
