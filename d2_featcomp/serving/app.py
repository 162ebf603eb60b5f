"""The cloud sub-model as a web service, on FastAPI.

FastAPI on uvicorn: HTTP passes every proxy and load balancer as it is, can be tried with curl, and both
are kept by many; gRPC would save little, since a request is one blob of kilobytes.
"""

import asyncio
import contextlib
import logging
import time
import urllib.parse

from ..codecs import BitstreamError
from . import api_description as described
from .access import AccessControl, find_client
from .client_limits import ClientLimits, LimitedError
from .clients import ClientTable
from .gallery import Gallery
from .pages import add_pages
from .protocol import NAME_HEADER, BusyError, ForeignModelError
from .receiver import Receiver, ReceivingError, TooLargeError
from .server import require_digest, require_id
from .spool import is_stream_id

__all__ = ["NAME_HEADER", "REASONS", "build_app"]

# What a refusal's "reason" says, and clients act on.
REASONS = {
    "bad": "this bitstream will never be taken",
    "foreign model": "a server with the weights that wrote it would take it",
}
_AGAIN = {"Retry_After": "1"}
_LOG = logging.getLogger("d2_featcomp")


def build_app(service, tokens=None):
    """Builds the web application of a service.

    Args:
        service (CloudService): that answers.
        tokens (Tokens or None): one of which all requests but GET /healthz have to give; None: anybody
            may ask.

    Returns:
        FastAPI: PUT and GET /v1/bitstreams/ID (a bitstream, answered with its result; the result
        again), GET /healthz, /metrics, /docs, and a page at /. Each answer about a bitstream names the
        id as "id"; a result names the fingerprint of the edge sub-model as "fingerprint", a final
        refusal one of `REASONS` as "reason".

    Raises:
        ImportError: a package of the extra "serve" is not installed.
    """
    import fastapi
    from fastapi_offline import FastAPIOffline

    @contextlib.asynccontextmanager
    async def lifespan(app):
        yield
        # uvicorn has answered what it had accepted; nothing is left but to end the threads.
        await asyncio.to_thread(service.stop)
        gallery.stop()

    app = FastAPIOffline(
        redoc_url=None, lifespan=lifespan, dependencies=described.security(tokens), **described.APP
    )
    clients, gallery = ClientTable(), Gallery(service)
    uploads = _Uploads(service, clients, gallery)

    @app.put("/v1/bitstreams/{identity}", **described.PUT)
    async def put_bitstream(identity: str, request: fastapi.Request):
        return await uploads.answer(identity, request)

    @app.get("/v1/bitstreams/{identity}", **described.GET)
    async def get_result(identity: str):
        try:
            require_id(identity)
        except BitstreamError as error:
            return _refusal(identity, 400, str(error), "bad")
        result = await asyncio.to_thread(service.folder.read, identity)
        if result is not None:
            return _as_json(result)
        if service.is_pending(identity):
            return _refusal(identity, 202, "it waits or is computed: ask again", **_AGAIN)
        return _refusal(identity, 404, "there is no result of this id: PUT its bitstream")

    @app.get("/healthz", **described.HEALTH)
    async def get_health():
        health = await asyncio.to_thread(service.find_health)
        return _as_json(health, 200 if health["status"] == "ok" else 503)

    add_pages(app, service, clients, gallery)
    if tokens is not None:
        app.add_middleware(AccessControl, tokens=tokens, service=service)
    return app


def _as_json(content, status=200, headers=None):
    from fastapi.responses import JSONResponse

    return JSONResponse(content, status_code=status, headers=headers)


def _refusal(identity, status, detail, reason=None, **headers):
    about = {"detail": detail, "id": identity, **({"reason": reason} if reason else {})}
    names = {name.replace("_", "-"): value for name, value in headers.items()}
    return _as_json(about, status, names)


