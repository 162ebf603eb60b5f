"""Classes of data sets, as categories of COCO's format."""

import json
import os

from detectron2.data import DatasetCatalog, MetadataCatalog

__all__ = ["make_categories", "read_categories", "require_same_order"]


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


def require_same_order(dataset, trained, count):
    """Checks that a data set numbers the classes of a network as those that it was trained on do.

    Args:
        dataset (str): to be evaluated on, registered.
        trained (sequence[str]): data sets of the training, DATASETS.TRAIN; those that have another
            number of classes are of another network.
        count (int): of the network's classes.

    Raises:
        ValueError: all names of the classes are known to both, in another order.
    """
    names = [category["name"] for category in read_categories(dataset)]
    for other in trained:
        learned = [category["name"] for category in read_categories(other)]
        known = len(learned) == count <= len(names) and set(learned) <= set(names)
        if not known or names[:count] == learned:
            continue
        place = next(i for i in range(count) if names[i] != learned[i])
        raise ValueError(
            f"class {place} of data set {dataset!r} is {names[place]!r}, but {learned[place]!r} of "
            f"{other!r} (DATASETS.TRAIN): classes are counted by the ids of categories, so give them "
            "the same ids in both files, or name the data set that the network was trained on"
        )
