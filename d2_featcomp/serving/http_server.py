"""Runs a service's web application on uvicorn, with limits on what connections may cost, and TLS."""

import asyncio
import contextlib
import dataclasses
import functools
import logging
import ssl
import time

from ..errors import describe_import_error
from .app import build_app
from .transport import describe_tls_files

__all__ = ["TlsFiles", "build_server", "run_server"]

_BACKLOG = 128  # connections that the system holds before they are accepted
_SPARE_FILES = 128  # open files beside connections
_ALIKE = 10  # lines in a log, of one kind in a minute
_MINUTE = 60.0
_TOO_MANY = (
    b"HTTP/1.1 503 Service Unavailable\r\nContent-Type: application/json\r\nRetry-After: 1\r\n"
    b'Connection: close\r\nContent-Length: 33\r\n\r\n{"detail":"too many connections"}'
)


@dataclasses.dataclass(frozen=True)
class TlsFiles:
    """Files for TLS, each PEM.

    Attributes:
        cert (str): the server's certificate and those that signed it.
        key (str or None): its private key; None: in the same file.
        client_ca (str or None): certificates of who signs those of clients, which then have to have one.
    """

    cert: str
    key: str | None = None
    client_ca: str | None = None

    def check(self):
        """Raises ValueError if a file is missing, unreadable, or does not fit the others."""
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        try:
            context.load_cert_chain(self.cert, self.key, password=_ask_nobody)
            if self.client_ca:
                context.load_verify_locations(self.client_ca)
        except (OSError, ssl.SSLError) as error:
            raise ValueError(describe_tls_files(dataclasses.astuple(self), error)) from error


def _ask_nobody():
    raise OSError("the private key has a password: remove it, e.g. by openssl pkey")


def run_server(load, host, port, tokens=None, tls=None):
    """Serves until the process is told to stop (SIGINT or SIGTERM), and has answered what it accepted.

    Args:
        load (callable): makes the :class:`CloudService` that answers, when all it needs is there.
        host (str): name or address to listen at.
        port (int): 0 chooses a free one.
        tokens (Tokens or None): see :func:`build_app`.
        tls (TlsFiles or None): to encrypt.

    Raises:
        ImportError: FastAPI, uvicorn or another package of the extra is not installed.
        ValueError: the files for TLS are none.
    """
    with contextlib.suppress(KeyboardInterrupt):  # after it has ended
        build_server(load, host, port, tokens, tls).run()


def build_server(load, host, port, tokens=None, tls=None):
    """As :func:`run_server`, but returns the uvicorn.Server, to be run."""
    try:
        import fastapi_offline  # noqa: F401 - of the application, as the next one
        import prometheus_client  # noqa: F401
        import uvicorn
    except ImportError as error:
        need = "a server needs FastAPI, fastapi-offline, uvicorn and prometheus_client"
        packages = ("fastapi", "fastapi_offline", "prometheus_client", "uvicorn")
        how = "pip install 'd2_featcomp[serve]'"
        raise ImportError(describe_import_error(error, need, how, *packages)) from error
    if tls is not None:
        tls.check()
    service = load()
    most = _allow_files(service.settings.max_connections)
    config = uvicorn.Config(
        build_app(service, tokens),
        host=host,
        port=port,
        http=_limited_protocol(service.settings, most),
        ws="none",
        log_level="info",
        access_log=False,
        server_header=False,
        timeout_keep_alive=service.settings.idle_timeout,
        backlog=_BACKLOG,
        **_tls_options(tls),
    )
    for name in ("asyncio", "uvicorn.error", "d2_featcomp"):
        logging.getLogger(name).addFilter(_FEWER_LINES)
    server = uvicorn.Server(config)
    if tls is not None:
        server.startup = functools.partial(_limit_handshakes, server.startup, service.settings)
    return server


