"""Reads the bodies of requests within limits."""

import hashlib

from .server import BusyError
from .spool import DIGEST_LENGTH

__all__ = ["Receiver", "ReceivingError", "TooLargeError"]


class TooLargeError(Exception):
    """A request has more bytes than allowed."""


class ReceivingError(BusyError):
    """Too many bytes are being received."""


class Receiver:
    """Reads the bodies of requests, and keeps no more than `max_receiving` bytes of all together.

    Args:
        settings (ServiceSettings): max_bytes, max_receiving.
    """

    def __init__(self, settings):
        self._settings = settings
        self._receiving = 0

    async def body(self, request, keep):
        """Reads the body of a request.

        Args:
            request (Request): whose body is read to its end.
            keep (callable or None): is told of each number of bytes that are kept; None keeps none.

        Returns:
            (str, bytes): as :func:`compute_digest` of the body, and the body, empty if it is not kept.

        Raises:
            TooLargeError, ReceivingError: see there; and what `keep` raises.
        """
        most = self._settings.max_bytes
        declared = request.headers.get("content-length", "0")
        if declared.isdecimal() and int(declared) > most:
            raise TooLargeError
        digest, body, size = hashlib.sha256(), bytearray(), 0
        try:
            async for chunk in request.stream():
                size += len(chunk)
                if size > most:
                    raise TooLargeError
                digest.update(chunk)
                if keep is None:
                    continue
                body += chunk
                self._receiving += len(chunk)
                keep(len(chunk))
                if self._receiving > self._settings.max_receiving:
                    raise ReceivingError("the server is busy: try again")
            return digest.hexdigest()[:DIGEST_LENGTH], bytes(body)
        finally:
            self._receiving -= len(body)
