"""The cloud half as a web service, on FastAPI.

FastAPI on uvicorn: HTTP passes every proxy and load balancer as it is, can be tried with curl, and both
are kept by many; gRPC would save little, since a request is one blob of kilobytes.
"""

import asyncio
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
from .results import read_result, result_of, write_result
from .spool import digest_of, is_stream_id

__all__ = ["BusyError", "CloudService", "ServiceSettings", "build_app"]

_LATENCIES_KEPT = 1000
_COUNTED = ("accepted", "done", "errors", "busy", "repeated", "refused", "bytes", "batches")
_BUSY = "the server is busy: try again"


@dataclasses.dataclass(frozen=True)
class ServiceSettings:
    """How a service behaves under load.

    Attributes:
        max_batch (int): bitstreams that the network computes at once, of images of one padded size.
        max_wait (float): seconds for which a bitstream may wait for others to fill its batch.
        queue_size (int): bitstreams that wait; more are answered "busy, retry".
        max_bytes (int): of a request.
        max_receiving (int): bytes of all requests that are being received; beyond, "busy, retry".
        receive_timeout (float): seconds in which a request must have arrived.
        answer_timeout (float): seconds after which a request is answered "retry".
        limits (DecodeLimits): of a bitstream.
    """

    max_batch: int = 8
    max_wait: float = 0.005
    queue_size: int = 64
    max_bytes: int = 2**24
    max_receiving: int = 2**28
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


class BusyError(RuntimeError):
    """The queue is full, or the service is stopping."""


@dataclasses.dataclass(frozen=True, eq=False)
class _Job:
    """A bitstream that was accepted; `future` gets its result."""

    identity: str
    stream: FeatureBitstream
    future: concurrent.futures.Future
    arrived: float


