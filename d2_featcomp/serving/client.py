"""The edge's side of the network: sends bitstreams until they have arrived."""

import contextlib
import dataclasses
import ipaddress
import random
import time
import urllib.parse

from ..codecs import BitstreamError, DecodeLimits, FeatureBitstream
from ..errors import describe_import_error
from .access import is_loopback
from .deadline import limit_answers
from .protocol import NAME_HEADER, ForeignModelError
from .spool import read_name
from .transport import ClientTls, find_tls_problem, make_url

__all__ = [
    "AccessDeniedError",
    "CloudClient",
    "RefusedError",
    "ServerFaultError",
    "WrongServerError",
    "read_fingerprint",
]

# Busy or stopping: another attempt may be answered; a fault of the server's: perhaps; and what is final.
_BUSY = (408, 429, 503)
_FAULT = (500, 502, 504)
_REFUSED = (400, 409, 413)
_DAY = 86400
_MAX_ANSWER_BYTES = 2**28
_OF_CODING = ("content-encoding", "content-length", "transfer-encoding")  # headers


class RefusedError(ValueError):
    """The server will never take this bitstream: it is damaged or too large."""


class ServerFaultError(RuntimeError):
    """The server failed with this bitstream, each time that it was sent; others may fare better."""


class WrongServerError(ValueError):
    """The server that answered is none of this program's: another service, a proxy, a login page."""


class AccessDeniedError(WrongServerError):
    """The server asks for a token, and this client's, if it has one, is none of them."""


