"""What `featcomp serve` does: from the options of a command line to a server."""

import logging
import os
import signal
import socket
import sys
from functools import partial

from ..codecs import DecodeLimits
from ..files import prepare_file
from .access import TokenFile, is_loopback
from .deployment import load_service
from .http_server import TlsFiles, run_server

__all__ = ["list_server_options", "read_limits", "serve"]

# Options that are settings of the same name, but for the first one's.
_SETTINGS = {
    "queue": "queue_size",
    **{
        name: name
        for name in (
            *("max_bytes", "max_answer_bytes", "max_connections", "receive_timeout", "answer_timeout"),
            *("client_requests", "client_bytes", "client_rate", "score_threshold"),
        )
    },
}


def serve(cfg, weights, args):
    """Runs the server until SIGTERM.

    Args:
        cfg (CfgNode): of the split network.
        weights (str): file of the cloud sub-model.
        args (Namespace): serve, output, classes, limits and access of `featcomp serve`; None for a limit
            is the default.

    Raises:
        ValueError: a mistake in the options, or the server would listen to anybody.
        OSError: a file is missing.
    """
    host, port = _read_address(args.serve)
    tls = _read_tls(args)
    tokens = TokenFile(args.token_file) if args.token_file else None
    _require_access(args, host, tokens, tls)
    settings = {
        setting: getattr(args, option)
        for option, setting in _SETTINGS.items()
        if getattr(args, option) is not None
    }
    limits = read_limits(args)
    load = partial(load_service, cfg, weights, args.output, args.classes, **settings, limits=limits)
    _require_free(host, port)  # before the network is loaded
    _require_writable(args.output)

    def load_and_tell():
        service = load()
        about = service.about
        logging.getLogger("d2_featcomp").info(
            "%s takes bitstreams of model %s (%s, split %s, codec %s, on %s); results go to %r",
            *(weights, about["fingerprint"], about["network"], about["split"], about["codec"]),
            *(about["device"], args.output),
        )
        return service

    # uvicorn raises the signal again when all that was accepted is answered.
    signal.signal(signal.SIGTERM, lambda number, frame: sys.exit(0))
    run_server(load_and_tell, host, port, tokens, tls)


def list_server_options(args):
    """Lists the given options that are of a server alone, e.g. "--queue"."""
    access = ("token_file", "allow_anonymous", "tls_cert", "tls_key", "tls_client_ca")
    names = [name for name in (*_SETTINGS, *access) if name != "score_threshold"]
    given = [name for name in names if getattr(args, name) not in (None, False)]
    return [f"--{name.replace('_', '-')}" for name in given]


def read_limits(args):
    """DecodeLimits of `--max-pixels`, of images as the network gets them and of the originals, however
    much larger these are."""
    if args.max_pixels is None:
        return DecodeLimits()
    if args.max_pixels < 1:
        raise ValueError(f"--max-pixels is {args.max_pixels}: give a number of pixels, e.g. 24000000")
    original = max(args.max_pixels, DecodeLimits.max_original_pixels)
    return DecodeLimits(
        max_image_pixels=args.max_pixels, max_original_pixels=original, max_enlargement=original
    )


def _read_address(address):
    host, _, port = address.rpartition(":")
    if not host or not port.isdecimal() or int(port) > 65535:
        raise ValueError(f"the address is {address!r}: give HOST:PORT, e.g. 127.0.0.1:8000")
    return host.strip("[]"), int(port)


def _require_free(host, port):
    """Raises ValueError if nobody can listen at an address, e.g. because another server does."""
    family = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0][0]
    try:
        socket.create_server((host, port), family=family).close()
    except OSError as error:
        reason = os.strerror(error.errno).lower()
        raise ValueError(f"no server can listen at {host}:{port} ({reason}): choose another") from error


def _require_writable(folder):
    """Makes the folder of results; raises ValueError if nothing can be written into it."""
    try:
        prepare_file(os.path.join(folder, f"{'0' * 16}.json"))
    except OSError as error:
        reason = (getattr(error.__cause__, "strerror", None) or str(error)).lower()
        raise ValueError(
            f"results cannot be written into {folder!r} ({reason}): choose another --output"
        ) from error


def _read_tls(args):
    if not args.tls_cert:
        if args.tls_key or args.tls_client_ca:
            raise ValueError("--tls-key and --tls-client-ca go with --tls-cert, the server's own")
        return None
    tls = TlsFiles(args.tls_cert, args.tls_key, args.tls_client_ca)
    tls.check()
    return tls


def _require_access(args, host, tokens, tls):
    """Refuses to listen to anybody on other machines, unless that is what the user wants."""
    if is_loopback(host):
        return
    if tokens is None and not args.tls_client_ca and not args.allow_anonymous:
        raise ValueError(
            f"other machines can reach {host}: say who may use the server, by --token-file or "
            "--tls-client-ca, or that anybody may, by --allow-anonymous"
        )
    if tls is None:
        print(
            f"without --tls-cert, all that is sent to {host} can be read on the way"
            + (", tokens too" if tokens else ""),
            file=sys.stderr,
        )
