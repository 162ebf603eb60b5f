"""Cache keys: what makes one training or measurement another."""

import fnmatch
import hashlib
import json
import os
import platform
from importlib import metadata

from detectron2 import __version__ as detectron2_version
from detectron2.checkpoint.detection_checkpoint import PathManager
from detectron2.data import DatasetCatalog, MetadataCatalog

from ..arguments import list_imported_files
from ..engine.command_line import make_plain_config, setup_config
from ..modeling import find_stored_name
from ..modeling.lazy import digest_lazy_config

__all__ = [
    "TRUTH",
    "describe_versions",
    "digest",
    "digest_data",
    "digest_imports",
    "digest_training_data",
    "find_differences",
    "hash_file",
    "pick_measured_keys",
    "pick_trained_keys",
]

_PACKAGES = (
    "d2_featcomp",
    "torch",
    "torchvision",
    "numpy",
    "pillow",
    "imagecodecs",
    "av",
    "constriction",
    "pycocotools",
    "bjontegaard",
)

TRUTH = "truth-"  # before the hash of a file's content, in its name

# Config keys (patterns of fnmatch) on which no result depends.
_NEVER = (
    "OUTPUT_DIR",
    "VERSION",
    "VIS_PERIOD",
    "CUDNN_BENCHMARK",
    "GLOBAL.*",
    "DATALOADER.NUM_WORKERS",
    "MODEL.WEIGHTS",  # compared by the content of the file
    "MODEL.FEATCOMP.SERVER.*",
    "TEST.EVAL_PERIOD",
    "TEST.EXPECTED_RESULTS",
)
_NOT_TRAINED = (
    *_NEVER,
    "*_TEST",
    "DATASETS.TEST",
    "MODEL.DEVICE",
    "MODEL.FEATCOMP.ANSWERS.*",
    "MODEL.FEATCOMP.CODEC.QUALITY",
    "MODEL.FEATCOMP.CODEC.EFFORT",
    "MODEL.FEATCOMP.CODEC.RATE",
    "MODEL.FEATCOMP.CODEC.TARGET_KB",
    "MODEL.FEATCOMP.INFERENCE",
    "SOLVER.CHECKPOINT_PERIOD",
    "TEST.AUG.*",
    "TEST.DETECTIONS_PER_IMAGE",
    "TEST.KEYPOINT_OKS_SIGMAS",
)
# Of a training, that earlier releases did not note.
_NOTED_SINCE = ("INPUT.MAX_SIZE_TEST", "INPUT.MIN_SIZE_TEST", "MODEL.LAZY.CONTENT")
_NOT_MEASURED = (
    *_NEVER,
    "*_TRAIN",
    "*.TRAIN.*",
    "DATALOADER.*",
    "DATASETS.TRAIN",
    "INPUT.CROP.*",
    "INPUT.MIN_SIZE_TRAIN_SAMPLING",
    "INPUT.RANDOM_FLIP",
    "MODEL.FEATCOMP.ANSWERS.*",  # compared setting by setting, as this is
    "MODEL.FEATCOMP.CODEC.*",
    "MODEL.FEATCOMP.LOSS_WEIGHTS",
    "MODEL.FEATCOMP.*.FIT_*",
    "SOLVER.*",
)


def digest(value):
    """Hashes anything that JSON can hold.

    Returns:
        str: 24 hexadecimal digits.
    """
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()[:24]


def digest_data(dataset, records):
    """Hashes a data set: its records with their annotations, and the state of the files they name.

    Args:
        dataset (str): registered name.
        records (list[dict]): of it, as Detectron2 has them.

    Returns:
        str
    """
    metadata_of = MetadataCatalog.get(dataset)
    files = {str(metadata_of.get(key, "")) for key in ("json_file", "panoptic_json")}
    for record in records:
        files |= {value for key, value in record.items() if key.endswith("file_name")}
    states = [
        # Of the truth of first images the name tells the content, wherever it lies.
        (name,)
        if (name := os.path.basename(path)).startswith(TRUTH)
        else (path, os.stat(path).st_size, os.stat(path).st_mtime_ns)
        for path in sorted(files)
        if os.path.isfile(path)
    ]
    return digest([json.dumps(records, sort_keys=True, default=str), states])


def digest_training_data(names):
    """Hashes what trainings learn from: the files of annotations or, where a data set has none, its
    records. Images, of which there may be many, are not read.

    Args:
        names (sequence[str]): registered.

    Returns:
        str: "" where some of it is missing; the same wherever the data lie.
    """
    try:
        return digest([_digest_truth(name) for name in names])
    except (OSError, ValueError):  # what is wrong is told where it is needed
        return ""


