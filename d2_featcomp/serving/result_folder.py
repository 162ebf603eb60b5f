"""The folder of a service's results: what is known already, and whether more can be written."""

import contextlib
import os
import threading
import time

from ..files import remove_partial_files, write_bytes
from .results import read_result, write_result
from .spool import is_stream_id

__all__ = ["ResultFolder"]

_PROBE = ".writable"
_PROBE_BYTES = 4096
_PROBE_BYTES_AFTER_FAILURE = 2**20
_PROBE_PERIOD = 1.0  # seconds


class ResultFolder:
    """A JSON file and pictures for each bitstream that was computed.

    Args:
        path (str): made if it does not exist.
        maker (str): tells the network, its weights and settings, whose results are read.
    """

    def __init__(self, path, maker=""):
        self.path = path
        self.maker = maker
        self._write_failed = False
        self._probe_lock, self._probed, self._error = threading.Lock(), float("-inf"), None
        os.makedirs(path, exist_ok=True)
        remove_partial_files(path)

    def read(self, identity):
        """Reads the result of an earlier call.

        Args:
            identity (str): any text.

        Returns:
            dict or None: there is none of this id and maker, or none that can be read.
        """
        if not is_stream_id(identity):
            return None
        try:
            result = read_result(os.path.join(self.path, f"{identity}.json"))
        except (OSError, ValueError):
            return None
        known = (identity, self.maker)
        return result if (result.get("id"), result.get("maker")) == known else None

    def write(self, result):
        """Writes a result, see :func:`write_result`.

        Raises:
            OSError: e.g. the disk is full.
        """
        try:
            write_result(result, self.path)
        except OSError:
            self._write_failed = True
            raise
        self._write_failed = False

    def find_error(self):
        """Finds out, OSError or None, why results cannot be written, tried at most once a second."""
        with self._probe_lock:
            if time.monotonic() - self._probed > _PROBE_PERIOD:
                self._error = self._probe()
                self._probed = time.monotonic()
            return self._error

    def _probe(self):
        path = os.path.join(self.path, _PROBE)
        size = _PROBE_BYTES_AFTER_FAILURE if self._write_failed else _PROBE_BYTES
        try:
            write_bytes(bytes(size), path)
            with contextlib.suppress(FileNotFoundError):  # another server with this folder
                os.remove(path)
        except OSError as error:
            return error
        return None