def _tls_options(tls):
    if tls is None:
        return {}
    options = {"ssl_certfile": tls.cert, "ssl_keyfile": tls.key}
    if tls.client_ca:
        options.update(ssl_ca_certs=tls.client_ca, ssl_cert_reqs=ssl.CERT_REQUIRED)
    return options


async def _limit_handshakes(startup, settings, *arguments, **options):
    """Starts a server whose TLS handshakes have a time limit: until one is done, the connection is none
    that :func:`_limited_protocol` could close, and uvicorn passes on no limit of its own."""
    loop = asyncio.get_running_loop()
    create_server = loop.create_server
    loop.create_server = functools.partial(create_server, ssl_handshake_timeout=settings.header_timeout)
    try:
        await startup(*arguments, **options)
    finally:
        loop.create_server = create_server


def _allow_files(connections):
    """Lets the process open as many files as it needs; the connections that it then can hold."""
    try:
        import resource
    except ImportError:  # Windows, which has no such limit
        return connections
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft == resource.RLIM_INFINITY:
        return connections
    needed = connections + _BACKLOG + _SPARE_FILES
    if soft < needed:
        soft = needed if hard == resource.RLIM_INFINITY else min(needed, hard)
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    return max(1, min(connections, soft - _BACKLOG - _SPARE_FILES))


def _limited_protocol(settings, most):
    """A class: uvicorn's HTTP, of at most so many connections, each with a time for all it does."""
    from uvicorn.protocols.http.h11_impl import H11Protocol

    # To arrive, to be computed and to be read by who asked.
    request_time = 2 * settings.receive_timeout + settings.answer_timeout

    class LimitedProtocol(H11Protocol):
        deadline = None
        watched = ()
        idle_since = 0.0

        def connection_made(self, transport):
            super().connection_made(transport)
            if len(self.connections) > most and not self.make_room():
                transport.write(_TOO_MANY)
                transport.close()
            self.watch(settings.header_timeout)

        def make_room(self):
            """Closes the connection that has asked nothing for the longest time. False: none."""
            others = (one for one in self.connections if one is not self and one.is_idle())
            oldest = min(others, key=lambda one: one.idle_since, default=None)
            if oldest is None:
                return False
            oldest.end()
            return True

        def is_idle(self):
            """Tells whether no request is being received or answered, beyond an incomplete head."""
            return self.cycle is None or self.cycle.response_complete

        def watch(self, idle_time=settings.idle_timeout):
            """Starts a new deadline, where a request has begun or ended since the last call."""
            now = (self.cycle, self.is_idle())
            if now == self.watched:
                return
            self.watched = now
            self.idle_since = time.monotonic()
            if self.deadline is not None:
                self.deadline.cancel()
            self.deadline = self.loop.call_later(idle_time if now[1] else request_time, self.end)

        def end(self):
            self.connections.discard(self)  # it counts no more, though the transport may take a moment
            self.transport.abort()

        def data_received(self, data):
            super().data_received(data)
            self.watch()

        def on_response_complete(self):
            super().on_response_complete()
            self.watch()

        def connection_lost(self, error):
            super().connection_lost(error)
            if self.deadline is not None:
                self.deadline.cancel()

    return LimitedProtocol


class _FewerLines(logging.Filter):
    """Lets only so many lines of one kind pass in a minute: nobody can fill the disk with a log."""

    def __init__(self):
        super().__init__()
        self._seen = {}  # kind -> (start of its minute, lines since)

    def filter(self, record):
        kind = (record.name, str(record.msg)[:40])
        start, count = self._seen.get(kind, (record.created, 0))
        if record.created - start >= _MINUTE:
            if count > _ALIKE:
                record.msg = f"({count - _ALIKE} more of these were not logged) {record.msg}"
            start, count = record.created, 0
        if len(self._seen) > 1000:  # kinds that nobody foresaw
            self._seen.clear()
        self._seen[kind] = start, count + 1
        return count < _ALIKE


_FEWER_LINES = _FewerLines()
