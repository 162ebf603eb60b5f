"""Any folder of image files as a data set, by the name `images:FOLDER` or `images:FOLDER:FILE.json`; and
one of images with disparity maps, `stereo:FOLDER`."""

import filecmp
import logging
import os

from detectron2.data import DatasetCatalog, MetadataCatalog

from ...files import write_text
from ...images import ANNOTATIONS, IMAGE_SUFFIXES, find_upright_size, list_images
from ..coco_annotations import find_keypoint_names, load_coco_file
from ..images import open_image
from .scenes import find_data_root

__all__ = [
    "IMAGE_SUFFIXES",
    "PREFIX",
    "STEREO_PREFIX",
    "list_images",
    "put_annotations",
    "register_image_folders",
    "write_annotations",
]

PREFIX, STEREO_PREFIX = "images:", "stereo:"


def register_image_folders(names):
    """Registers those of `names` that begin with `images:` or `stereo:` and are not registered yet.

    A relative FOLDER or FILE is one of the current folder or, failing that, of DETECTRON2_DATASETS. The
    images of a folder, not those of its sub-folders, are taken in the order of their names. FILE.json
    has its annotations in COCO's format; without it, `annotations.json` in the folder. The data set is
    that file's, and can be evaluated on. Where there is neither, it has no annotations and serves
    trainings that need none. What is missing is reported when the data set is loaded.

    `stereo:FOLDER` has the left images in FOLDER/images and the disparity of each, as
    :func:`read_disparity` has it, in FOLDER/disparity/NAME.png. It has no semantic maps: that task is
    neither trained nor evaluated on it.

    Args:
        names (iterable[str]): of data sets.
    """
    for name in names:
        if name in DatasetCatalog:
            continue
        if name.startswith(PREFIX):
            _register_images(name, name[len(PREFIX) :])
        elif name.startswith(STEREO_PREFIX):
            _register_stereo(name, _find(name[len(STEREO_PREFIX) :]))


def _register_images(name, path):
    folder, colon, file = path.rpartition(":")
    named = bool(colon) and file.endswith(".json")
    folder = _find(folder if named else path)
    annotations = _find(file) if named else os.path.join(folder, ANNOTATIONS)
    if named or os.path.isfile(annotations):
        DatasetCatalog.register(name, lambda: _load_annotated(annotations, folder, name))
        MetadataCatalog.get(name).set(json_file=annotations, image_root=folder, evaluator_type="coco")
    else:
        DatasetCatalog.register(name, lambda: list(map(_record, list_images(folder))))
        MetadataCatalog.get(name).set(image_root=folder)


def _load_annotated(path, folder, name):
    records = load_coco_file(path, folder, name)
    if any("keypoints" in each for record in records for each in record.get("annotations", ())):
        names = find_keypoint_names(path)
        MetadataCatalog.get(name).set(keypoint_names=names, keypoint_flip_map=_pair_sides(names))
    return records


def _pair_sides(names):
    """list[(str, str)]: names that begin with "left", each with the one that begins with "right"."""
    pairs = [(name, f"right{name[4:]}") for name in names if name.startswith("left")]
    return [pair for pair in pairs if pair[1] in names]


def _register_stereo(name, folder):
    images = os.path.join(folder, "images")
    DatasetCatalog.register(name, lambda: [_stereo_record(path, folder) for path in list_images(images)])
    MetadataCatalog.get(name).set(image_root=images, evaluator_type="stereo")


def _stereo_record(path, folder):
    stem = os.path.splitext(os.path.basename(path))[0]
    disparity = os.path.join(folder, "disparity", f"{stem}.png")
    if not os.path.isfile(disparity):
        raise FileNotFoundError(f"no disparity map {disparity!r} for image {path!r}")
    return {**_record(path), "disparity_file_name": disparity}


def _find(path):
    path = os.path.expanduser(path)
    below_root = os.path.join(find_data_root(), path)
    return below_root if not os.path.exists(path) and os.path.exists(below_root) else path


def write_annotations(text, path):
    """Writes a folder's annotations, see :func:`put_annotations`.

    Args:
        text (str): the whole content.
        path (str): of the file.
    """
    partial = f"{path}.partial"
    write_text(text, partial)
    put_annotations(partial, path)


def put_annotations(written, path):
    """Moves a file to where a folder's annotations belong. Others that are there are kept, which is
    logged: they become `annotations.bak.json`, or the first free one of `annotations.bak2.json`,
    `annotations.bak3.json` ...

    Args:
        written (str): of the file that is moved.
        path (str): where it belongs.
    """
    if os.path.exists(path) and not filecmp.cmp(written, path, shallow=False):
        _set_aside(path)
    os.replace(written, path)


def _set_aside(path):
    stem, number = os.path.splitext(path)[0], 1
    while os.path.exists(kept := f"{stem}.bak{number if number > 1 else ''}.json"):
        number += 1
    os.rename(path, kept)
    logging.getLogger("d2_featcomp").warning("the annotations that were in %s are now %s", path, kept)


def _record(path):
    width, height = open_image(path, find_upright_size)
    return {"file_name": path, "image_id": os.path.basename(path), "height": height, "width": width}
