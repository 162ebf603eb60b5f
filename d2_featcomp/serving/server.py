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
import queue
import statistics
import threading
import time

from ..codecs import BitstreamError, DecodeLimits, FeatureBitstream
from .results import read_result, result_of, write_result
from .spool import digest_of, is_stream_id

__all__ = ["BusyError", "CloudService", "ServiceSettings", "build_app"]

_LATENCIES_KEPT = 1000
_STOP = object()


@dataclasses.dataclass(frozen=True)
class ServiceSettings:
    """How a service behaves under load.

    Attributes:
        queue_size (int): bitstreams that wait; more are answered "busy, retry".
        max_bytes (int): of a request.
        receive_timeout (float): seconds in which a request must have arrived.
        answer_timeout (float): seconds after which a request is answered "retry".
        limits (DecodeLimits): of a bitstream.
    """

    queue_size: int = 64
    max_bytes: int = 2**24
    receive_timeout: float = 30.0
    answer_timeout: float = 60.0
    limits: DecodeLimits = dataclasses.field(default_factory=DecodeLimits)

    def __post_init__(self):
        for name in ("queue_size", "max_bytes", "receive_timeout", "answer_timeout"):
            if getattr(self, name) <= 0:
                raise ValueError(f"{name} is {getattr(self, name)}: it must be above 0")


class BusyError(RuntimeError):
    """The queue is full, or the service is stopping."""


class CloudService:
    """Runs the cloud half of a network for many clients, in one thread: one bitstream after the other,
    so that no output depends on what else is asked at the same time.

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
        self._queue = queue.Queue(maxsize=settings.queue_size)
        self._pending = {}  # id -> future: not computed twice at the same time
        self._lock = threading.Lock()
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
        with self._lock:
            if identity in self._pending:
                self.counts["repeated"] += 1
                return self._pending[identity]
            known = self._known(identity)
            if known is not None:
                self.counts["repeated"] += 1
                future = concurrent.futures.Future()
                future.set_result((known, 0.0))
                return future
            if self._stopping:
                raise BusyError("the server is stopping: try another one, or later")
            future = concurrent.futures.Future()
            try:
                self._queue.put_nowait((identity, stream, future))
            except queue.Full as error:
                self.counts["busy"] += 1
                raise BusyError("the server is busy: try again") from error
            self._pending[identity] = future
            self.counts["accepted"] += 1
            self.counts["bytes"] += len(data)
        return future

    def _known(self, identity):
        try:
            result = read_result(os.path.join(self._folder, f"{identity}.json"))
        except (FileNotFoundError, ValueError):
            return None
        return result if result.get("maker") == self._maker else None

    def _count(self, name):
        with self._lock:
            self.counts[name] += 1

    def _work(self):
        while (item := self._queue.get()) is not _STOP:
            identity, stream, future = item
            start = time.perf_counter()
            try:
                output = self._network.cloud_inference([stream])[0]
                result = result_of(identity, output, self._class_names)
                result["maker"] = self._maker
                write_result(result, self._folder)
                outcome = result, time.perf_counter() - start
                with self._lock:
                    self._latencies.append(outcome[1])
                    self.counts["done"] += 1
            except Exception as error:  # whatever one client sends, the others are served
                outcome = error
                self._count("errors")
                if not isinstance(error, BitstreamError):
                    logging.getLogger("d2_featcomp").exception("%s", identity)
            with self._lock:
                self._pending.pop(identity, None)
            if isinstance(outcome, Exception):
                future.set_exception(outcome)
            else:
                future.set_result(outcome)

    def stop(self):
        """Takes nothing more, finishes what was accepted, and ends."""
        with self._lock:
            self._stopping = True
        self._queue.put(_STOP)
        self._thread.join()

    def metrics(self):
        """dict: counts of bitstreams, of their bytes, of those that wait, and quantiles of the seconds
        that the cloud half took."""
        with self._lock:
            latencies, counts = sorted(self._latencies), dict(self.counts)
        found = {
            name: counts.get(name, 0)
            for name in ("accepted", "done", "errors", "busy", "repeated", "refused", "bytes")
        }
        found["queued"] = self._queue.qsize()
        if len(latencies) > 1:
            cuts = statistics.quantiles(latencies, n=100, method="inclusive")
            found["seconds"] = {"0.5": cuts[49], "0.9": cuts[89], "0.99": cuts[98]}
        return found


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
        declared = request.headers.get("content-length", "0")
        if declared.isdecimal() and int(declared) > settings.max_bytes:
            return None
        body = bytearray()
        async for chunk in request.stream():
            body += chunk
            if len(body) > settings.max_bytes:
                return None
        return bytes(body)

    @app.put("/v1/bitstreams/{identity}")
    async def put(identity: str, request: fastapi.Request):
        try:
            data = await asyncio.wait_for(body_of(request), settings.receive_timeout)
        except asyncio.TimeoutError:
            return refusal(408, "the request did not arrive in time", Connection="close")
        if data is None:
            service._count("refused")
            return refusal(413, f"more than {settings.max_bytes} bytes", Connection="close")
        try:
            future = await asyncio.to_thread(service.submit, identity, data)
            answer = asyncio.shield(asyncio.wrap_future(future))
            result, seconds = await asyncio.wait_for(answer, settings.answer_timeout)
        except BitstreamError as error:
            service._count("refused")
            return refusal(400, str(error))
        except FileExistsError as error:
            service._count("refused")
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
