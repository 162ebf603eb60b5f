"""Registers the scene data sets: `scenes_train`, `scenes_val`, and those of featcomp make-scenes."""

import os

from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.data.datasets import load_coco_json

from ..scenes import (
    CutoutObjects,
    PhotoBackgrounds,
    ProceduralBackgrounds,
    ProceduralObjects,
    SceneComposer,
    ensure_scenes,
    is_complete,
    list_cutouts,
    list_photos,
    read_manifest,
)

__all__ = ["find_data_root", "photo_recipe", "procedural_recipe", "register_scenes"]

PARTS = ("train", "val")
SIZES = {"train": 2000, "val": 200}
# How objects are placed on photographs. 1, in manifests without it, put most at the top; 2 drew them all
# of one size.
PHOTO_LAYOUT = 3


def find_data_root():
    """Returns the folder that holds the data sets: `DETECTRON2_DATASETS`, or else `datasets`."""
    return os.path.expanduser(os.getenv("DETECTRON2_DATASETS", "datasets"))


def procedural_recipe(counts=None, seed=2021):
    """Makes the recipe of the embedded data set: marked shapes over textured surfaces.

    Args:
        counts (dict[str, int] or None): images in "train" and "val"; None: 2000 and 200.
        seed (int): of every random choice.
    """

    def recipe():
        composer = SceneComposer(objects=ProceduralObjects(), backgrounds=ProceduralBackgrounds())
        return dict.fromkeys(PARTS, composer), {"counts": counts or SIZES, "seed": seed}

    return recipe


def photo_recipe(
    cutouts,
    backgrounds,
    *,
    classes=None,
    exclude=(),
    photos=(),
    relative_sizes=None,
    counts=None,
    seed=2021,
):
    """Makes the recipe of a data set of real pixels: RGBA cut-outs over photographs; "train" and "val"
    share neither.

    Args:
        cutouts (str): folder with a sub-folder a class, see :func:`list_cutouts`.
        backgrounds (str): folder of photographs.
        classes, exclude: see :func:`list_cutouts`.
        photos: `include` of :func:`list_photos`.
        relative_sizes: see :class:`CutoutObjects`.
        counts, seed: see :func:`procedural_recipe`.
    """

    def recipe():
        composers = {
            part: SceneComposer(
                objects=CutoutObjects(
                    list_cutouts(cutouts, part, classes=classes, exclude=exclude), relative_sizes
                ),
                backgrounds=PhotoBackgrounds(list_photos(backgrounds, part, include=photos)),
            )
            for part in PARTS
        }
        return composers, {"counts": counts or SIZES, "seed": seed, "layout": PHOTO_LAYOUT}

    return recipe


def register_scenes(name, root, recipe=None, *, thing_classes=(), stuff_classes=()):
    """Registers `<name>_train` and `<name>_val`, and `<name>_multi_task_train` and `_val`: the same
    images for semantic segmentation, disparity and reconstruction, without instances.

    The dicts of the former are those of COCO instance segmentation (RLE masks: set `INPUT.MASK_FORMAT`
    to "bitmask") with two more keys: "sem_seg_file_name" (8-bit PNG; stuff classes first) and
    "disparity_file_name" (16-bit PNG; disparity = (p - 1) / 256 pixels, p = 0 where unknown).

    Args:
        name (str): first part of the registered names.
        root (str): folder of the data set.
        recipe (callable or None): how to build it when first used (see :func:`ensure_scenes`);
            None: it must exist.
        thing_classes, stuff_classes (sequence[str]): names that the recipe gives, so that they are known
            before anything is drawn.
    """
    names = {}
    if thing_classes:
        names = {"thing_classes": list(thing_classes)}
        names["stuff_classes"] = [*stuff_classes, *thing_classes]
    for part in PARTS:
        dataset = f"{name}_{part}"
        DatasetCatalog.register(dataset, lambda d=dataset, p=part: _load(d, root, p, recipe))
        # Only what needs no file: other class names are set when the data set is loaded.
        MetadataCatalog.get(dataset).set(
            evaluator_type="coco",
            json_file=os.path.join(root, f"instances_{part}.json"),
            image_root=os.path.join(root, part, "images"),
            ignore_label=255,
            **names,
        )
        multi_task = f"{name}_multi_task_{part}"
        DatasetCatalog.register(
            multi_task, lambda d=multi_task, p=part: _load_multi_task(d, root, p, recipe)
        )
        MetadataCatalog.get(multi_task).set(
            evaluator_type="multi_task",
            image_root=os.path.join(root, part, "images"),
            ignore_label=255,
            **names,
        )


def _load_multi_task(dataset, root, part, recipe):
    dicts = _load(dataset, root, part, recipe)
    for record in dicts:
        del record["annotations"]
    return dicts


def _load(dataset, root, part, recipe):
    if recipe is not None:
        ensure_scenes(root, recipe)
    elif not is_complete(root):
        raise FileNotFoundError(
            f"Data set {dataset!r}: {root!r} is missing, incomplete or damaged. Build it again "
            "with featcomp make-scenes (photo_scenes: with featcomp datasets --build photo_scenes)."
        )
    manifest = read_manifest(root)
    folder = os.path.join(root, part)
    dicts = load_coco_json(
        os.path.join(root, f"instances_{part}.json"), os.path.join(folder, "images"), dataset
    )
    for record in dicts:
        stem = os.path.splitext(os.path.basename(record["file_name"]))[0]
        record["sem_seg_file_name"] = os.path.join(folder, "semantic", f"{stem}.png")
        record["disparity_file_name"] = os.path.join(folder, "disparity", f"{stem}.png")
    MetadataCatalog.get(dataset).set(stuff_classes=manifest["stuff_classes"] + manifest["thing_classes"])
    return dicts


def _register_all():
    root = find_data_root()
    register_scenes(
        "scenes",
        os.path.join(root, "scenes"),
        procedural_recipe(),
        thing_classes=ProceduralObjects.classes,
        stuff_classes=ProceduralBackgrounds.stuff_classes,
    )
    found = sorted(os.listdir(root)) if os.path.isdir(root) else []
    for name in {"photo_scenes", *found} - {"scenes"}:
        folder = os.path.join(root, name)
        if name == "photo_scenes" or read_manifest(folder) is not None:
            register_scenes(name, folder)


_register_all()