class _Uploads:
    """Answers uploads, and tells the table of clients and the gallery of each."""

    def __init__(self, service, clients, gallery):
        self._service = service
        self._clients = clients
        self._gallery = gallery
        self._receiver = Receiver(service.settings)
        self._limits = ClientLimits(service.settings)

    async def answer(self, identity, request):
        """Answers a request: a bitstream that is to be computed, or was."""
        client, size = find_client(request.scope), 0
        try:
            with self._limits.admit(client) as admission:
                response = await self._answer(identity, request, client, admission)
                size = admission.size
        except LimitedError as error:
            response = await self._refuse_limited(identity, request, error)
        self._clients.add(client, response.status_code, size)
        return response

    async def _refuse_limited(self, identity, request, error):
        self._service.activity.count("limited")
        headers = {"Retry_After": str(error.retry_after)}
        try:  # a client that still sends would not read the answer
            limit = self._service.settings.receive_timeout
            await asyncio.wait_for(self._receiver.body(request, keep=None), limit)
        except Exception:
            headers["Connection"] = "close"
        return _refusal(identity, 429, str(error), **headers)

    async def _answer(self, identity, request, client, admission):
        from starlette.requests import ClientDisconnect

        settings, count = self._service.settings, self._service.activity.count

        def refuse(status, detail, *arguments, **headers):
            self._clients.add_failure(client, identity, status, detail)
            _LOG.info("%s, %a: %d, %s", client, identity[:200], status, detail)
            return _refusal(identity, status, detail, *arguments, **headers)

        try:
            body, future = await asyncio.wait_for(
                self._find_future(identity, request, admission), settings.receive_timeout
            )
        except asyncio.TimeoutError:
            return refuse(408, "the request did not arrive in time", Connection="close")
        except ClientDisconnect:
            return refuse(400, "the connection was closed")  # which nobody hears
        except TooLargeError:
            count("refused")
            return refuse(413, f"more than {settings.max_bytes} bytes", "bad", Connection="close")
        except ForeignModelError as error:
            count("refused")
            return refuse(400, str(error), "foreign model")
        except BitstreamError as error:
            count("refused")
            return refuse(400, str(error), "bad")
        except FileExistsError as error:
            count("refused")
            return refuse(409, str(error), "bad")
        except ReceivingError as error:
            count("busy")
            return _refusal(identity, 503, str(error), **_AGAIN, Connection="close")
        except BusyError as error:  # not remembered: there are many when there are some
            return _refusal(identity, 503, str(error), **_AGAIN)
        return await self._wait(identity, client, body, future, refuse)

    async def _find_future(self, identity, request, admission):
        """Finds the future of a request's bitstream. A body that is not needed is read, but not kept."""
        service = self._service
        known = await asyncio.to_thread(service.knows, identity)
        keep = admission.add_bytes if is_stream_id(identity) and not known else None
        digest, body = await self._receiver.body(request, keep)
        if known:
            require_digest(identity, digest)
            future = await asyncio.to_thread(service.repeat, identity)
            if future is None:
                raise BusyError("its computation has just failed: ask again")
            return body, future
        name = request.headers.get(NAME_HEADER)
        name = None if name is None else urllib.parse.unquote(name, errors="surrogateescape")[:1000]
        return body, await asyncio.to_thread(service.submit, identity, body, name)

    async def _wait(self, identity, client, body, future, refuse):
        start = time.monotonic()
        waiting = asyncio.wrap_future(future)
        waiting.add_done_callback(lambda done: done.cancelled() or done.exception())  # else it is logged
        try:
            limit = self._service.settings.answer_timeout
            result, seconds = await asyncio.wait_for(asyncio.shield(waiting), limit)
        except BitstreamError as error:
            self._service.activity.count("refused")
            return refuse(400, str(error), "bad")
        except asyncio.TimeoutError:
            return refuse(504, "it takes longer than allowed: ask again", **_AGAIN)
        except OSError:
            return refuse(503, "the server cannot write results: try another one, or later", **_AGAIN)
        except Exception:
            return refuse(500, "internal error")
        if body:
            self._gallery.add(client, result, body, time.monotonic() - start)
        return _as_json(result, headers={"X-Cloud-Seconds": f"{seconds:.6f}"})
