"""What each client of a server has asked and got, and the last requests that failed."""

import collections
import dataclasses
import time

__all__ = ["OTHERS", "ClientTable"]

MOST_CLIENTS = 100
OTHERS = "(others)"  # clients that were not heard of for the longest time
_FAILURES_KEPT = 50
_RATE = 10  # seconds over which rates are averaged
_TEXT_LENGTH = 300
_NO_FAILURES = (200, 202, 408, 429, 503, 504)  # a result, or to be asked for again


@dataclasses.dataclass
class _Client:
    """What one client has asked and got.

    Attributes:
        codes (Counter): HTTP status -> requests.
        bytes (int): of its bitstreams, as far as they were kept.
        times (deque): of the last answers.
        last (float): time of the last request, seconds since 1970.
    """

    codes: collections.Counter = dataclasses.field(default_factory=collections.Counter)
    bytes: int = 0
    times: collections.deque = dataclasses.field(default_factory=lambda: collections.deque(maxlen=1000))
    last: float = 0.0


class ClientTable:
    """Counts the uploads of clients; of many, those that were heard of last. Of one thread.

    Args:
        clock (callable): seconds since 1970.
    """

    def __init__(self, clock=time.time):
        self._clock = clock
        self._clients = collections.OrderedDict()  # name -> _Client, the last one last
        self._failures = collections.deque(maxlen=_FAILURES_KEPT)

    def add(self, client, code, size):
        """Counts a request.

        Args:
            client (str): whose.
            code (int): HTTP status of its answer.
            size (int): bytes of its bitstream, as far as they were kept.
        """
        found = self._clients.pop(client, None) or _Client()
        self._clients[client] = found
        found.codes[code] += 1
        found.bytes += size
        found.last = self._clock()
        found.times.append(found.last)
        if len(self._clients) > MOST_CLIENTS + (OTHERS in self._clients):
            self._forget_one()

    def _forget_one(self):
        name = next(name for name in self._clients if name != OTHERS)
        gone = self._clients.pop(name)
        others = self._clients.setdefault(OTHERS, _Client())
        others.codes += gone.codes
        others.bytes += gone.bytes
        others.last = max(others.last, gone.last)

    def add_failure(self, client, identity, code, detail):
        """Remembers what was answered to a request that failed."""
        self._failures.append(
            {
                "time": self._clock(),
                "client": client,
                "id": identity[:_TEXT_LENGTH],
                "code": code,
                "detail": detail[:_TEXT_LENGTH],
            }
        )

    def codes(self):
        """dict[(str, int), int]: client and HTTP status -> requests."""
        return {(name, code): n for name, one in self._clients.items() for code, n in one.codes.items()}

    def bytes(self):
        """dict[str, int]: client -> bytes."""
        return {name: one.bytes for name, one in self._clients.items()}

    def failures(self):
        """list[dict]: the last ones, the newest first: "time", "client", "id", "code", "detail"."""
        return list(reversed(self._failures))

    def rows(self):
        """list[dict]: of each client, the one heard of last first: "client", "rate" (requests a second,
        of the last 10), "results", "failures", "bytes", "last" (seconds since 1970)."""
        now = self._clock()
        return [
            {
                "client": name,
                "rate": sum(now - moment < _RATE for moment in one.times) / _RATE,
                "results": one.codes[200],
                "failures": sum(n for code, n in one.codes.items() if code not in _NO_FAILURES),
                "bytes": one.bytes,
                "last": one.last,
            }
            for name, one in reversed(self._clients.items())
        ]
