"""Classes of a network's detections, as categories of COCO's format."""

import json
import os

from detectron2.data import DatasetCatalog, MetadataCatalog

__all__ = ["choose_categories", "count_classes", "make_categories", "read_categories"]


def make_categories(names):
    """Makes categories of COCO's format.

    Args:
        names (sequence[str or dict]): of classes, in the network's order, or categories already.

    Returns:
        list[dict]: "id", from 1 on, and "name" of each class.
    """
    return [
        entry if isinstance(entry, dict) else {"id": number, "name": entry}
        for number, entry in enumerate(names, start=1)
    ]


# Parts that count pixels' classes, those of tasks, or those that a backbone was trained for before.
_OTHERS = {"sem_seg_head", "heads", "backbone"}


def count_classes(network):
    """Counts the classes of instances that a network detects.

    Args:
        network (nn.Module): any.

    Returns:
        int: classes of the instances that it detects; 0 if it detects none.
    """
    for name, module in network.named_modules():
        count = getattr(module, "num_classes", None)
        if isinstance(count, int) and not _OTHERS & set(name.split(".")):
            return count
    return 0


def read_categories(dataset):
    """Reads the categories of a registered data set, without its images and annotations.

    Args:
        dataset (str): name of the data set.

    Returns:
        list[dict]: "id" and "name" of each, in the order in which a network trained on it counts them;
        [] where they are known only once the data set is loaded.
    """
    if dataset not in DatasetCatalog:
        return []
    metadata = MetadataCatalog.get(dataset)
    names = metadata.get("thing_classes")
    ids = metadata.get("thing_dataset_id_to_contiguous_id")
    if names and ids:
        numbers = {index: number for number, index in ids.items()}
        if numbers.keys() >= set(range(len(names))):
            return [{"id": numbers[index], "name": name} for index, name in enumerate(names)]
    listed = _read_listed(metadata.get("json_file"))
    if names and len(names) != len(listed):
        return make_categories(names)
    return [
        {"id": entry["id"], "name": name}
        for entry, name in zip(listed, names or [c["name"] for c in listed], strict=True)
    ]


def _read_listed(path):
    """Categories of a file in COCO's format, by rising ids, as Detectron2 counts them; [] for none."""
    if not path or not os.path.isfile(path):
        return []
    try:
        with open(path, encoding="utf-8") as file:
            found = json.load(file).get("categories", [])
        return sorted(({"id": c["id"], "name": c["name"]} for c in found), key=lambda c: c["id"])
    except (AttributeError, KeyError, TypeError, ValueError):
        return []


def choose_categories(cfg, count, names=None, known=()):
    """Names the classes of a network.

    Args:
        cfg (CfgNode): with the data sets that it was trained for.
        count (int): of the network's classes.
        names (sequence[str] or None): that a user gave.
        known (sequence[dict]): categories that came with its weights; preferred to those of data sets.

    Returns:
        list[dict]: "id" and "name" of each of the `count` classes. Where nothing that is known has as
        many, names are numbers from 0 on, and ids the numbers after them.

    Raises:
        ValueError: another number of names than of classes.
    """
    if names and len(names) != count:
        raise ValueError(
            f"{len(names)} class names ({', '.join(map(str, names))}) for a network of {count} classes: "
            "name each of them once, in the order in which the network was trained"
        )
    given = [known, *map(read_categories, (*cfg.DATASETS.TEST, *cfg.DATASETS.TRAIN))]
    found = next((categories for categories in given if len(categories) == count), None)
    categories = list(found or make_categories([str(index) for index in range(count)]))
    if names:
        categories = [
            {"id": category["id"], "name": name}
            for category, name in zip(categories, names, strict=True)
        ]
    return categories
