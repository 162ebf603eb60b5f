#!/usr/bin/env python
"""Turns the official files of Open Images V6 into a data set in COCO's format, for a list of classes.

    projects/MSFC/prepare_openimages.py --classes Clothing Fish Car Guitar \\
        --descriptions class-descriptions-boxable.csv \\
        --segmentations train-annotations-object-segmentation.csv \\
        --boxes train-annotations-bbox.csv --masks masks/train --images openimages/train

writes openimages/train/annotations.json; the data set is then called images:openimages/train
(configs/msfc_R50_openimages.yaml). Masks may lie in --masks itself or in sub-folders, as unpacked.
--boxes may be left out; it tells which objects are groups (COCO's crowds). Images that were not
downloaded are left out, and counted. --classes may be a file with a name a line. Files are read a line
at a time, and an interrupted call leaves nothing behind; other annotations that are there are kept, as
annotations.bak.json.
"""

import argparse
import csv
import json
import os
import sys
from contextlib import ExitStack

import numpy as np
from PIL import Image
from pycocotools import mask as coco_mask
from tqdm import tqdm

from d2_featcomp.data.datasets.image_folders import put_annotations
from d2_featcomp.engine import report_errors
from d2_featcomp.images import find_upright_size

GROUP = "IsGroupOf"
SEGMENTATION_COLUMNS = (
    "MaskPath",
    "ImageID",
    "LabelName",
    "BoxID",
    "BoxXMin",
    "BoxXMax",
    "BoxYMin",
    "BoxYMax",
)
BOX_COLUMNS = ("ImageID", "LabelName", "XMin", "XMax", "YMin", "YMax", GROUP)


def parse_args():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--classes", nargs="+", required=True, help="display names, or one file of them")
    parser.add_argument("--descriptions", required=True, help="CSV: label name, display name")
    parser.add_argument("--segmentations", required=True, help="CSV of object segmentations")
    parser.add_argument("--boxes", help="CSV of boxes, for groups of objects")
    parser.add_argument("--masks", required=True, help="folder of the mask PNGs")
    parser.add_argument("--images", required=True, help="folder of the images, and of the result")
    return parser.parse_args()


def read_class_names(given):
    """The names of --classes, in their order."""
    if len(given) == 1 and os.path.isfile(given[0]):
        with open(given[0], encoding="utf-8") as file:
            given = [line.strip() for line in file if line.strip()]
    twice = {name for name in given if given.count(name) > 1}
    if twice:
        raise ValueError(f"--classes names {sorted(twice)} twice")
    return given


def read_labels(path, names):
    """Label name (such as /m/0k4j) -> category id (from 1), of the classes with these display names.

    Raises:
        FileNotFoundError: no such file. ValueError: it does not hold all of them.
    """
    wanted = {name.lower(): index for index, name in enumerate(names, 1)}
    found = {}
    with _opened(path) as file:
        for line in csv.reader(file):
            if len(line) == 2 and line[1].lower() in wanted:
                found[line[0]] = wanted[line[1].lower()]
    missing = [name for name in names if wanted[name.lower()] not in found.values()]
    if missing:
        raise ValueError(f"{path} describes no class {', '.join(missing)}")
    return found


def _opened(path):
    if not os.path.isfile(path):
        raise FileNotFoundError(f"no file {path!r}")
    return open(path, newline="", encoding="utf-8-sig")


def read_lines(path, columns):
    """Yields the lines of a large CSV file as dictionaries, with progress."""
    with ExitStack() as stack:
        file = stack.enter_context(_opened(path))
        size = os.path.getsize(path)
        bar = stack.enter_context(
            tqdm(total=size, unit="B", unit_scale=True, desc=os.path.basename(path), mininterval=1)
        )

        def counted():
            for line in file:
                bar.update(len(line.encode()))
                yield line

        reader = csv.DictReader(counted())
        missing = [column for column in columns if column not in (reader.fieldnames or ())]
        if missing:
            raise ValueError(f"{path} has no column {', '.join(missing)}: is it the official file?")
        yield from reader


def read_groups(path, labels):
    """{(image, label): corners of boxes that hold a group}, each x0, x1, y0, y1 from 0 to 1, rounded."""
    groups = {}
    for line in read_lines(path, BOX_COLUMNS):
        if line["LabelName"] in labels and line[GROUP] == "1":
            key = line["ImageID"], line["LabelName"]
            groups.setdefault(key, set()).add(_corners(line, ("XMin", "XMax", "YMin", "YMax")))
    return groups


def _corners(line, names):
    return tuple(round(float(line[name]), 4) for name in names)


