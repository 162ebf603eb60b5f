"""How a client reaches a server: its URL, and TLS."""

import dataclasses
import functools
import re
import ssl
import urllib.parse

__all__ = ["ClientTls", "find_tls_problem", "make_url"]


@dataclasses.dataclass(frozen=True)
class ClientTls:
    """Files for TLS, each PEM.

    Attributes:
        ca (str or None): certificates of who signs the server's; None: those that httpx trusts.
        cert (str or None): of this client, and those that signed it, where the server asks for one.
        key (str or None): its private key; None: in the same file.
    """

    ca: str | None = None
    cert: str | None = None
    key: str | None = None

    def make_context(self):
        """Makes what a connection is set up with.

        Returns:
            ssl.SSLContext

        Raises:
            ValueError: a file is missing, unreadable, or does not fit the others.
        """
        if not any(dataclasses.astuple(self)):
            return _read_certificates()
        if self.key and not self.cert:
            raise ValueError("a private key of a client goes with its certificate: give --client-cert")
        try:
            context = ssl.create_default_context(cafile=self.ca) if self.ca else _make_default()
            if self.cert:
                context.load_cert_chain(self.cert, self.key)
        except (OSError, ssl.SSLError) as error:
            files = ", ".join(filter(None, dataclasses.astuple(self)))
            raise ValueError(f"no TLS with {files}: {error}") from error
        return context


def _make_default():
    import httpx

    return httpx.create_ssl_context()


@functools.cache
def _read_certificates():
    """ssl.SSLContext: httpx's own default, which takes 50 ms to make, once for all clients."""
    return _make_default()


def find_tls_problem(error):
    """Finds out what is wrong with certificates or the protocol, which another attempt will not change.

    Args:
        error (Exception): that a request ended with.

    Returns:
        str or None: for the user; None: the network failed.
    """
    while error is not None:
        if isinstance(error, ssl.SSLCertVerificationError):
            return (
                f"its certificate is not trusted ({error.verify_message}): give the certificate of who "
                "signed it, --ca-file"
            )
        if isinstance(error, ssl.SSLError) and not isinstance(
            error, (ssl.SSLEOFError, ssl.SSLZeroReturnError, ssl.SSLSyscallError)
        ):
            reason = (error.reason or str(error)).replace("_", " ").lower()
            hint = "is it a server with TLS, and if it asks for certificates of clients, --client-cert?"
            return f"{reason}; {hint}"
        error = error.__cause__ or error.__context__
    return None


def make_url(address, tls=None):
    """Makes the URL of an address that a user gave.

    Args:
        address (str): HOST:PORT, [IPV6]:PORT, or a URL of http or https.
        tls (ClientTls or None): with it, HOST:PORT is reached by https.

    Returns:
        str

    Raises:
        ValueError: it is none, or a URL without encryption where there are files for TLS.
    """
    url = address if "://" in address else f"{'http' if tls is None else 'https'}://{address}"
    problem = ""
    try:
        parts = urllib.parse.urlsplit(url)
        host, port = parts.hostname or "", parts.port
    except ValueError as error:
        problem = f" ({error})"
    if (
        problem
        or parts.scheme not in ("http", "https")
        or not re.fullmatch(r"[\w.:%-]+", host)
        or port == 0
        or parts.netloc.endswith(":")
        or parts.path.startswith("//")
    ):
        raise ValueError(
            f"{address!r} is no address of a server{problem}: give HOST:PORT, with an IPv6 address in "
            "brackets, as in [::1]:8000, or a URL of http or https"
        )
    if tls is not None and parts.scheme != "https":
        raise ValueError(f"{address!r} is not encrypted: certificates go with https")
    return url
