"""Limits on what one client may ask of a server at a time."""

import contextlib
import dataclasses
import math
import time

__all__ = ["ClientLimits", "LimitedError"]

_MOST_CLIENTS = 10000  # that are remembered though they ask nothing now
_SHORTEST_WAIT = 1  # seconds


class LimitedError(RuntimeError):
    """A client asks for more than its share.

    Attributes:
        retry_after (int): seconds after which it should ask again.
    """

    def __init__(self, message, retry_after=_SHORTEST_WAIT):
        super().__init__(message)
        self.retry_after = retry_after


@dataclasses.dataclass
class _Share:
    """What a client has in the server, and the requests that its rate allows it now."""

    requests: int = 0
    bytes: int = 0
    allowed: float = 0.0
    updated: float = 0.0


class _Admission:
    """A request that was let in; its bytes are counted as they arrive."""

    def __init__(self, share, most):
        self._share = share
        self._most = most
        self.size = 0

    def add_bytes(self, count):
        """Counts bytes that are kept.

        Raises:
            LimitedError: the client has too many in the server.
        """
        self.size += count
        self._share.bytes += count
        if self._share.bytes > self._most:
            raise LimitedError(f"more than {self._most} bytes of this client wait: try again")


class ClientLimits:
    """Counts requests, bytes and the rate of each client. Of one thread.

    Args:
        settings (ServiceSettings): client_requests, client_bytes, client_rate.
        clock (callable): seconds, from any start.
    """

    def __init__(self, settings, clock=time.monotonic):
        self._settings = settings
        self._clock = clock
        self._shares = {}  # client -> _Share

    @contextlib.contextmanager
    def admit(self, client):
        """Lets a request in for as long as the context lasts; yields what counts its bytes.

        Args:
            client (str): any name.

        Raises:
            LimitedError: the client has too many requests in the server, or asks too often.
        """
        share = self._shares.get(client) or self._remember(client)
        most = self._settings.client_requests
        if share.requests >= most:
            raise LimitedError(f"{most} bitstreams of this client wait: try again")
        self._take_turn(share)
        admission = _Admission(share, self._settings.client_bytes)
        share.requests += 1
        try:
            yield admission
        finally:
            share.requests -= 1
            share.bytes -= admission.size

    def _take_turn(self, share):
        rate = self._settings.client_rate
        if rate is None:
            return
        now = self._clock()
        most = max(1.0, rate)  # at once, after a pause
        share.allowed = min(most, share.allowed + (now - share.updated) * rate)
        share.updated = now
        if share.allowed < 1:
            wait = max(_SHORTEST_WAIT, math.ceil((1 - share.allowed) / rate))
            raise LimitedError(f"this client may send {rate:g} bitstreams a second: try again", wait)
        share.allowed -= 1

    def _remember(self, client):
        if len(self._shares) >= _MOST_CLIENTS:
            self._shares = {name: share for name, share in self._shares.items() if share.requests}
        # Infinitely long ago: as many at once as its rate ever allows.
        share = self._shares[client] = _Share(updated=float("-inf"))
        return share
