"""The data sets that this project knows: where they belong, whether they are there, how to get them."""

import dataclasses
import os

from .datasets.scenes import PHOTO_LAYOUT, find_data_root, photo_recipe, procedural_recipe
from .debian import fetch_debian_packages
from .scenes import ensure_scenes, is_complete, read_manifest, write_scenes

__all__ = ["BUILT_HERE", "KnownDataSet", "build_data_set", "list_data_sets"]

_PHOTO_CLASSES = ("animals", "food", "plants", "vehicles", "household", "hobbies")
# Shares of the path of a cut-out -> its size relative to others at the same distance. The true ones
# differ by a hundred times and more; these keep their order and everything large enough to be seen.
_PHOTO_RELATIVE_SIZES = {
    "animals/insects": 0.7,
    "animals/shellfish": 0.7,
    "animals/amphibians": 0.7,
    "animals/fish": 0.8,
    "animals/lizards": 0.8,
    "animals/birds": 0.8,
    "animals/mammals/": 1.2,
    "animals/mammals/rodents": 0.7,
    "animals/mammals/hedgehog": 0.7,
    "animals/mammals/echidna": 0.7,
    "animals/mammals/ferret": 0.7,
    "animals/mammals/rabbit": 0.7,
    "animals/mammals/aquatic/orca": 1.5,
    "animals/mammals/aquatic/whale": 1.5,
    "animals/mammals/elephant": 1.5,
    "animals/mammals/giraffe": 1.5,
    "food/": 0.7,
    "food/nuts": 0.6,
    "hobbies/": 0.9,
    "hobbies/binoculars": 0.7,
    "hobbies/camera": 0.7,
    "hobbies/music/percussion": 1.2,
    "household/": 0.8,
    "household/garbagecan": 1.1,
    "household/toilet": 1.1,
    "household/tools/cementmixer": 1.3,
    "household/wheelie_bin": 1.1,
    "plants/": 0.8,
    "plants/trees/": 1.5,
    "plants/trees/pinecone": 0.7,
    "plants/trees/holly_leaves": 0.8,
    "plants/trees/rambutan": 0.7,
    "vehicles/": 1.5,
    "vehicles/cycle": 1.0,
}
# Cut-outs of parts of an object, and drawings.
_PHOTO_EXCLUDED = ("cartoon", "sedan_police", "7spoke256", "wheel_tractor")
# Photographs of a ground on which objects can stand.
_PHOTO_GROUNDS = (
    "Bridge_by",
    "aitzgorri_by",
    "life_by",
    "picosdeeuropa_by",
    "seeding_by",
    "sunset_by",
    "nature/Dune",
    "nature/GreenMeadow",
    "nature/Storm",
    "nature/Wood",
)
_PHOTO_PACKAGES = ("tuxpaint-stamps-default", "mate-backgrounds", "lomiri-wallpapers-16.04")

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
    made["photo_scenes"] = "featcomp datasets --build photo_scenes (downloads 224 MB, on Debian)"
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
    """From the cut-outs and the photographs of three Debian packages, which are kept beside it."""
    if is_complete(folder) and read_manifest(folder).get("layout") == PHOTO_LAYOUT:
        return
    sources = f"{folder}_sources"
    fetch_debian_packages(_PHOTO_PACKAGES, sources)
    recipe = photo_recipe(
        os.path.join(sources, "usr/share/tuxpaint/stamps"),
        os.path.join(sources, "usr/share/backgrounds"),
        classes=_PHOTO_CLASSES,
        exclude=_PHOTO_EXCLUDED,
        photos=_PHOTO_GROUNDS,
        relative_sizes=_PHOTO_RELATIVE_SIZES,
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
