"""The data sets that this project knows: where they belong, whether they are there, how to get them."""

import dataclasses
import os

from .datasets.scenes import PHOTO_LAYOUT, find_data_root, photo_recipe, procedural_recipe
from .debian import fetch_debian_packages
from .scenes import ensure_scenes, is_complete, read_manifest, write_scenes

__all__ = ["BUILT_HERE", "KnownDataSet", "build_data_set", "list_data_sets"]

_PHOTO_CLASSES = ("animals", "food", "plants", "vehicles", "household", "hobbies")
_PHOTO_PACKAGES = ("tuxpaint-stamps-default", "mate-backgrounds")

# Below DETECTRON2_DATASETS: folder -> (registered names, files and folders needed, how to get them).
_DOWNLOADED = {
    "coco": (
        "coco_2017_train, coco_2017_val, coco_2014_train, coco_2014_minival and the like",
        ("annotations",),
        "COCO, in the layout that Detectron2's documentation describes",
    ),
    "cityscapes": (
        "cityscapes_multi_task_train, cityscapes_multi_task_val",
        ("leftImg8bit", "gtFine", "disparity"),
        "Cityscapes with disparity_trainvaltest, in Detectron2's layout",
    ),
    "openimages": (
        "images:openimages/train, images:openimages/validation",
        ("train/annotations.json", "validation/annotations.json"),
        "projects/MSFC/prepare_openimages.py of the repository, from the files of Open Images V6",
    ),
    "baf_photos": (
        "images:baf_photos/train, images:baf_photos/val",
        ("train", "val"),
        "make baf-photos in the repository",
    ),
}


@dataclasses.dataclass(frozen=True)
class KnownDataSet:
    """A data set.

    Attributes:
        name (str): of its folder below DETECTRON2_DATASETS.
        registered (str): the names that DATASETS.TRAIN and DATASETS.TEST take.
        folder (str): where it belongs.
        present (bool): whether its files are there; they are not read.
        how (str): how to get it.
    """

    name: str
    registered: str
    folder: str
    present: bool
    how: str


def list_data_sets():
    """Lists the data sets of this project: list[KnownDataSet]."""
    root = find_data_root()
    made = {"scenes": "drawn when it is first used, or by featcomp datasets --build scenes"}
    made["photo_scenes"] = "featcomp datasets --build photo_scenes (downloads 208 MB, on Debian)"
    for name in sorted(os.listdir(root)) if os.path.isdir(root) else []:
        if read_manifest(os.path.join(root, name)) is not None:
            made.setdefault(name, "featcomp make-scenes")
    found = []
    for name, how in made.items():
        folder = os.path.join(root, name)
        registered = f"{name}_train, {name}_val, {name}_multi_task_train, {name}_multi_task_val"
        found.append(KnownDataSet(name, registered, folder, read_manifest(folder) is not None, how))
    for name, (registered, needed, how) in _DOWNLOADED.items():
        folder = os.path.join(root, name)
        present = all(os.path.exists(os.path.join(folder, path)) for path in needed)
        found.append(KnownDataSet(name, registered, folder, present, how))
    return found


def _build_scenes(folder):
    ensure_scenes(folder, procedural_recipe())


def _build_photo_scenes(folder):
    """From the cut-outs and the photographs of two Debian packages, which are kept beside it."""
    if is_complete(folder) and read_manifest(folder).get("layout") == PHOTO_LAYOUT:
        return
    sources = f"{folder}_sources"
    fetch_debian_packages(_PHOTO_PACKAGES, sources)
    recipe = photo_recipe(
        os.path.join(sources, "usr/share/tuxpaint/stamps"),
        os.path.join(sources, "usr/share/backgrounds/mate/nature"),
        classes=_PHOTO_CLASSES,
        exclude=("cartoon",),
    )
    write_scenes(folder, *recipe())


# Those that can be built on any machine, or on Debian.
BUILT_HERE = {"scenes": _build_scenes, "photo_scenes": _build_photo_scenes}


def build_data_set(name):
    """Builds a data set below DETECTRON2_DATASETS; one that is complete is left as it is.

    Args:
        name (str): one of BUILT_HERE.

    Returns:
        str: its folder.

    Raises:
        ValueError: another name. OSError: see :func:`fetch_debian_packages`.
    """
    if name not in BUILT_HERE:
        how = {known.name: known.how for known in list_data_sets()}
        other = f"choose one of {', '.join(BUILT_HERE)}"
        raise ValueError(f"{name!r} cannot be built by this command: {how.get(name, other)}")
    folder = os.path.join(find_data_root(), name)
    BUILT_HERE[name](folder)
    return folder