class CloudService:
    """Runs the cloud half of a network for many clients, in one thread.

    It computes several bitstreams at once where they wait together and their images have one padded
    size: outputs do not depend on what else is asked at the same time, but for the rounding of
    floating-point sums.

    Args:
        network (SplitInference): in evaluation mode.
        settings (ServiceSettings): see there.
        folder (str): for results, a JSON file and pictures an image. A bitstream whose id has a result
            there, of the same `maker`, is answered from it.
        class_names (sequence[str]): for results.
        maker (str): tells this network, its weights and settings, from others.
    """

    def __init__(self, network, settings, folder, class_names=(), maker=""):
        self.settings = settings
        self._network = network
        self._folder = folder
        self._class_names = class_names
        self._maker = maker
        self._waiting = []  # jobs, the oldest first
        self._pending = {}  # id -> future: not computed twice at the same time
        self._lock = threading.Lock()
        self._changed = threading.Condition(self._lock)
        self._stopping = False
        self.counts = collections.Counter()
        self._latencies = collections.deque(maxlen=_LATENCIES_KEPT)
        os.makedirs(folder, exist_ok=True)
        self._thread = threading.Thread(target=self._work, name="cloud half", daemon=True)
        self._thread.start()

    @property
    def stopping(self):
        """bool: whether it takes nothing more."""
        return self._stopping

    def submit(self, identity, data):
        """
        Args:
            identity (str): of :func:`stream_id`.
            data (bytes): the bitstream.

        Returns:
            Future: of (result, seconds that the cloud half took).

        Raises:
            BitstreamError: the id or the bitstream is malformed. FileExistsError: another bitstream has
            this id. BusyError: see there.
        """
        if not is_stream_id(identity):
            raise BitstreamError(f"malformed id {identity[:100]!r}")
        if not identity.endswith(f"-{digest_of(data)}"):
            raise FileExistsError(f"{identity!r} is the id of other bytes")
        stream = FeatureBitstream.from_bytes(data, self.settings.limits)
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
                    return self._accept(identity, stream, len(data))
            # Something was finished since: perhaps this one, so look again.

    def _accept(self, identity, stream, size):
        """Puts a new job into the queue, under the lock."""
        if self._stopping:
            raise BusyError("the server is stopping: try another one, or later")
        if len(self._waiting) >= self.settings.queue_size:
            self.counts["busy"] += 1
            raise BusyError(_BUSY)
        future = concurrent.futures.Future()
        self._waiting.append(_Job(identity, stream, future, time.monotonic()))
        self._pending[identity] = future
        self.counts["accepted"] += 1
        self.counts["bytes"] += size
        self._changed.notify()
        return future

    def _known(self, identity):
        try:
            result = read_result(os.path.join(self._folder, f"{identity}.json"))
        except (FileNotFoundError, ValueError):
            return None
        return result if result.get("maker") == self._maker else None

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
                batch = [job for job in self._waiting if _fit(job, oldest)][:most]
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
                    result = result_of(job.identity, outcome, self._class_names)
                    result["maker"] = self._maker
                    write_result(result, self._folder)
                    outcome = result, time.perf_counter() - start
            except Exception as error:  # e.g. a full disk
                outcome = error
            failed = isinstance(outcome, Exception)
            if failed and not isinstance(outcome, BitstreamError):
                logging.getLogger("d2_featcomp").error("%s", job.identity, exc_info=outcome)
            with self._lock:
                if not failed:
                    self._latencies.append(outcome[1])
                self.counts["errors" if failed else "done"] += 1
                self._pending.pop(job.identity, None)
            if failed:
                job.future.set_exception(outcome)
            else:
                job.future.set_result(outcome)

    def _outputs(self, batch):
        """Of each job its output, or the exception; whatever one client sends, the others are served."""
        outcomes, decoded = {}, {}
        for job in batch:
            try:
                decoded[job] = self._network.decode(job.stream)
            except Exception as error:
                outcomes[job] = error
        try:
            if decoded:
                outputs = self._network.outputs_of_batch(
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

    def metrics(self):
        """dict: counts of bitstreams, of their bytes and batches, of those that wait; and quantiles of
        the seconds that the cloud half took, its batch for each bitstream."""
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
    """Whether two can be computed at once."""
    return job.stream.sizes.padded == other.stream.sizes.padded


def build_app(service):
    """
    Args:
        service (CloudService): that answers.

    Returns:
        FastAPI: PUT /v1/bitstreams/ID (a bitstream, answered with its result), GET /healthz and
        GET /metrics.
    """
    import fastapi
    from fastapi.responses import JSONResponse, PlainTextResponse

    settings = service.settings
    receiving = 0  # bytes of requests of which more is to come

    @contextlib.asynccontextmanager
    async def lifespan(app):
        yield
        # uvicorn has answered what it had accepted; nothing is left but to end the thread.
        await asyncio.to_thread(service.stop)

    app = fastapi.FastAPI(title="d2_featcomp", lifespan=lifespan, docs_url=None, redoc_url=None)

    def refusal(status, detail, **headers):
        return JSONResponse({"detail": detail}, status_code=status, headers=headers)

    async def body_of(request):
        """The whole body; None if it is larger than allowed."""
        nonlocal receiving
        declared = request.headers.get("content-length", "0")
        if declared.isdecimal() and int(declared) > settings.max_bytes:
            return None
        body = bytearray()
        try:
            async for chunk in request.stream():
                body += chunk
                receiving += len(chunk)
                if len(body) > settings.max_bytes:
                    return None
                if receiving > settings.max_receiving:
                    raise BusyError(_BUSY)
            return bytes(body)
        finally:
            receiving -= len(body)

    @app.put("/v1/bitstreams/{identity}")
    async def put(identity: str, request: fastapi.Request):
        try:
            data = await asyncio.wait_for(body_of(request), settings.receive_timeout)
        except asyncio.TimeoutError:
            return refusal(408, "the request did not arrive in time", Connection="close")
        except BusyError as error:
            service.count("busy")
            return refusal(503, str(error), **{"Retry-After": "1", "Connection": "close"})
        if data is None:
            service.count("refused")
            return refusal(413, f"more than {settings.max_bytes} bytes", Connection="close")
        try:
            future = await asyncio.to_thread(service.submit, identity, data)
            answer = asyncio.shield(asyncio.wrap_future(future))
            result, seconds = await asyncio.wait_for(answer, settings.answer_timeout)
        except BitstreamError as error:
            service.count("refused")
            return refusal(400, str(error))
        except FileExistsError as error:
            service.count("refused")
            return refusal(409, str(error))
        except BusyError as error:
            return refusal(503, str(error), **{"Retry-After": "1"})
        except asyncio.TimeoutError:
            return refusal(504, "it takes longer than allowed: ask again", **{"Retry-After": "1"})
        except Exception:
            return refusal(500, "internal error")
        return JSONResponse(result, headers={"X-Cloud-Seconds": f"{seconds:.6f}"})

    @app.get("/healthz")
    async def health():
        status = "stopping" if service.stopping else "ok"
        return JSONResponse({"status": status}, status_code=200 if status == "ok" else 503)

    @app.get("/metrics")
    async def metrics():
        return PlainTextResponse(_prometheus(service.metrics()))

    return app


def _prometheus(metrics):
    """In the text format that Prometheus reads."""
    lines = []
    for name, value in metrics.items():
        if name == "seconds":
            lines.append("# TYPE d2_featcomp_cloud_seconds summary")
            lines += [
                f'd2_featcomp_cloud_seconds{{quantile="{share}"}} {seconds:.6f}'
                for share, seconds in value.items()
            ]
        elif name == "queued":
            lines += ["# TYPE d2_featcomp_queued gauge", f"d2_featcomp_queued {value}"]
        else:
            lines += [f"# TYPE d2_featcomp_{name}_total counter", f"d2_featcomp_{name}_total {value}"]
    return "\n".join(lines) + "\n"
