"""The files that hold plans (see :mod:`.plan`), which may be based on other plans."""

import logging
import os

import yaml

from .checks import at
from .schema import list_points, require_keys

__all__ = ["PLAN_KEYS", "read_sweep"]

PLAN_KEYS = (
    *("title", "config_file", "weights", "trainings", "curves", "levels", "anchors", "anchor_weights"),
    *("anchor_training", "uncompressed", "images", "plot", "columns", "seeds", "bd_rates", "pictures"),
    *("differences", "goals"),
)
_LISTS = ("curves", "levels", "anchors", "columns", "seeds", "bd_rates", "differences", "goals")
_TYPES = {
    **dict.fromkeys(_LISTS, list),
    **dict.fromkeys(("trainings", "plot", "pictures"), dict),
    **dict.fromkeys(("title", "config_file", "weights", "anchor_weights", "anchor_training"), str),
    "uncompressed": bool,
    "images": int,
}
_WORDS = {list: "a list", dict: "keys with values", str: "text", bool: "true or false", int: "a number"}


class _PlanLoader(yaml.SafeLoader):
    """Refuses a key that is given twice, of which only the last would count."""

    def compose_mapping_node(self, anchor):
        node = super().compose_mapping_node(anchor)
        seen = set()
        for key, _ in node.value:
            if key.value in seen and isinstance(key, yaml.ScalarNode):
                told = f"key {key.value!r} is given twice: leave one out"
                raise yaml.MarkedYAMLError(problem=told, problem_mark=key.start_mark)
            seen.add(key.value if isinstance(key, yaml.ScalarNode) else id(key))
        return node


def read_sweep(path):
    """Reads a plan as it is in a file, with the plans that it is based on; see the top of :mod:`.plan`.

    Args:
        path (str): YAML.

    Returns:
        dict: as :func:`.plan.make_plan` takes it; paths made relative to the working folder.

    Raises:
        FileNotFoundError: no such file. ValueError: no YAML, an unknown key, a value of a wrong type, or
            plans that are based on each other.
    """
    return _read(path, ())


def _read(path, derived):
    """Reads a plan on which the plans `derived` are based."""
    if not os.path.isfile(path):
        based = f", on which {derived[-1]} is based" if derived else ""
        raise FileNotFoundError(f"no plan {path!r}{based}: give a YAML file")
    if any(os.path.samefile(path, other) for other in derived):
        raise ValueError(f"{path} is based on itself: " + " on ".join((*derived, path)))
    with open(path, encoding="utf-8") as file:
        try:
            data = yaml.load(file, _PlanLoader)
        except (yaml.YAMLError, UnicodeDecodeError) as error:
            raise ValueError(f"{path}: {error}") from error
    with at(path):
        data = {} if data is None else data
        if isinstance(data, dict) and "settings" in data:
            data = _convert_settings(data, path)
        require_keys(data, ("_BASE_", *PLAN_KEYS), "a plan")
        base = data.pop("_BASE_", None)
        if not isinstance(base, (str, type(None))):
            raise ValueError(f"_BASE_ must be {_WORDS[str]}, not {base!r}")
        for key, value in data.items():
            wanted = _TYPES[key]
            if not isinstance(value, wanted) or (wanted is int and isinstance(value, bool)):
                raise ValueError(f"{key} must be {_WORDS[wanted]}, not {value!r}")
        _locate(data, os.path.dirname(path))
    if base is None:
        return data
    return _merge(_read(os.path.join(os.path.dirname(path), base), (*derived, path)), data)


def _merge(base, data):
    """Joins two dictionaries, in which the second has the say; also those that are values of both."""
    merged = dict(base)
    for key, value in data.items():
        both = isinstance(base.get(key), dict) and isinstance(value, dict)
        merged[key] = _merge(base[key], value) if both else value
    return merged


def _convert_settings(data, path):
    """Converts files that d2_featcomp 0.1 read by tools/reproduce.py."""
    logging.getLogger("d2_featcomp").warning(
        "%s: the key settings is now curves (each with its points) and levels (points of no curve)", path
    )
    data = dict(data)
    settings = data.pop("settings")
    if not isinstance(settings, list) or not all(isinstance(entry, dict) for entry in settings):
        raise ValueError(f"settings must be a list of keys with values, not {settings!r}")
    levels = [entry for entry in settings if not entry.get("curve")]
    curves = {}
    for number, entry in enumerate(settings):
        require_keys(entry, ("name", "training", "curve", "overrides"), f"settings[{number}]")
        if not entry.get("name"):
            raise ValueError(f"settings[{number}] needs a name")
        if entry.get("curve"):
            point = {key: value for key, value in entry.items() if key != "curve"}
            curves.setdefault(entry["curve"], []).append(point)
    data["levels"] = [{k: v for k, v in entry.items() if k != "curve"} for entry in levels]
    data["curves"] = [{"name": name, "points": points} for name, points in curves.items()]
    return data


def _locate(data, folder):
    """Makes paths relative to the file those of the working folder."""

    def locate(entry, key):
        if isinstance(entry, dict) and isinstance(entry.get(key), str) and "://" not in entry[key]:
            entry[key] = os.path.normpath(os.path.join(folder, entry[key]))

    locate(data, "config_file")
    for entry in (data.get("trainings") or {}).values():
        locate(entry, "config_file")
    for key in ("weights", "anchor_weights"):
        locate(data, key)
    for entry in (*data.get("curves", ()), *data.get("levels", ())):
        locate(entry, "weights")
        for point in list_points(entry):
            locate(point, "weights")
