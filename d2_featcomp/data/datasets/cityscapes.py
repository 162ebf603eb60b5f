"""Registers Cityscapes with its disparity maps: `cityscapes_multi_task_train` and
`cityscapes_multi_task_val`.

Below DETECTRON2_DATASETS, Detectron2's own layout and beside it the package disparity_trainvaltest:

    cityscapes/leftImg8bit/train/<city>/<frame>_leftImg8bit.png
    cityscapes/gtFine/train/<city>/<frame>_gtFine_labelTrainIds.png   and _gtFine_polygons.json
    cityscapes/disparity/train/<city>/<frame>_disparity.png
"""

import os

from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.data.datasets.builtin_meta import CITYSCAPES_CATEGORIES
from detectron2.data.datasets.cityscapes import load_cityscapes_semantic

from ..images import read_sem_seg
from .scenes import find_data_root

__all__ = ["load_cityscapes_multi_task", "register_cityscapes_multi_task"]

_MAPS_LOOKED_AT = 10  # when the data set is loaded


def register_cityscapes_multi_task(name, root, part):
    """Registers a part of Cityscapes, with disparity.

    Args:
        name (str): to register.
        root (str): folder with `leftImg8bit`, `gtFine` and `disparity`.
        part (str): "train" or "val".
    """
    DatasetCatalog.register(name, lambda: load_cityscapes_multi_task(root, part))
    MetadataCatalog.get(name).set(
        evaluator_type="multi_task",
        image_root=os.path.join(root, "leftImg8bit", part),
        stuff_classes=[category["name"] for category in CITYSCAPES_CATEGORIES],
        stuff_colors=[category["color"] for category in CITYSCAPES_CATEGORIES],
        ignore_label=255,
    )


def load_cityscapes_multi_task(root, part):
    """Lists the records of a part of Cityscapes, with disparity.

    Args:
        root, part (str): see :func:`register_cityscapes_multi_task`.

    Returns:
        list[dict]: Detectron2's of semantic segmentation, with "disparity_file_name".

    Raises:
        FileNotFoundError: a folder or a disparity map is missing. ValueError: a semantic map does not
            hold train ids (some are looked at; the others when they are used).
    """
    folders = {kind: os.path.join(root, kind, part) for kind in ("leftImg8bit", "gtFine", "disparity")}
    for kind, folder in folders.items():
        if not os.path.isdir(folder):
            advice = " (Cityscapes' package disparity_trainvaltest.zip)" if kind == "disparity" else ""
            raise FileNotFoundError(f"no folder {folder!r}: unpack Cityscapes there{advice}")
    try:
        dicts = load_cityscapes_semantic(folders["leftImg8bit"], folders["gtFine"])
    except AssertionError as error:  # so Detectron2 reports what is missing
        raise FileNotFoundError(str(error)) from error
    for record in dicts:
        image = os.path.relpath(record["file_name"], folders["leftImg8bit"])
        name = image.replace("_leftImg8bit.png", "_disparity.png")
        record["disparity_file_name"] = os.path.join(folders["disparity"], name)
        if not os.path.isfile(record["disparity_file_name"]):
            raise FileNotFoundError(
                f"no disparity map {record['disparity_file_name']!r} for image {record['file_name']!r}"
            )
    for record in dicts[:: max(1, len(dicts) // _MAPS_LOOKED_AT)]:
        read_sem_seg(record["sem_seg_file_name"], num_classes=len(CITYSCAPES_CATEGORIES))
    return dicts


for _part in ("train", "val"):
    register_cityscapes_multi_task(
        f"cityscapes_multi_task_{_part}", os.path.join(find_data_root(), "cityscapes"), _part
    )
