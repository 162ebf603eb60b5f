"""The cloud sub-model for many clients: a queue, batches, and results on disk."""

import collections
import concurrent.futures
import contextlib
import dataclasses
import logging
import os
import statistics
import threading
import time

from ..codecs import BitstreamError, DecodeLimits, FeatureBitstream
from ..files import remove_partial_files, write_bytes
from .protocol import BusyError, ForeignModelError
from .results import make_result, read_result, write_result
from .spool import compute_digest, is_stream_id, read_name

__all__ = ["BusyError", "CloudService", "ForeignModelError", "ServiceSettings"]

_LATENCIES_KEPT = 1000
_COUNTED = ("accepted", "done", "errors", "busy", "repeated", "refused", "bytes", "batches")
_BUSY = "the server is busy: try again"
_PROBE = ".writable"
_PROBE_BYTES = 4096
_PROBE_BYTES_AFTER_FAILURE = 2**20
_PROBE_PERIOD = 1.0  # seconds


@dataclasses.dataclass(frozen=True)
class ServiceSettings:
    """Settings of a service.

    Attributes:
        max_batch (int): bitstreams that the network computes at once, of images of one padded size.
        max_wait (float): seconds for which a bitstream may wait for others to fill its batch.
        queue_size (int): bitstreams that wait; more are answered "busy, retry".
        max_bytes (int): of a request.
        max_receiving (int): bytes of all requests that are being received, and again of all that wait
            or are computed; beyond, "busy, retry".
        max_answer_bytes (int): memory for what the network finds in the images of a batch, at their
            original sizes; a bitstream that alone could need more is refused.
        max_connections (int): beyond, those that ask nothing are closed, the oldest first.
        header_timeout (float): seconds in which the head of a connection's first request must have
            arrived.
        idle_timeout (float): seconds for which a connection is kept for another request.
        receive_timeout (float): seconds in which a request must have arrived.
        answer_timeout (float): seconds after which a request is answered "retry".
        limits (DecodeLimits): of a bitstream.
    """

    max_batch: int = 8
    max_wait: float = 0.005
    queue_size: int = 64
    max_bytes: int = 2**24
    max_receiving: int = 2**28
    max_answer_bytes: int = 2**30
    max_connections: int = 512
    header_timeout: float = 10.0
    idle_timeout: float = 30.0
    receive_timeout: float = 30.0
    answer_timeout: float = 60.0
    limits: DecodeLimits = dataclasses.field(default_factory=DecodeLimits)

    def __post_init__(self):
        for field in dataclasses.fields(self):
            value = getattr(self, field.name)
            if field.name not in ("max_wait", "limits") and value <= 0:
                raise ValueError(f"{field.name} is {value}: it must be above 0")
        if self.max_wait < 0:
            raise ValueError(f"max_wait is {self.max_wait}: it must not be negative")


@dataclasses.dataclass(frozen=True, eq=False)
class _Job:
    """A bitstream that was accepted; `future` gets its result."""

    identity: str
    name: str
    stream: FeatureBitstream
    size: int  # bytes
    answer_bytes: int  # memory that its outputs may take
    future: concurrent.futures.Future
    arrived: float


