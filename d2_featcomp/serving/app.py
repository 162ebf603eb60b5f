"""The cloud sub-model as a web service, on FastAPI.

FastAPI on uvicorn: HTTP passes every proxy and load balancer as it is, can be tried with curl, and both
are kept by many; gRPC would save little, since a request is one blob of kilobytes.
"""

import asyncio
import contextlib
import hashlib
import urllib.parse

from ..codecs import BitstreamError
from .protocol import NAME_HEADER, BusyError, ForeignModelError
from .server import require_digest
from .spool import DIGEST_LENGTH, is_stream_id

__all__ = ["NAME_HEADER", "REASONS", "build_app"]

# What a refusal's "reason" says, and clients act on.
REASONS = {
    "bad": "this bitstream will never be taken",
    "foreign model": "a server with the weights that wrote it would take it",
}
_AGAIN = {"Retry-After": "1"}


class _TooLargeError(Exception):
    """A request has more bytes than allowed."""


def build_app(service):
    """Builds the web application of a service.

    Args:
        service (CloudService): that answers.

    Returns:
        FastAPI: PUT /v1/bitstreams/ID (a bitstream, answered with its result), GET /healthz and
        GET /metrics. Each answer to a PUT names the id as "id"; a result names the fingerprint of the
        edge sub-model as "fingerprint", a final refusal one of `REASONS` as "reason".
    """
    import fastapi
    from fastapi.responses import JSONResponse, PlainTextResponse
    from starlette.requests import ClientDisconnect

    @contextlib.asynccontextmanager
    async def lifespan(app):
        yield
        # uvicorn has answered what it had accepted; nothing is left but to end the thread.
        await asyncio.to_thread(service.stop)

    app = fastapi.FastAPI(title="d2_featcomp", lifespan=lifespan, docs_url=None, redoc_url=None)
    receiver = _Receiver(service.settings)

    def refusal(identity, status, detail, reason=None, **headers):
        about = {"detail": detail, "id": identity, **({"reason": reason} if reason else {})}
        return JSONResponse(about, status_code=status, headers=headers)

    async def find_future(identity, request):
        """Finds the future of a request's bitstream. A body that is not needed is read, but not kept."""
        known = await asyncio.to_thread(service.knows, identity)
        digest, body = await receiver.body(request, keep=is_stream_id(identity) and not known)
        if known:
            require_digest(identity, digest)
            future = await asyncio.to_thread(service.repeat, identity)
            if future is None:
                raise BusyError("its computation has just failed: ask again")
            return future
        name = request.headers.get(NAME_HEADER)
        name = None if name is None else urllib.parse.unquote(name, errors="surrogateescape")[:1000]
        return await asyncio.to_thread(service.submit, identity, body, name)

    @app.put("/v1/bitstreams/{identity}")
    async def put(identity: str, request: fastapi.Request):
        settings = service.settings
        try:
            future = await asyncio.wait_for(find_future(identity, request), settings.receive_timeout)
        except asyncio.TimeoutError:
            return refusal(identity, 408, "the request did not arrive in time", Connection="close")
        except ClientDisconnect:
            return refusal(identity, 400, "the connection was closed")  # which nobody hears
        except _TooLargeError:
            service.count("refused")
            detail = f"more than {settings.max_bytes} bytes"
            return refusal(identity, 413, detail, "bad", Connection="close")
        except ForeignModelError as error:
            service.count("refused")
            return refusal(identity, 400, str(error), "foreign model")
        except BitstreamError as error:
            service.count("refused")
            return refusal(identity, 400, str(error), "bad")
        except FileExistsError as error:
            service.count("refused")
            return refusal(identity, 409, str(error), "bad")
        except _ReceivingError as error:
            service.count("busy")
            return refusal(identity, 503, str(error), **_AGAIN, Connection="close")
        except BusyError as error:
            return refusal(identity, 503, str(error), **_AGAIN)
        return await answer(identity, future)

    async def answer(identity, future):
        waiting = asyncio.wrap_future(future)
        waiting.add_done_callback(lambda done: done.cancelled() or done.exception())  # else it is logged
        try:
            limit = service.settings.answer_timeout
            result, seconds = await asyncio.wait_for(asyncio.shield(waiting), limit)
        except BitstreamError as error:
            service.count("refused")
            return refusal(identity, 400, str(error), "bad")
        except asyncio.TimeoutError:
            return refusal(identity, 504, "it takes longer than allowed: ask again", **_AGAIN)
        except OSError:
            detail = "the server cannot write results: try another one, or later"
            return refusal(identity, 503, detail, **_AGAIN)
        except Exception:
            return refusal(identity, 500, "internal error")
        return JSONResponse(result, headers={"X-Cloud-Seconds": f"{seconds:.6f}"})

    @app.get("/healthz")
    async def health():
        if service.stopping:
            return JSONResponse({"status": "stopping"}, status_code=503)
        error = await asyncio.to_thread(service.storage_error)
        if error is not None:
            about = {"status": "failing", "detail": f"results cannot be written: {error.strerror}"}
            return JSONResponse(about, status_code=503)
        return JSONResponse({"status": "ok"})

    @app.get("/metrics")
    async def metrics():
        return PlainTextResponse(_prometheus(service.metrics()))

    return app


class _ReceivingError(BusyError):
    """Too many bytes are being received."""


class _Receiver:
    """Reads the bodies of requests, and keeps no more than `max_receiving` bytes of all together."""

    def __init__(self, settings):
        self._settings = settings
        self._receiving = 0

    async def body(self, request, keep):
        """Reads the body of a request.

        Args:
            request (Request): whose body is read to its end.
            keep (bool): whether the body is wanted.

        Returns:
            (str, bytes): as :func:`compute_digest` of the body, and the body, empty if it is not kept.

        Raises:
            _TooLargeError, _ReceivingError: see there.
        """
        most = self._settings.max_bytes
        declared = request.headers.get("content-length", "0")
        if declared.isdecimal() and int(declared) > most:
            raise _TooLargeError
        digest, body, size = hashlib.sha256(), bytearray(), 0
        try:
            async for chunk in request.stream():
                size += len(chunk)
                if size > most:
                    raise _TooLargeError
                digest.update(chunk)
                if keep:
                    body += chunk
                    self._receiving += len(chunk)
                    if self._receiving > self._settings.max_receiving:
                        raise _ReceivingError("the server is busy: try again")
            return digest.hexdigest()[:DIGEST_LENGTH], bytes(body)
        finally:
            self._receiving -= len(body)


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
