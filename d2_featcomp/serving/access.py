"""Who may use a server: bearer tokens, which browsers give as a password."""

import asyncio
import base64
import binascii
import contextlib
import hashlib
import ipaddress
import json
import logging
import os
import socket
import time

__all__ = [
    "OPEN_PATHS",
    "AccessControl",
    "TokenFile",
    "Tokens",
    "find_client",
    "is_loopback",
    "read_tokens",
]

MIN_TOKEN_LENGTH = 16
OPEN_PATHS = ("/healthz",)  # that load balancers ask
_READ_PERIOD = 1.0  # seconds, in which a file of tokens is looked at once
_CLIENT = "d2_featcomp.client"
_NAME_LENGTH = 64
_CHALLENGES = (b'Bearer realm="featcomp"', b'Basic realm="featcomp", charset="UTF-8"')
_HOW = (
    'this server asks for a token: send the header "Authorization: Bearer TOKEN" (featcomp edge '
    "--token-file), or in a browser the token as the password, with any user name"
)


class Tokens:
    """Tokens that a server accepts. Only their digests are kept.

    Args:
        names (dict[str, str or None]): token -> name of the client that has it; None tells clients apart
            by their addresses.
    """

    def __init__(self, names):
        self._names = {self._digest(token): name for token, name in names.items()}

    @staticmethod
    def _digest(token):
        return hashlib.sha256(token.encode("utf-8", "surrogateescape")).digest()

    def find(self, token):
        """Finds a token.

        Args:
            token (str): that a client sent. What is compared is its digest, so the time that this takes
                tells nothing about the tokens.

        Returns:
            (bool, str or None): whether it is valid, and the name of its client.
        """
        digest = self._digest(token)
        return digest in self._names, self._names.get(digest)


class TokenFile(Tokens):
    """Tokens of a file, which is read again when it has changed, so that they can be changed while a
    server runs. Where it then cannot be read, those that were read before stay valid, and the log tells
    why.

    Args:
        path (str): see :func:`read_tokens`, which tells what is raised.
    """

    def __init__(self, path):
        self._path, self._looked = path, time.monotonic()
        self._version = self._find_version()
        super().__init__(read_tokens(path))

    def find(self, token):
        """See :meth:`Tokens.find`."""
        if time.monotonic() - self._looked > _READ_PERIOD:
            self._looked = time.monotonic()
            self._read_again()
        return super().find(token)

    def _read_again(self):
        version = self._find_version()
        if version == self._version:
            return
        self._version = version
        log = logging.getLogger("d2_featcomp")
        try:
            super().__init__(read_tokens(self._path))
        except (OSError, ValueError) as error:
            log.error("the tokens of before stay valid: %s", error)
        else:
            log.info("%r has changed: it holds %d tokens now", self._path, len(self._names))

    def _find_version(self):
        """What differs when the file does; None if there is none."""
        try:
            found = os.stat(self._path)
        except OSError:
            return None
        return found.st_mtime_ns, found.st_size, found.st_ino


def read_tokens(path):
    """Reads a file of tokens.

    Args:
        path (str): a text file: a line "TOKEN" or "NAME TOKEN" for each; lines that begin with "#" and
            empty ones are left out.

    Returns:
        dict[str, str or None]: token -> name, in the order of the file.

    Raises:
        ValueError: a line is malformed, a token too short or there twice, or there is none.
        OSError: it cannot be read.
    """
    with open(path, encoding="utf-8") as file:
        lines = file.read().splitlines()
    found = {}
    for number, line in enumerate(lines, start=1):
        words = line.split()
        if not words or words[0].startswith("#"):
            continue
        *name, token = words
        problem = None
        if len(name) > 1 or not token.isascii() or not token.isprintable():
            problem = 'is neither "TOKEN" nor "NAME TOKEN", of ASCII characters'
        elif len(token) < MIN_TOKEN_LENGTH:
            problem = f"has a token of fewer than {MIN_TOKEN_LENGTH} characters"
        elif token in found:
            problem = "has a token that is there already"
        if problem:  # the line itself is a secret
            raise ValueError(f"{path!r}: line {number} {problem}")
        found[token] = name[0][:_NAME_LENGTH] if name else None
    if not found:
        raise ValueError(
            f"{path!r} holds no token: write one into it, e.g. by python -c "
            "'import secrets; print(secrets.token_urlsafe(32))'"
        )
    return found