def find_mask(folder, name):
    """Path of a mask, in the folder or below its first digit, as the official archives are named."""
    for path in (
        os.path.join(folder, name),
        os.path.join(folder, name[0], name),
        os.path.join(folder, name[0].upper(), name),
    ):
        if os.path.isfile(path):
            return path
    raise FileNotFoundError(f"no mask {name!r} in {folder!r} or a sub-folder named by its first letter")


def annotation(line, size, masks, is_group):
    """Makes an annotation from a line of the segmentation file.

    Args:
        line (dict): of the segmentation file.
        size ((int, int)): width and height of the image, in pixels.
        masks (str): folder.
        is_group (bool): whether it holds several objects.

    Returns:
        dict or None: as in COCO's format, without ids; None for an empty mask.
    """
    path = find_mask(masks, line["MaskPath"])
    try:
        with Image.open(path) as image:
            mask = np.asarray(image.convert("L").resize(size, Image.Resampling.NEAREST)) > 0
    except OSError as error:
        raise ValueError(f"{path!r} is no mask that can be read ({error})") from error
    if not mask.any():
        return None
    coded = coco_mask.encode(np.asfortranarray(mask.astype(np.uint8)))
    return {
        "segmentation": {"size": coded["size"], "counts": coded["counts"].decode("ascii")},
        "bbox": [float(side) for side in coco_mask.toBbox(coded)],
        "area": int(coco_mask.area(coded)),
        "iscrowd": int(is_group),
    }


def image_size(folder, name, known):
    """(width, height) of an image, upright, by its header, None if it is not there; remembered in
    `known`."""
    if name not in known:
        path = os.path.join(folder, f"{name}.jpg")
        if not os.path.isfile(path):
            known[name] = None
        else:
            try:
                with Image.open(path) as image:
                    known[name] = find_upright_size(image)
            except OSError as error:
                raise ValueError(f"{path!r} is no image that can be read ({error})") from error
    return known[name]


def convert(args, output):
    """Writes the data set to an open file; returns the numbers of images, objects and missing images."""
    names = read_class_names(args.classes)
    labels = read_labels(args.descriptions, names)
    for folder in (args.masks, args.images):
        if not os.path.isdir(folder):
            raise FileNotFoundError(f"no folder {folder!r}")
    groups = read_groups(args.boxes, labels) if args.boxes else {}
    sizes, image_ids, count = {}, {}, 0
    categories = [{"id": index, "name": name} for index, name in enumerate(names, 1)]
    info = {"description": "Open Images V6, object segmentations"}  # some releases of pycocotools ask
    output.write(
        f'{{"info": {json.dumps(info)},\n"categories": {json.dumps(categories)},\n"annotations": ['
    )
    for line in read_lines(args.segmentations, SEGMENTATION_COLUMNS):
        if line["LabelName"] not in labels:
            continue
        size = image_size(args.images, line["ImageID"], sizes)
        if size is None:
            continue
        corners = _corners(line, ("BoxXMin", "BoxXMax", "BoxYMin", "BoxYMax"))
        is_group = corners in groups.get((line["ImageID"], line["LabelName"]), ())
        found = annotation(line, size, args.masks, is_group)
        if found is None:
            continue
        count += 1
        found["id"] = count
        found["category_id"] = labels[line["LabelName"]]
        found["image_id"] = image_ids.setdefault(line["ImageID"], len(image_ids) + 1)
        output.write(("," if count > 1 else "") + "\n" + json.dumps(found))
    images = [
        {"id": index, "file_name": f"{name}.jpg", "width": sizes[name][0], "height": sizes[name][1]}
        for name, index in image_ids.items()
    ]
    output.write(f'],\n"images": {json.dumps(images)}}}\n')
    return len(images), count, sum(size is None for size in sizes.values())


def main(args):
    path = os.path.join(args.images, "annotations.json")
    partial = f"{path}.partial"
    if not os.path.isdir(args.images):
        raise FileNotFoundError(f"no folder {args.images!r}")
    try:
        with open(partial, "w", encoding="utf-8") as output:
            images, objects, missing = convert(args, output)
        if not objects:
            raise ValueError(
                f"no object of these classes is in an image of {args.images!r} ({missing} images with "
                "some are not there)"
            )
        put_annotations(partial, path)
    finally:
        if os.path.exists(partial):
            os.remove(partial)
    print(f"{path}: {objects} objects in {images} images")
    if missing:
        print(f"{missing} images with such objects are not in {args.images}", file=sys.stderr)


if __name__ == "__main__":
    arguments = parse_args()
    with report_errors():
        main(arguments)
