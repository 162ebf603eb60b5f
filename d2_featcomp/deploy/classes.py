"""Classes of a network's detections, as categories of COCO's format."""

from ..data.categories import make_categories, read_categories

__all__ = ["choose_categories", "count_classes", "make_categories", "read_categories"]


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


def _find_categories(cfg, count):
    """Those of the first data set that has `count`, in the order of the training; [] if none has."""
    trained = list(map(read_categories, cfg.DATASETS.TRAIN))
    given = [*map(read_categories, cfg.DATASETS.TEST), *trained]
    found = next((categories for categories in given if len(categories) == count), [])
    return next((each for each in trained if _list_names(each) == _list_names(found)), found)


def _list_names(categories):
    return sorted(category["name"] for category in categories)


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
    found = known if len(known) == count else _find_categories(cfg, count)
    categories = list(found or make_categories([str(index) for index in range(count)]))
    if names:
        categories = [
            {"id": category["id"], "name": name}
            for category, name in zip(categories, names, strict=True)
        ]
    return categories
