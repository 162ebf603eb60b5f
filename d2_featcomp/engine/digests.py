"""What tells one thing that was measured from another."""

import hashlib
import json
import os

from detectron2.checkpoint.detection_checkpoint import PathManager
from detectron2.data import MetadataCatalog

__all__ = ["digest", "digest_of_data", "file_digest"]


def digest(value):
    """str: of anything that JSON can hold."""
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()[:24]


def digest_of_data(dataset, records):
    """Tells a data set: its records with their annotations, and the state of the files they name."""
    files = {str(MetadataCatalog.get(dataset).get("json_file", ""))}
    for record in records:
        files |= {value for key, value in record.items() if key.endswith("file_name")}
    states = [
        (path, os.stat(path).st_size, os.stat(path).st_mtime_ns)
        for path in sorted(files)
        if os.path.isfile(path)
    ]
    return digest([json.dumps(records, sort_keys=True, default=str), states])


_DIGESTS = {}


def file_digest(path):
    """str: tells the content of a weight file; "" for no file.

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
        with open(local, "rb") as file:
            found = hashlib.sha256()
            while chunk := file.read(2**20):
                found.update(chunk)
        _DIGESTS[key] = found.hexdigest()
    return _DIGESTS[key]
