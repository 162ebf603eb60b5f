"""Any folder of image files as a data set, by the name `images:FOLDER`."""

import logging
import os

from detectron2.data import DatasetCatalog, MetadataCatalog

from ...images import ANNOTATIONS, IMAGE_SUFFIXES, list_images
from ..coco_annotations import load_coco_file
from ..images import open_image
from .scenes import find_data_root

__all__ = [
    "IMAGE_SUFFIXES",
    "PREFIX",
    "list_images",
    "register_image_folders",
    "set_annotations_aside",
]

PREFIX = "images:"
_ORIENTATION = 0x112  # EXIF tag; Detectron2 turns images as it says
_TRANSPOSED = 5  # and more: height and width change places


def register_image_folders(names):
    """Registers those of `names` that begin with `images:` and are not registered yet.

    A relative FOLDER is one of the current folder or, failing that, of DETECTRON2_DATASETS. The images
    of a folder, not those of its sub-folders, are taken in the order of their names. If the folder has a
    file `annotations.json`, in COCO's format, the data set is that file's, and can be evaluated on; else
    it has no annotations and serves trainings that need none. A folder that is missing is reported when
    the data set is loaded.

    Args:
        names (iterable[str]): of data sets.
    """
    for name in names:
        if not name.startswith(PREFIX) or name in DatasetCatalog:
            continue
        folder = os.path.expanduser(name[len(PREFIX) :])
        if not os.path.isdir(folder) and os.path.isdir(os.path.join(find_data_root(), folder)):
            folder = os.path.join(find_data_root(), folder)
        annotations = os.path.join(folder, ANNOTATIONS)
        if os.path.isfile(annotations):
            DatasetCatalog.register(
                name, lambda n=name, a=annotations, f=folder: load_coco_file(a, f, n)
            )
            MetadataCatalog.get(name).set(
                json_file=annotations, image_root=folder, evaluator_type="coco"
            )
        else:
            DatasetCatalog.register(name, lambda folder=folder: list(map(_record, list_images(folder))))
            MetadataCatalog.get(name).set(image_root=folder)


def set_annotations_aside(path):
    """Renames a folder's annotations, before others take their place, and logs it: they become
    `annotations.bak.json`, or the first free one of `annotations.bak2.json`, `annotations.bak3.json` ...

    Args:
        path (str): of the file.
    """
    stem, number = os.path.splitext(path)[0], 1
    while os.path.exists(kept := f"{stem}.bak{number if number > 1 else ''}.json"):
        number += 1
    os.rename(path, kept)
    logging.getLogger("d2_featcomp").warning("the annotations that were in %s are now %s", path, kept)


def _size(image):
    width, height = image.size
    turned = image.getexif().get(_ORIENTATION, 1) >= _TRANSPOSED
    return (height, width) if turned else (width, height)


def _record(path):
    width, height = open_image(path, _size)
    return {"file_name": path, "image_id": os.path.basename(path), "height": height, "width": width}
