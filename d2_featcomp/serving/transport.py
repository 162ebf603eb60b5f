"""How a client reaches a server: its URL, and TLS."""

import dataclasses
import functools
import re
import ssl
import time
import urllib.parse

__all__ = ["ClientTls", "describe_tls_files", "find_tls_problem", "make_url"]

# What OpenSSL finds in a certificate (X509_V_ERR_...), by what can be done about it.
_TIMES = (9, 10)  # not yet valid, expired
_HOSTS = (62, 64)  # of another host, of another IP address


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
            raise ValueError(describe_tls_files(dataclasses.astuple(self), error)) from error
        return context


def describe_tls_files(files, error):
    """Tells what is wrong with files for TLS.

    Args:
        files (sequence[str or None]): their paths.
        error (OSError): that reading them ended with; also `ssl.SSLError`.

    Returns:
        str: for the user.
    """
    named = ", ".join(filter(None, files))
    if not isinstance(error, ssl.SSLError):
        return f"no TLS with {named}: {error}"
    reason = (error.reason or "").lower().replace("_", " ")
    if "mismatch" in reason:
        hint = "the private key is of another certificate"
    elif "no certificate" in reason:
        hint = "a file holds no certificate (PEM)"
    else:  # OpenSSL does not tell which file
        hint = "a file holds no certificate (PEM), or the private key is missing: give its file, too"
    return f"no TLS with {named}: {hint}"


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
            return f"its certificate is not trusted ({error.verify_message}): {_advise(error)}"
        if isinstance(error, ssl.SSLError) and not isinstance(
            error, (ssl.SSLEOFError, ssl.SSLZeroReturnError, ssl.SSLSyscallError)
        ):
            reason = (error.reason or str(error)).replace("_", " ").lower()
            if reason == "wrong version number":
                return "it answers without TLS: give --connect http://..., or is it another server?"
            return f"{reason}; if it asks for certificates of clients, give --client-cert"
        error = error.__cause__ or error.__context__
    return None


def _advise(error):
    """What to do about a certificate that is not trusted."""
    if error.verify_code in _TIMES:
        now = time.strftime("%Y-%m-%d %H:%M UTC", time.gmtime())
        return f"the server needs another one, or the clock of this machine is wrong ({now})"
    if error.verify_code in _HOSTS:
        return "give --connect a name or address that is in it (its subjectAltName)"
    return "give the certificate of who signed it, --ca-file"


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