class CloudClient:
    """Sends bitstreams to a :class:`CloudService` over HTTP.

    Args:
        address (str): HOST:PORT, [IPV6]:PORT, or a URL of http or https.
        timeout (float): seconds to wait for a connection, and for each whole answer; at most a day.
        attempts (int): for each bitstream, before it is left for later.
        backoff (float): seconds before the second attempt; doubled each time, up to 30, and varied at
            random so that many clients do not come at once.
        sleep (callable): waits for so many seconds.
        token (str or None): that the server asks for.
        tls (ClientTls or None): whom to trust, and who this client is.

    Attributes:
        problem (str): why the last bitstream was left for later, if it was.

    Raises:
        ImportError: the package httpx is not installed. ValueError: the address is none, a number is out
        of range, or a file for TLS is missing or unfit.
    """

    def __init__(
        self,
        address,
        *,
        timeout=30.0,
        attempts=5,
        backoff=0.5,
        sleep=time.sleep,
        token=None,
        tls=None,
    ):
        try:
            import httpx
        except ImportError as error:
            need, how = "sending over a network needs httpx", "pip install 'd2_featcomp[edge]'"
            raise ImportError(describe_import_error(error, need, how, "httpx")) from error
        if not 0 < timeout <= _DAY or attempts < 1:
            raise ValueError(
                f"timeout {timeout} and attempts {attempts}: they must be above 0, and the timeout at "
                f"most {_DAY} seconds"
            )
        self._httpx = httpx
        url, context = make_url(address, tls), (tls or ClientTls()).make_context()
        headers = {} if token is None else {"Authorization": f"Bearer {token}"}
        proxies = not _is_this_machine(urllib.parse.urlsplit(url).hostname)
        options = {"timeout": timeout, "verify": context, "headers": headers, "trust_env": proxies}
        try:
            self._client = httpx.Client(base_url=url, **options)
        except httpx.InvalidURL as error:
            raise ValueError(f"{address!r} is no address of a server: {error}") from error
        limit_answers(self._client)
        self._attempts = attempts
        self._backoff = backoff
        self._sleep = sleep
        self._random = random.Random()
        self._answered = False  # whether a server was ever there
        self.problem = ""

    def __enter__(self):
        return self

    def __exit__(self, *error):
        self.close()

    def send(self, identity, data, name=None, patient=True):
        """Sends one bitstream; the same one sent again is not computed again.

        Args:
            identity (str): of :func:`make_stream_id`.
            data (bytes): the bitstream.
            name (str or None): of the image; None takes it from the id.
            patient (bool): False makes no other attempt where no answer arrives.

        Returns:
            (dict, float) or None: the result, as :func:`make_result` gives, and the seconds that the
            cloud sub-model took; None if the server was not reached or stayed busy.

        Raises:
            RefusedError, ForeignModelError, ServerFaultError, WrongServerError, AccessDeniedError: see
            there.
        """
        headers = {}
        if name not in (None, read_name(identity)):
            headers[NAME_HEADER] = urllib.parse.quote(name, safe="", errors="surrogateescape")
        answer = None
        for attempt in range(self._attempts):
            try:
                answer = self._put(f"/v1/bitstreams/{identity}", data, headers)
            except self._httpx.TransportError as error:
                if problem := find_tls_problem(error):
                    raise WrongServerError(f"no TLS with {self._client.base_url}: {problem}") from error
                answer, self.problem = None, self._describe(error)
            except self._httpx.HTTPError as error:  # e.g. a compression that is none
                raise self._wrong_server(str(error)) from error
            self._answered = self._answered or answer is not None
            if answer is not None and answer.status_code not in (*_BUSY, *_FAULT):
                return self._final(answer, identity, data)
            if answer is None and not patient:
                return None
            if attempt + 1 < self._attempts:
                wait = min(self._backoff * 2**attempt, 30) * self._random.uniform(0.5, 1.5)
                self._sleep(max(wait, _asked_wait(answer)))
        if answer is not None and answer.status_code in _FAULT:
            raise ServerFaultError(f"{answer.status_code}: {_reason(answer)}")
        if answer is not None:
            self.problem = f"{answer.status_code}: {_reason(answer)}"
        return None

    def _put(self, path, data, headers):
        """The httpx.Response to a request, read up to a limit."""
        with self._client.stream("PUT", path, content=data, headers=headers) as answer:
            parts, size = [], 0
            for part in answer.iter_bytes():
                size += len(part)
                if size > _MAX_ANSWER_BYTES:
                    raise self._httpx.TransportError(
                        f"it answers more than {_MAX_ANSWER_BYTES} bytes, which no result has"
                    )
                parts.append(part)
        kept = [pair for pair in answer.headers.multi_items() if pair[0].lower() not in _OF_CODING]
        return self._httpx.Response(answer.status_code, headers=kept, content=b"".join(parts))

    def _describe(self, error):
        text = f"{self._client.base_url}: {error or type(error).__name__}"
        # By TLS 1.3 a client learns only so that it should have had a certificate.
        closed = isinstance(error, (self._httpx.RemoteProtocolError, self._httpx.ReadError))
        if closed and self._client.base_url.scheme == "https":
            text += " Does it ask for a certificate, --client-cert?"
        elif closed and not self._answered:
            text += " Is it a server with TLS? Then give --connect https://..."
        return text

    def _final(self, answer, identity, data):
        """The result in an answer that another attempt would not change; raises if it is none."""
        status, content = answer.status_code, _content(answer)
        if status == 401:
            raise AccessDeniedError(
                f"the server at {self._client.base_url} does not know this client: give a token that it "
                "accepts, in the file of --token-file"
            )
        if content.get("id") != identity or status not in (200, *_REFUSED):
            raise self._wrong_server(f"{status} ({_reason(answer)})")
        if status != 200:
            error = ForeignModelError if content.get("reason") == "foreign model" else RefusedError
            raise error(f"{status}: {_reason(answer)}")
        if content.get("fingerprint") != read_fingerprint(data):
            raise self._wrong_server(
                f"with a result of the model {content.get('fingerprint')!r} to a bitstream of "
                f"{read_fingerprint(data)!r}"
            )
        return content, _seconds(answer)

    def _wrong_server(self, told):
        return WrongServerError(
            f"the server at {self._client.base_url} answers {told}, which is no answer to this "
            "bitstream: is it the address of featcomp serve, of this release, and does nothing "
            "before it, such as a proxy or a login page, answer in its place?"
        )

    def is_private(self):
        """Tells whether nobody on the way can read what is sent: it is encrypted, or stays on this
        machine."""
        url = self._client.base_url
        with contextlib.suppress(ValueError):
            return url.scheme == "https" or is_loopback(url.host)
        return False  # there is no such host, at least not now

    def close(self):
        self._client.close()


def _is_this_machine(host):
    """Whether a host is this machine, which no proxy reaches; no name but "localhost" is looked up."""
    with contextlib.suppress(ValueError):
        return host == "localhost" or ipaddress.ip_address(host).is_loopback
    return False


def read_fingerprint(data):
    """Reads the fingerprint of a bitstream, in hexadecimal; None if it is damaged."""
    limits = DecodeLimits(*(2**62 for _ in dataclasses.fields(DecodeLimits)))  # no matter how large
    try:
        return FeatureBitstream.from_bytes(data, limits).fingerprint.hex()
    except BitstreamError:
        return None


def _content(answer):
    """Reads the JSON object of an answer; {} if there is none."""
    try:
        content = answer.json()
    except ValueError:
        return {}
    return content if isinstance(content, dict) else {}


def _seconds(answer):
    try:
        return float(answer.headers["x-cloud-seconds"])
    except (KeyError, ValueError):
        return float("nan")


def _asked_wait(answer):
    """Seconds that a busy server asked to wait."""
    try:
        return min(float(answer.headers["retry-after"]), 30.0)
    except (AttributeError, KeyError, ValueError):
        return 0.0


def _reason(answer):
    """Reads the reason in an answer, in one short line."""
    told = _content(answer).get("detail") or answer.text
    return " ".join(str(told)[:1000].split())[:200] or "nothing"