def _digest_truth(dataset):
    metadata_of = MetadataCatalog.get(dataset)
    files = [metadata_of.get(key) for key in ("json_file", "panoptic_json")]
    if any(files):
        return [hash_file(path) for path in files if path]
    folder = metadata_of.get("image_root")
    if folder and not os.path.isdir(folder):
        raise FileNotFoundError(f"no folder {folder!r}")  # nothing is drawn for this
    return [
        {key: _without_folder(key, value) for key, value in record.items()}
        for record in DatasetCatalog.get(dataset)
    ]


def _without_folder(key, value):
    return os.path.basename(value) if key.endswith("file_name") else str(value)


_DIGESTS = {}


def hash_file(path):
    """Hashes the content of a weight file; "" for no file.

    Raises:
        FileNotFoundError: there is none of that name.
    """
    if not path:
        return ""
    local = PathManager.get_local_path(path)
    if not os.path.isfile(local):
        raise FileNotFoundError(f"no checkpoint {path!r}: set MODEL.WEIGHTS to an existing file")
    about = os.stat(local)
    key = local, about.st_mtime_ns, about.st_size
    if key not in _DIGESTS:
        found = hashlib.sha256()
        with open(local, "rb") as file:
            while chunk := file.read(2**20):
                found.update(chunk)
        _DIGESTS[key] = found.hexdigest()
    return _DIGESTS[key]


def digest_imports():
    """Hashes the code of the modules of --import, on which numbers may depend.

    Returns:
        str: "" where there are none.
    """
    found = []
    for path in list_imported_files():
        with open(path, "rb") as file:
            found.append([os.path.basename(path), hashlib.sha256(file.read()).hexdigest()])
    return digest(found) if found else ""


def describe_versions():
    """Names the versions on which numbers depend.

    Returns:
        dict[str, str or None]: package -> version; None where it is not installed.
    """
    versions = {"detectron2": detectron2_version, "python": platform.python_version()}
    for package in _PACKAGES:
        try:
            versions[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            versions[package] = None
    return versions


def pick_measured_keys(cfg):
    """Picks the config keys on which a measurement depends, the codec's and the weights left out.

    Args:
        cfg (CfgNode): of a network.

    Returns:
        dict: key such as "MODEL.FEATCOMP.SPLIT" -> value.
    """
    found = _without(make_plain_config(cfg), _NOT_MEASURED) | _digest_lazy_config(cfg, ("model",))
    key = "MODEL.FEATCOMP.INFERENCE"
    if found.get(key, "").endswith(".onnx"):  # what it holds matters, not where it lies
        found[key] = hash_file(found[key])
    return found


def pick_trained_keys(cfg):
    """Picks the config keys on which a training's weights depend, those it starts from left out."""
    found = _without(make_plain_config(cfg), _NOT_TRAINED)
    # Starts, channel selection and stage 4 read images as they are tested.
    found |= {f"INPUT.{name}_SIZE_TEST": cfg.INPUT[f"{name}_SIZE_TEST"] for name in ("MIN", "MAX")}
    return found | _digest_lazy_config(cfg, ("model", "optimizer", "dataloader"))


def _digest_lazy_config(cfg, parts):
    """The content of a LazyConfig file, as a key; {} without one."""
    content = digest_lazy_config(cfg, parts)
    return {"MODEL.LAZY.CONTENT": content} if content else {}


def _without(plain, patterns):
    kept = {
        key: value
        for key, value in _flat(plain).items()
        if not any(fnmatch.fnmatchcase(key, pattern) for pattern in patterns)
    }
    # So that results of earlier releases are found.
    kept["MODEL.FEATCOMP.SPLIT"] = find_stored_name(kept["MODEL.FEATCOMP.SPLIT"])
    return kept


def _flat(tree, prefix=""):
    found = {}
    for key, value in tree.items():
        if isinstance(value, dict):
            found |= _flat(value, f"{prefix}{key}.")
        else:
            found[prefix + key] = value
    return found


def find_differences(before, now):
    """Compares what two trainings were made with. A key that only one of them has, as releases add and
    remove keys, differs only where its value is not the default.

    Args:
        before, now (dict): from :func:`pick_trained_keys`.

    Returns:
        list[str]: "KEY: value before, value now", by key.
    """
    defaults = pick_trained_keys(setup_config(""))
    missing = object()
    found = []
    for key in sorted(before.keys() | now.keys()):
        if key in _NOTED_SINCE and key not in before:
            continue
        default = defaults.get(key, missing)
        if key not in now and default is missing:  # a key of an earlier release
            continue
        values = before.get(key, default), now.get(key, default)
        if values[0] != values[1]:
            old, new = ("(not there)" if value is missing else repr(value) for value in values)
            found.append(f"{key} was {old}, is {new}")
    return found