class CloudService:
    """Runs the cloud sub-model of a network for many clients, in one thread.

    It computes several bitstreams at once where they wait together and their images have one padded
    size: outputs do not depend on what else is asked at the same time, but for the rounding of
    floating-point sums.

    Args:
        network (SplitInference): in evaluation mode.
        settings (ServiceSettings): see there.
        folder (str): for results, a JSON file and pictures an image. A bitstream whose id has a result
            there, of the same `maker`, is answered from it.
        class_names (sequence[str or dict]): for results, see :func:`make_result`.
        maker (str): tells this network, its weights and settings, from others.
        bytes_per_pixel (int): memory that the outputs for one image may take, for each pixel of its
            original size; see `max_answer_bytes`.
    """

    def __init__(self, network, settings, folder, class_names=(), maker="", bytes_per_pixel=0):
        self.settings = settings
        self._network = network
        self._folder = folder
        self._class_names = class_names
        self._maker = maker
        self._bytes_per_pixel = bytes_per_pixel
        # Format of a bitstream -> the fingerprint that it carries, if it is of this network.
        self._fingerprints = {1: network.fingerprint_v1(), 2: network.fingerprint()}
        self._waiting = []  # jobs, the oldest first
        self._pending = {}  # id -> future: not computed twice at the same time
        self._held_bytes = 0  # of jobs that wait or are computed
        self._lock = threading.Lock()
        self._changed = threading.Condition(self._lock)
        self._stopping = False
        self.counts = collections.Counter()
        self._latencies = collections.deque(maxlen=_LATENCIES_KEPT)
        self._write_failed = False
        self._probe_lock, self._probed, self._probe_error = threading.Lock(), float("-inf"), None
        os.makedirs(folder, exist_ok=True)
        remove_partial_files(folder)
        self._thread = threading.Thread(target=self._work, name="cloud sub-model", daemon=True)
        self._thread.start()

    @property
    def stopping(self):
        """bool: whether it takes nothing more."""
        return self._stopping

    def submit(self, identity, data, name=None):
        """Submits a bitstream, to be computed.

        Args:
            identity (str): of :func:`make_stream_id`.
            data (bytes): the bitstream.
            name (str or None): of the image, for the result; None takes it from the id.

        Returns:
            Future: of (result, seconds that the cloud sub-model took).

        Raises:
            BitstreamError: the id or the bitstream is malformed, or its answer too large.
            ForeignModelError, BusyError: see there. FileExistsError: another bitstream has this id.
        """
        if not is_stream_id(identity):
            raise BitstreamError(
                f"malformed id {identity[:100]!r}: give NAME-DIGEST, a name of at most 200 letters, "
                'digits, "_", ".", "=" and "-", and the first 16 hexadecimal digits of the SHA-256 of '
                "the bytes"
            )
        require_digest(identity, compute_digest(data))
        stream = FeatureBitstream.from_bytes(data, self.settings.limits)
        own = self._fingerprints[stream.version]
        if stream.fingerprint != own:
            raise ForeignModelError(
                f"this bitstream was written by another model (fingerprint {stream.fingerprint.hex()}, "
                f"here {own.hex()}): load the same weights on the edge and in the cloud"
            )
        name = _printable(read_name(identity) if name is None else name)
        job = _Job(
            identity,
            name,
            stream,
            len(data),
            self._answer_bytes(stream),
            concurrent.futures.Future(),
            time.monotonic(),
        )
        return self._find(identity, lambda: self._accept(job))

    def _answer_bytes(self, stream):
        height, width = stream.sizes.original
        needed, most = height * width * self._bytes_per_pixel, self.settings.max_answer_bytes
        if needed > most:
            raise BitstreamError(
                f"what is found in an image of {height} x {width} pixels may take {needed} bytes of "
                f"memory; this server gives an answer {most} (--max-answer-bytes)"
            )
        return needed

    def repeat(self, identity):
        """Finds the future of (result, seconds) of a bitstream that was submitted before, or None."""
        return self._find(identity, lambda: None)

    def knows(self, identity):
        """Tells whether :meth:`repeat` would find it now."""
        with self._lock:
            if identity in self._pending:
                return True
        return self._known(identity) is not None

    def _find(self, identity, otherwise):
        """The future of what is known or pending; else what `otherwise` gives, under the lock."""
        while True:
            with self._lock:
                done = self.counts["done"]
            known = self._known(identity)  # from disk: nobody else waits for it
            with self._lock:
                if known is not None or identity in self._pending:
                    self.counts["repeated"] += 1
                    if known is None:
                        return self._pending[identity]
                    future = concurrent.futures.Future()
                    future.set_result((known, 0.0))
                    return future
                if done == self.counts["done"]:
                    return otherwise()
            # Something was finished since: perhaps this one, so look again.

    def _accept(self, job):
        """Puts a new job into the queue, under the lock."""
        if self._stopping:
            raise BusyError("the server is stopping: try another one, or later")
        room = not self._held_bytes or self._held_bytes + job.size <= self.settings.max_receiving
        if len(self._waiting) >= self.settings.queue_size or not room:
            self.counts["busy"] += 1
            raise BusyError(_BUSY)
        self._waiting.append(job)
        self._pending[job.identity] = job.future
        self._held_bytes += job.size
        self.counts["accepted"] += 1
        self.counts["bytes"] += job.size
        self._changed.notify()
        return job.future

    def _known(self, identity):
        """The result of an earlier call, from disk; None if there is none, or none that can be read."""
        if not is_stream_id(identity):
            return None
        try:
            result = read_result(os.path.join(self._folder, f"{identity}.json"))
        except (OSError, ValueError):
            return None
        known = (identity, self._maker)
        return result if (result.get("id"), result.get("maker")) == known else None

    def _signed(self, job):
        """By what a client knows that an answer is of this service, and to its bitstream."""
        fingerprint = job.stream.fingerprint.hex()
        return {"id": job.identity, "fingerprint": fingerprint, "maker": self._maker}

    def count(self, name):
        """Counts an event, for :meth:`metrics`."""
        with self._lock:
            self.counts[name] += 1

    def _work(self):
        while batch := self._next_batch():
            self._finish(batch)

    def _next_batch(self):
        """Jobs to compute at once; none when it is time to end."""
        most, wait = self.settings.max_batch, self.settings.max_wait
        with self._changed:
            while not self._waiting and not self._stopping:
                self._changed.wait()
            if not self._waiting:
                return []
            oldest = self._waiting[0]
            while True:
                batch = _affordable(
                    [job for job in self._waiting if _fit(job, oldest)], self.settings.max_answer_bytes
                )[:most]
                left = oldest.arrived + wait - time.monotonic()
                if len(batch) == most or left <= 0 or self._stopping:
                    break
                self._changed.wait(left)
            self._waiting = [job for job in self._waiting if job not in batch]
            self.counts["batches"] += 1
        return batch

    def _finish(self, batch):
        start = time.perf_counter()
        outcomes = self._outputs(batch)
        for job, outcome in zip(batch, outcomes, strict=True):
            try:
                if not isinstance(outcome, Exception):
                    result = make_result(job.identity, outcome, self._class_names)
                    result = {**result, "name": job.name, **self._signed(job)}
                    write_result(result, self._folder)
                    self._write_failed = False
                    outcome = result, time.perf_counter() - start
            except Exception as error:
                self._write_failed = isinstance(error, OSError)  # e.g. a full disk
                outcome = error
            failed = isinstance(outcome, Exception)
            if failed and not isinstance(outcome, BitstreamError):
                logging.getLogger("d2_featcomp").error("%s", job.identity, exc_info=outcome)
            with self._lock:
                if not failed:
                    self._latencies.append(outcome[1])
                self.counts["errors" if failed else "done"] += 1
                self._pending.pop(job.identity, None)
                self._held_bytes -= job.size
            if failed:
                job.future.set_exception(outcome)
            else:
                job.future.set_result(outcome)

    def _outputs(self, batch):
        """Computes of each job its output, or the exception; whatever one client sends, the others are
        served."""
        outcomes, decoded = {}, {}
        for job in batch:
            try:
                decoded[job] = self._network.decode(job.stream)
            except Exception as error:
                outcomes[job] = error
        try:
            if decoded:
                outputs = self._network.compute_batch_outputs(
                    list(decoded.values()), [job.stream for job in decoded]
                )
                for job, output in zip(decoded, outputs, strict=True):
                    outcomes[job] = {**output, "bitstream": job.stream}
        except Exception as error:
            if len(decoded) == 1:
                outcomes.update(dict.fromkeys(decoded, error))
            else:  # too many at once for the memory, or one of them fails: each alone
                for job in decoded:
                    outcomes[job] = self._outputs([job])[0]
        return [outcomes[job] for job in batch]

    def storage_error(self):
        """Finds out, OSError or None, why results cannot be written, tried at most once a second."""
        with self._probe_lock:
            if time.monotonic() - self._probed > _PROBE_PERIOD:
                self._probe_error = self._probe()
                self._probed = time.monotonic()
            return self._probe_error

    def _probe(self):
        path = os.path.join(self._folder, _PROBE)
        size = _PROBE_BYTES_AFTER_FAILURE if self._write_failed else _PROBE_BYTES
        try:
            write_bytes(bytes(size), path)
            with contextlib.suppress(FileNotFoundError):  # another server with this folder
                os.remove(path)
        except OSError as error:
            return error
        return None

    def stop(self):
        """Takes nothing more, finishes what was accepted, and ends."""
        with self._changed:
            self._stopping = True
            self._changed.notify()
        self._thread.join()

    def metrics(self):
        """Returns dict: counts of bitstreams, of their bytes and batches, of those that wait; and
        quantiles of the seconds that the cloud sub-model took, its batch for each bitstream."""
        with self._lock:
            latencies, counts = sorted(self._latencies), dict(self.counts)
            queued = len(self._waiting)
        found = {name: counts.get(name, 0) for name in _COUNTED}
        found["queued"] = queued
        if len(latencies) > 1:
            cuts = statistics.quantiles(latencies, n=100, method="inclusive")
            found["seconds"] = {"0.5": cuts[49], "0.9": cuts[89], "0.99": cuts[98]}
        return found


def _fit(job, other):
    """Tells whether two can be computed at once."""
    return job.stream.sizes.padded == other.stream.sizes.padded


def _affordable(jobs, most):
    """The first of them, and those after it whose answers fit into the same memory with it."""
    chosen, needed = [], 0
    for job in jobs:
        if not chosen or needed + job.answer_bytes <= most:
            chosen.append(job)
            needed += job.answer_bytes
    return chosen


def require_digest(identity, digest):
    """Raises FileExistsError if an id is not of bytes of this digest, see :func:`compute_digest`."""
    if not identity.endswith(f"-{digest}"):
        raise FileExistsError(f"{identity!r} is the id of other bytes")


def _printable(name):
    """A name as UTF-8 can hold it: what is no text in it is replaced."""
    return name.encode("utf-8", "surrogateescape").decode("utf-8", "replace")
