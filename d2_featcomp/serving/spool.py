"""Bitstreams that are not sent yet, on disk: they outlive the program and the network."""

import contextlib
import hashlib
import os
import re

__all__ = ["Spool", "stream_id"]

SUFFIX = ".d2fc"
REJECTED = "rejected"
_ID = re.compile(r"\w[\w.=-]{0,199}-[0-9a-f]{16}", re.ASCII)


def stream_id(name, data):
    """str: name of an image, and a digest of its bitstream: equal for equal bytes, and only for them."""
    plain = re.sub(r"[^\w.=-]+", "_", name, flags=re.ASCII)[:180]
    plain = re.sub(r"^\W", "_", plain, flags=re.ASCII) or "_"
    return f"{plain}-{digest_of(data)}"


def digest_of(data):
    """str: the part of an id that tells the bytes."""
    return hashlib.sha256(data).hexdigest()[:16]


def is_stream_id(text):
    """bool: whether a text is an id as :func:`stream_id` makes them; such a text is a safe file name."""
    return bool(_ID.fullmatch(text))


class Spool:
    """A folder of bitstreams, a file each, named by its id.

    Args:
        folder (str): made if it does not exist.
    """

    def __init__(self, folder):
        self.folder = folder
        os.makedirs(folder, exist_ok=True)

    def _path(self, identity):
        return os.path.join(self.folder, f"{identity}{SUFFIX}")

    def add(self, name, data):
        """Keeps a bitstream, on disk, until :meth:`remove`. Returns its id."""
        identity = stream_id(name, data)
        partial = f"{self._path(identity)}.partial"
        with open(partial, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        os.replace(partial, self._path(identity))
        return identity

    def waiting(self):
        """list[str]: ids, the oldest first."""
        paths = [
            os.path.join(self.folder, name) for name in os.listdir(self.folder) if name.endswith(SUFFIX)
        ]
        times = {}
        for path in paths:
            with contextlib.suppress(FileNotFoundError):  # another program has sent it
                times[path] = os.stat(path).st_mtime_ns
        ordered = sorted(times, key=lambda path: (times[path], path))
        return [os.path.basename(path)[: -len(SUFFIX)] for path in ordered]

    def read(self, identity):
        """bytes, or None if it is not there any more."""
        try:
            with open(self._path(identity), "rb") as file:
                return file.read()
        except FileNotFoundError:
            return None

    def remove(self, identity):
        with contextlib.suppress(FileNotFoundError):
            os.remove(self._path(identity))

    def reject(self, identity, reason):
        """Puts a bitstream that the cloud will never take aside, with the reason beside it."""
        folder = os.path.join(self.folder, REJECTED)
        os.makedirs(folder, exist_ok=True)
        with open(os.path.join(folder, f"{identity}.txt"), "w", encoding="utf-8") as file:
            file.write(f"{reason}\n")
        with contextlib.suppress(FileNotFoundError):
            os.replace(self._path(identity), os.path.join(folder, f"{identity}{SUFFIX}"))