def is_loopback(host):
    """Tells whether only this machine can reach what listens at a host.

    Raises:
        ValueError: there is no such host.
    """
    try:
        found = {entry[4][0] for entry in socket.getaddrinfo(host, None)}
    except (OSError, UnicodeError) as error:
        raise ValueError(f"{host!r} is no host to listen at: {error}") from error
    return all(ipaddress.ip_address(address.partition("%")[0]).is_loopback for address in found)


class AccessControl:
    """An ASGI application around another: answers 401 to requests without a valid token.

    Args:
        app (callable): ASGI application behind it.
        tokens (Tokens): that are valid.
        service (CloudService): counts what is turned away; its settings limit what is read of it.
    """

    def __init__(self, app, tokens, service):
        self._app = app
        self._tokens = tokens
        self._service = service

    async def __call__(self, scope, receive, send):
        if scope["type"] != "http" or _path(scope) in OPEN_PATHS:
            return await self._app(scope, receive, send)
        token = _read_token(dict(scope["headers"]).get(b"authorization", b""))
        valid, name = self._tokens.find(token) if token is not None else (False, None)
        if valid:
            return await self._app({**scope, _CLIENT: name}, receive, send)
        self._service.activity.count("unauthorized")
        logging.getLogger("d2_featcomp").info("%s: 401, no valid token", find_client(scope))
        return await self._refuse(receive, send)

    async def _refuse(self, receive, send):
        # A client that still sends would not read the answer: so read, and keep nothing.
        settings = self._service.settings
        with contextlib.suppress(asyncio.TimeoutError):
            await asyncio.wait_for(_discard(receive, settings.max_bytes), settings.receive_timeout)
        body = json.dumps({"detail": _HOW}).encode()
        headers = [
            *((b"www-authenticate", challenge) for challenge in _CHALLENGES),
            (b"content-type", b"application/json"),
            (b"content-length", str(len(body)).encode()),
            (b"connection", b"close"),
        ]
        await send({"type": "http.response.start", "status": 401, "headers": headers})
        await send({"type": "http.response.body", "body": body})


def find_client(scope):
    """Names the client of a request: by its token or, where that has no name, by its address.

    Args:
        scope (dict): ASGI's, of a request that :class:`AccessControl` let pass, if there is one.

    Returns:
        str: at most 64 printable characters.
    """
    host = (scope.get("client") or ("unknown",))[0]
    name = scope.get(_CLIENT) or host
    return "".join(c if c.isprintable() else "?" for c in name[:_NAME_LENGTH])


def _path(scope):
    """The path below the one at which the application is mounted."""
    path, root = scope["path"], scope.get("root_path", "").rstrip("/")
    return path[len(root) :] if root and path.startswith(f"{root}/") else path


def _read_token(header):
    """Reads the token in a header "Authorization"; None if there is none."""
    scheme, _, value = header.decode("latin-1").strip().partition(" ")
    value = value.strip()
    if scheme.lower() == "bearer":
        return value
    if scheme.lower() == "basic":
        try:
            return base64.b64decode(value, validate=True).decode("utf-8").partition(":")[2]
        except (binascii.Error, UnicodeDecodeError):
            return None
    return None


async def _discard(receive, most):
    size = 0
    while size <= most:
        message = await receive()
        if message["type"] != "http.request":
            return
        size += len(message.get("body", b""))
        if not message.get("more_body"):
            return
