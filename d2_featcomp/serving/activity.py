"""What a service has done: counts, histograms, and each of the last seconds."""

import bisect
import collections
import dataclasses
import itertools
import random
import statistics
import threading
import time

__all__ = ["COUNTED", "Activity", "Histogram"]

# What is counted, and what each count means.
COUNTED = {
    "accepted": "bitstreams that were put into the queue",
    "done": "bitstreams that were computed",
    "errors": "bitstreams whose computation or result failed",
    "busy": "bitstreams that were turned away because the queue or the memory was full",
    "limited": "bitstreams that were turned away because of their client's limits",
    "repeated": "bitstreams that were answered from a result that was there or on its way",
    "refused": "bitstreams that will never be taken, or were written by another model",
    "unauthorized": "requests without a valid token",
    "bytes": "bytes of the bitstreams that were accepted",
    "batches": "batches that the network computed",
}
_SECONDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0)
_BYTES = tuple(2.0**power for power in range(7, 25, 2))
_BATCHES = (1.0, 2.0, 4.0, 8.0, 16.0, 32.0, 64.0)
HISTORY = 120  # seconds that are remembered one by one
_RECENT = 60  # seconds, of the latency's quantiles
_RATE = 10  # seconds over which rates are averaged
_LATENCIES_KEPT = 256  # of a second; of more, a random choice
_FAILURES = ("errors", "busy", "limited", "refused", "unauthorized")


class Histogram:
    """Counts values up to each of some bounds.

    Args:
        bounds (sequence[float]): rising.

    Attributes:
        counts (list[int]): values above the bound before and up to this one; at last, above all.
        total (float): sum of the values.
    """

    def __init__(self, bounds):
        self.bounds = tuple(bounds)
        self.counts = [0] * (len(bounds) + 1)
        self.total = 0.0

    def add(self, value):
        self.counts[bisect.bisect_left(self.bounds, value)] += 1
        self.total += value

    def copy(self):
        found = Histogram(self.bounds)
        found.counts, found.total = list(self.counts), self.total
        return found

    def cumulative(self):
        """list[int]: values up to each bound; at last, all."""
        return list(itertools.accumulate(self.counts))


@dataclasses.dataclass
class _Second:
    """What happened in one second."""

    number: int = -1
    results: int = 0
    bytes: int = 0
    failures: int = 0
    latencies: list = dataclasses.field(default_factory=list)


class Activity:
    """Counts what happens; of any thread.

    Args:
        clock (callable): seconds, from any start.

    Attributes:
        histograms (dict[str, Histogram]): "latency_seconds" (a bitstream's from its arrival to its
            result on disk), "cloud_seconds" (its batch in the network), "bitstream_bytes", "batch_size".
    """

    def __init__(self, clock=time.monotonic):
        self._clock = clock
        self._start = clock()
        self._lock = threading.Lock()
        self._counts = collections.Counter()
        self._seconds = [_Second() for _ in range(HISTORY)]  # a ring
        self._random = random.Random(0)
        self.histograms = {
            "latency_seconds": Histogram(_SECONDS),
            "cloud_seconds": Histogram(_SECONDS),
            "bitstream_bytes": Histogram(_BYTES),
            "batch_size": Histogram(_BATCHES),
        }

    def count(self, name, amount=1):
        """Counts an event, one of `COUNTED`."""
        with self._lock:
            self._counts[name] += amount
            if name in _FAILURES:
                self._now().failures += amount

    def add_batch(self, size):
        """Counts a batch of so many bitstreams."""
        with self._lock:
            self._counts["batches"] += 1
            self.histograms["batch_size"].add(size)

    def add_result(self, size, latency, cloud_seconds):
        """Counts a result, of a bitstream of so many bytes; see `histograms` for both times."""
        with self._lock:
            self._counts["done"] += 1
            self.histograms["bitstream_bytes"].add(size)
            self.histograms["latency_seconds"].add(latency)
            self.histograms["cloud_seconds"].add(cloud_seconds)
            second = self._now()
            second.results += 1
            second.bytes += size
            if len(second.latencies) < _LATENCIES_KEPT:
                second.latencies.append(latency)
            elif (place := self._random.randrange(second.results)) < _LATENCIES_KEPT:
                second.latencies[place] = latency

    def _now(self):
        number = int(self._clock())
        second = self._seconds[number % HISTORY]
        if second.number != number:
            second = self._seconds[number % HISTORY] = _Second(number)
        return second

    def counts(self):
        """dict: how often each of `COUNTED` has happened."""
        with self._lock:
            return {name: self._counts[name] for name in COUNTED}

    def copy_histograms(self):
        """dict: copies of `histograms`."""
        with self._lock:
            return {name: histogram.copy() for name, histogram in self.histograms.items()}

    def recent(self):
        """Tells what happened lately.

        Returns:
            dict: "uptime", seconds; "rates", of the last 10 seconds: "results", "bytes" and "failures" a
            second; "latency", of the last 60 seconds: quantiles "p50", "p90", "p99" in seconds, None if
            there was no result; "history", of each of the last whole seconds, the oldest first:
            "results", "bytes", "failures", "p50" and "p99".
        """
        with self._lock:
            uptime = self._clock() - self._start
            now = int(self._clock())
            # The second that is running is left out: it is not whole.
            past = [self._copy_second(number) for number in range(now - HISTORY + 1, now)]
        lately = past[-_RATE:]
        known = max(1, min(_RATE, int(uptime)))
        quantiles = [find_quantiles(second.latencies) for second in past]
        return {
            "uptime": uptime,
            "rates": {
                name: sum(getattr(second, name) for second in lately) / known
                for name in ("results", "bytes", "failures")
            },
            "latency": find_quantiles([x for second in past[-_RECENT:] for x in second.latencies]),
            "history": {
                **{
                    name: [getattr(second, name) for second in past]
                    for name in ("results", "bytes", "failures")
                },
                **{name: [found[name] for found in quantiles] for name in ("p50", "p99")},
            },
        }

    def _copy_second(self, number):
        second = self._seconds[number % HISTORY]
        if second.number != number:
            return _Second(number)
        return dataclasses.replace(second, latencies=list(second.latencies))


def find_quantiles(values):
    """dict: "p50", "p90" and "p99" of numbers; None each if there are none."""
    if not values:
        return {"p50": None, "p90": None, "p99": None}
    cuts = statistics.quantiles(values * 2 if len(values) == 1 else values, n=100, method="inclusive")
    return {"p50": cuts[49], "p90": cuts[89], "p99": cuts[98]}
