"""The last results of each client, and pictures of them, drawn when somebody looks."""

import collections
import concurrent.futures
import contextlib
import dataclasses
import io
import os
import threading
import time

from PIL import Image

from ..codecs import FeatureBitstream
from .drawing import draw_on_features
from .server import BusyError

__all__ = ["Gallery"]

MOST_CLIENTS = 20
KEPT = 12  # results of a client
KEPT_BYTES = 2**26  # of all bitstreams together
_PICTURES_KEPT = 64
_MOST_WAITING = 16  # pictures that are asked for and not drawn yet
_CLASSES_TOLD = 4
_NICENESS = 10  # the thread that draws lets the others go first
SHOWN_FOR = 5.0  # seconds for which who looks is shown the same results ...
LONGEST = 30.0  # ... or, while their pictures are being drawn, longer


@dataclasses.dataclass(frozen=True)
class _Entry:
    """A result that is shown: what the page tells of it, and its bitstream."""

    about: dict
    data: bytes


class Gallery:
    """Keeps the last results, in bounded memory. Of one thread, but draws in another.

    Args:
        service (CloudService): made the results.
        clock (callable): seconds, from any start.
    """

    def __init__(self, service, clock=time.monotonic):
        self._service = service
        self._clock = clock
        # What is shown now, and what was before: id -> entry, however many have come since.
        self._shown, self._shown_before, self._since = {}, {}, float("-inf")
        self._clients = collections.OrderedDict()  # client -> its entries by id; the last one last
        self._bytes = 0
        self._lock = threading.Lock()
        self._pictures = collections.OrderedDict()  # (id, threshold) -> bytes
        self._waiting = {}  # the same -> Future
        self._pool = concurrent.futures.ThreadPoolExecutor(
            1, thread_name_prefix="pictures", initializer=_be_nice
        )

    def add(self, client, result, data, seconds):
        """Keeps a result; the oldest ones go when there are too many.

        Args:
            client (str): whose.
            result (dict): of the service.
            data (bytes): the bitstream that it was made from.
            seconds (float): from the bitstream's arrival to its result.
        """
        entries = self._clients.pop(client, collections.OrderedDict())
        self._clients[client] = entries
        identity = result["id"]
        if identity in entries:
            self._bytes -= len(entries.pop(identity).data)
        entries[identity] = _Entry(_describe(client, result, len(data), seconds), data)
        self._bytes += len(data)
        while len(entries) > KEPT:
            self._drop_oldest(client)
        while len(self._clients) > MOST_CLIENTS or self._bytes > KEPT_BYTES:
            self._drop_oldest(next(iter(self._clients)))

    def _drop_oldest(self, client):
        entries = self._clients[client]
        self._bytes -= len(entries.popitem(last=False)[1].data)
        if not entries:
            del self._clients[client]

    def rows(self):
        """Chooses what is shown, for some seconds.

        Returns:
            list[dict]: of each result, the newest first: "id", "client", "name", "time" (seconds since
            1970), "bytes", "seconds", "height", "width", "instances" (how many), "classes" (the most
            frequent ones, and how many of each, above a score of 0.5) and "maps" (names).
        """
        now = self._clock()
        with self._lock:
            least = LONGEST if self._waiting else SHOWN_FOR
        if now - self._since >= least:
            self._since, self._shown_before = now, self._shown
            self._shown = {name: e for entries in self._clients.values() for name, e in entries.items()}
        return sorted((entry.about for entry in self._shown.values()), key=lambda about: -about["time"])

    def picture(self, identity, threshold):
        """Draws a result onto the map of its features.

        Args:
            identity (str): of a result that is shown.
            threshold (float): instances of a lower score are left out.

        Returns:
            Future: of a WebP file.

        Raises:
            KeyError: the result is not shown. BusyError: too many others are being drawn.
        """
        entry = self._shown.get(identity) or self._shown_before[identity]
        key = identity, round(threshold, 2)
        with self._lock:
            if key in self._pictures:
                self._pictures.move_to_end(key)
                future = concurrent.futures.Future()
                future.set_result(self._pictures[key])
                return future
            if key not in self._waiting:
                if len(self._waiting) >= _MOST_WAITING:
                    raise BusyError("other pictures are being drawn: ask again")
                self._waiting[key] = self._pool.submit(self._draw, key, entry.data)
            return self._waiting[key]

    def _draw(self, key, data):
        identity, threshold = key
        try:
            result = self._service.folder.read(identity)
            if result is None:
                raise FileNotFoundError(f"the result of {identity} is gone")
            stream = FeatureBitstream.from_bytes(data, self._service.settings.limits)
            network, names = self._service.network, self._service.class_names
            picture = draw_on_features(network, stream, result, names, threshold)
            file = io.BytesIO()
            Image.fromarray(picture).save(file, "WEBP", quality=80)
            with self._lock:
                self._pictures[key] = file.getvalue()
                while len(self._pictures) > _PICTURES_KEPT:
                    self._pictures.popitem(last=False)
            return file.getvalue()
        finally:
            with self._lock:
                self._waiting.pop(key, None)

    def stop(self):
        """Draws nothing more."""
        self._pool.shutdown(cancel_futures=True)


def _be_nice():
    """Lets all other threads go first, where the system can tell threads apart."""
    if hasattr(os, "setpriority") and hasattr(threading, "get_native_id"):
        with contextlib.suppress(OSError):
            os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), _NICENESS)


def _describe(client, result, size, seconds):
    instances = result.get("instances", [])
    counts = collections.Counter(
        str(entry.get("category", entry["category_id"])) for entry in instances if entry["score"] >= 0.5
    )
    return {
        "id": result["id"],
        "client": client,
        "name": result["name"],
        "time": time.time(),
        "bytes": size,
        "seconds": seconds,
        "height": result["height"],
        "width": result["width"],
        "instances": len(instances),
        "classes": counts.most_common(_CLASSES_TOLD),
        "maps": list(result.get("maps", {})),
    }
