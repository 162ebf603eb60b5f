"""The cloud sub-model for many clients: a queue, batches, and results on disk."""

import concurrent.futures
import dataclasses
import logging
import threading
import time

from ..codecs import BitstreamError, FeatureBitstream
from .activity import Activity
from .protocol import BusyError, ForeignModelError
from .result_folder import ResultFolder
from .results import make_result
from .spool import compute_digest, is_stream_id, read_name

__all__ = ["BusyError", "CloudService", "ForeignModelError", "require_digest", "require_id"]

_BUSY = "the server is busy: try again"


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
        about (dict or None): tells people which network this is: names and values, of JSON's types.

    Attributes:
        activity (Activity): what has happened.
        folder (ResultFolder): of the results.
        about (dict): as given, with "fingerprint", of the edge sub-model whose bitstreams it takes.
    """

    def __init__(
        self, network, settings, folder, class_names=(), maker="", bytes_per_pixel=0, about=None
    ):
        self.settings = settings
        self.network = network
        self.class_names = class_names
        self.folder = ResultFolder(folder, maker)
        self.activity = Activity()
        self._bytes_per_pixel = bytes_per_pixel
        # Format of a bitstream -> the fingerprint that it carries, if it is of this network.
        self._fingerprints = {1: network.fingerprint_v1(), 2: network.fingerprint()}
        self.about = {**(about or {}), "fingerprint": self._fingerprints[2].hex()}
        self._waiting = []  # jobs, the oldest first
        self._pending = {}  # id -> future: not computed twice at the same time
        self._held_bytes = 0  # of jobs that wait or are computed
        self._lock = threading.Lock()
        self._changed = threading.Condition(self._lock)
        self._stopping = False
        self._finished = 0  # results, to see whether one was written since
        self._thread = threading.Thread(target=self._work, name="cloud sub-model", daemon=True)
        self._thread.start()

    def find_health(self):
        """Finds out whether it can take bitstreams, which writes into its folder at most once a second.

        Returns:
            dict: "status", one of "ok", "stopping" and "failing"; where it fails, "detail" tells why.
        """
        if self._stopping:
            return {"status": "stopping"}
        error = self.folder.find_error()
        if error is not None:
            return {"status": "failing", "detail": f"results cannot be written: {error.strerror}"}
        return {"status": "ok"}

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
        require_id(identity)
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

    def is_pending(self, identity):
        """Tells whether a bitstream waits or is computed."""
        with self._lock:
            return identity in self._pending

    def knows(self, identity):
        """Tells whether :meth:`repeat` would find it now."""
        return self.is_pending(identity) or self.folder.read(identity) is not None

    def _find(self, identity, otherwise):
        """The future of what is known or pending; else what `otherwise` gives, under the lock."""
        while True:
            finished = self._finished
            known = self.folder.read(identity)  # from disk: nobody else waits for it
            with self._lock:
                if known is not None or identity in self._pending:
                    self.activity.count("repeated")
                    if known is None:
                        return self._pending[identity]
                    future = concurrent.futures.Future()
                    future.set_result((known, 0.0))
                    return future
                if finished == self._finished:
                    return otherwise()
            # Something was finished since: perhaps this one, so look again.

    def _accept(self, job):
        """Puts a new job into the queue, under the lock."""
        if self._stopping:
            raise BusyError("the server is stopping: try another one, or later")
        room = not self._held_bytes or self._held_bytes + job.size <= self.settings.max_receiving
        if len(self._waiting) >= self.settings.queue_size or not room:
            self.activity.count("busy")
            raise BusyError(_BUSY)
        self._waiting.append(job)
        self._pending[job.identity] = job.future
        self._held_bytes += job.size
        self.activity.count("accepted")
        self.activity.count("bytes", job.size)
        self._changed.notify()
        return job.future

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
        self.activity.add_batch(len(batch))
        return batch

    def _finish(self, batch):
        start = time.perf_counter()
        outcomes = self._outputs(batch)
        for job, outcome in zip(batch, outcomes, strict=True):
            try:
                if not isinstance(outcome, Exception):
                    result = self._make_result(job, outcome)
                    self.folder.write(result)
                    outcome = result, time.perf_counter() - start
            except Exception as error:
                outcome = error
            failed = isinstance(outcome, Exception)
            if failed:
                self.activity.count("errors")
            else:
                self.activity.add_result(job.size, time.monotonic() - job.arrived, outcome[1])
            if failed and not isinstance(outcome, BitstreamError):
                trace = None if isinstance(outcome, OSError) else outcome  # e.g. a full disk
                logging.getLogger("d2_featcomp").error("%s: %s", job.identity, outcome, exc_info=trace)
            with self._lock:
                self._finished += not failed
                self._pending.pop(job.identity, None)
                self._held_bytes -= job.size
            if failed:
                job.future.set_exception(outcome)
            else:
                job.future.set_result(outcome)

    def _make_result(self, job, output):
        """A result that tells a client that it is of this service, and of its bitstream."""
        threshold = self.settings.score_threshold
        return {
            **make_result(job.identity, output, self.class_names, threshold),
            "name": job.name,
            "id": job.identity,
            "fingerprint": job.stream.fingerprint.hex(),
            "maker": self.folder.maker,
        }

    def _outputs(self, batch):
        """Computes of each job its output, or the exception; whatever one client sends, the others are
        served."""
        outcomes, decoded = {}, {}
        for job in batch:
            try:
                decoded[job] = self.network.decode(job.stream)
            except Exception as error:
                outcomes[job] = error
        try:
            if decoded:
                outputs = self.network.compute_batch_outputs(
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

    def stop(self):
        """Takes nothing more, finishes what was accepted, and ends."""
        with self._changed:
            self._stopping = True
            self._changed.notify()
        self._thread.join()

    def queue(self):
        """Returns dict: "queued", bitstreams that wait for their batch; "waiting_bytes", of those and of
        all that are computed."""
        with self._lock:
            return {"queued": len(self._waiting), "waiting_bytes": self._held_bytes}

    def metrics(self):
        """Returns dict: how often each of `COUNTED` has happened, and :meth:`queue`."""
        return {**self.activity.counts(), **self.queue()}


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


def require_id(identity):
    """Raises BitstreamError if a text is no id of a bitstream."""
    if not is_stream_id(identity):
        raise BitstreamError(
            f"malformed id {identity[:100]!r}: give NAME-DIGEST, a name of at most 200 letters, digits, "
            '"_", ".", "=" and "-", and the first 16 hexadecimal digits of the SHA-256 of the bytes'
        )


def require_digest(identity, digest):
    """Raises FileExistsError if an id is not of bytes of this digest, see :func:`compute_digest`."""
    if not identity.endswith(f"-{digest}"):
        raise FileExistsError(f"{identity!r} is the id of other bytes")


def _printable(name):
    """A name as UTF-8 can hold it: what is no text in it is replaced."""
    return name.encode("utf-8", "surrogateescape").decode("utf-8", "replace")
