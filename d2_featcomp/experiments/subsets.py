"""The first images of a data set, as a data set of its own."""

import json
import os

from detectron2.data import DatasetCatalog, MetadataCatalog

from ..files import write_text
from .keys import TRUTH, digest

__all__ = ["limit_images"]

# Evaluators that take what images come, or whose truth is in one of `_TRUTHS`.
_KINDS = ("coco", "lvis", "coco_panoptic_seg", "sem_seg", "multi_task")
_TRUTHS = ("json_file", "panoptic_json")


def limit_images(cfg, count, folder):
    """Makes a config measure the first images of its test set.

    Args:
        cfg (CfgNode): with one test set.
        count (int): of images.
        folder (str): where the truth of these images is written, in COCO's format, if the data set has
            such a file.

    Returns:
        CfgNode: whose test set is named `NAME, first COUNT`.

    Raises:
        ValueError: the data set's evaluator reads the whole truth from elsewhere.
    """
    whole = cfg.DATASETS.TEST[0]
    records = DatasetCatalog.get(whole)[:count]
    about = MetadataCatalog.get(whole)
    if about.get("evaluator_type") not in _KINDS:
        raise ValueError(
            f"data set {whole!r} has evaluator_type {about.get('evaluator_type')!r}: its evaluator "
            f"takes the whole data set only; images can be limited for {', '.join(_KINDS)}"
        )
    name = f"{whole}, first {count}"
    if name not in DatasetCatalog:
        DatasetCatalog.register(name, lambda: records)
        plain = {key: value for key, value in about.as_dict().items() if key != "name"}
        MetadataCatalog.get(name).set(**plain)
    limited = MetadataCatalog.get(name)
    ids = {record.get("image_id") for record in records}
    for key in _TRUTHS:
        if about.get(key):
            if key in limited.as_dict():
                delattr(limited, key)
            limited.set(**{key: _write_truth(about.get(key), ids, folder)})
    cfg = cfg.clone()
    cfg.defrost()
    cfg.DATASETS.TEST = (name,)
    cfg.freeze()
    return cfg


def _write_truth(path, ids, folder):
    with open(path, encoding="utf-8") as file:
        truth = json.load(file)
    for key, of_image in (("images", "id"), ("annotations", "image_id")):
        if key in truth:
            truth[key] = [entry for entry in truth[key] if entry[of_image] in ids]
    target = os.path.join(folder, f"{TRUTH}{digest(truth)}.json")
    if not os.path.exists(target):  # else measured numbers would seem to belong to another file
        os.makedirs(folder, exist_ok=True)
        write_text(json.dumps(truth), target)
    return target
