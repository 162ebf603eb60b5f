"""What client and server agree on."""

from ..codecs import BitstreamError

__all__ = ["NAME_HEADER", "BusyError", "ForeignModelError"]

NAME_HEADER = "X-Image-Name"  # percent-encoded UTF-8, where the id is too short for the name


class BusyError(RuntimeError):
    """The queue is full, or the service is stopping."""


class ForeignModelError(BitstreamError):
    """Another network, or other weights, wrote the bitstream: a server that has them can take it."""
