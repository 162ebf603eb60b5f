"""A time limit for whole answers: httpx has one for each read, which a slow server never exceeds."""

import contextlib
import time

__all__ = ["limit_answers"]


def limit_answers(client):
    """Lets requests of a client end with httpx.ReadTimeout where the whole answer, head and body, has
    not arrived within the client's timeout after what was sent last. httpx has no public way to this:
    with a release that is built otherwise each read keeps a limit of its own.

    Args:
        client (httpx.Client): that has sent nothing yet.
    """
    transports = [getattr(client, "_transport", None), *getattr(client, "_mounts", {}).values()]
    for transport in transports:  # the latter of proxies
        with contextlib.suppress(AttributeError):
            pool = transport._pool
            pool._network_backend = _Backend(pool._network_backend)


class _Backend:
    """Connects as another backend of httpcore does."""

    def __init__(self, backend):
        self._backend = backend

    def __getattr__(self, name):
        return getattr(self._backend, name)

    def connect_tcp(self, *args, **kwargs):
        return _Stream(self._backend.connect_tcp(*args, **kwargs))


class _Stream:
    """A connection whose reads share one time limit, until more is written."""

    def __init__(self, stream):
        self._stream = stream
        self._asked = time.monotonic()

    def __getattr__(self, name):
        return getattr(self._stream, name)

    def start_tls(self, *args, **kwargs):
        return _Stream(self._stream.start_tls(*args, **kwargs))

    def write(self, buffer, timeout=None):
        self._stream.write(buffer, timeout)
        self._asked = time.monotonic()

    def read(self, max_bytes, timeout=None):
        if timeout is None:
            return self._stream.read(max_bytes)
        left = self._asked + timeout - time.monotonic()
        if left <= 0:
            import httpcore

            raise httpcore.ReadTimeout(f"no whole answer within {timeout:g} s")
        return self._stream.read(max_bytes, left)
