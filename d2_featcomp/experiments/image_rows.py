"""Bytes and average precision of each image at each setting of a plan."""

import csv
import math
import os

from detectron2.data import DatasetCatalog

from ..evaluation.average_precision import ImageMatches, compute_by_image
from ..evaluation.coco import name_matches
from ..evaluation.tradeoff import AP_COLUMNS, COLUMNS

__all__ = ["collect_image_rows"]


def collect_image_rows(report):
    """Collects what is known of each image, of `per_image.csv` and of how detections were matched.

    Args:
        report (Report): after its `write`.

    Returns:
        dict: "column", that of the average precision, or "" if none is known of an image; "images",
        their names; "settings", name of a point -> {"bytes": list, "quality": list}, for each image a
        value or None.
    """
    sizes = _read_sizes(os.path.join(report.output, "per_image.csv"))
    column = _choose_column(report)
    values, images_of = {}, {}
    for name in report.configs if column else ():
        found = _compute_qualities(report.configs[name], column, images_of)
        if found:
            values[name] = found
    names = [name for name in report.plan.points if name in sizes or name in values]
    images = dict.fromkeys(image for name in names for image in sizes.get(name, ()))
    images |= dict.fromkeys(image for name in names for image in values.get(name, ()))
    return {
        "column": column if values else "",
        "images": list(images),
        "settings": {
            name: {
                "bytes": [sizes.get(name, {}).get(image) for image in images],
                "quality": [values.get(name, {}).get(image) for image in images],
            }
            for name in names
        },
    }


def _read_sizes(path):
    """{name of a point: {image: bytes}}."""
    try:
        with open(path, newline="", encoding="utf-8") as file:
            rows = list(csv.DictReader(file))
    except FileNotFoundError:
        return {}
    short, sizes = _shorten([row["image"] for row in rows]), {}
    for row in rows:
        sizes.setdefault(row["setting"], {})[short[row["image"]]] = int(row["bytes"])
    return sizes


def _shorten(paths):
    """{path: its file name}, or {path: path} where two have one name. File names stay the same where the
    data set was moved after it was measured."""
    short = {path: os.path.basename(path) for path in paths}
    return short if len(set(short.values())) == len(short) else {path: path for path in paths}


def _choose_column(report):
    """The average precision that the plan plots, else the first that was measured; "": none."""
    measured = [column for column in report.qualities() if column in AP_COLUMNS]
    return next((column for column in (*report.plan.ys, *measured) if column in measured), "")


def _compute_qualities(cfg, column, images_of):
    """{image: percent}, of images with objects; empty where matches were not kept. Fills `images_of`:
    name of a data set -> {image_id: image}."""
    if len(cfg.DATASETS.TEST) != 1:
        return {}
    dataset = cfg.DATASETS.TEST[0]
    task, metric, _ = COLUMNS[column]
    try:
        matches = ImageMatches.load(os.path.join(cfg.OUTPUT_DIR, "inference", name_matches(task)))
        if dataset not in images_of:
            paths = {r.get("image_id"): r["file_name"] for r in DatasetCatalog.get(dataset)}
            short = _shorten(paths.values())
            images_of[dataset] = {key: short[path] for key, path in paths.items()}
        values = compute_by_image(matches, metric).tolist()
    except (OSError, ValueError):  # no detections, an earlier release, damaged; the data set has gone
        return {}
    return {
        images_of[dataset][image]: round(value, 1)
        for image, value in zip(matches.image_ids.tolist(), values, strict=True)
        if image in images_of[dataset] and not math.isnan(value)
    }
