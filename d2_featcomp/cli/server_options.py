"""Options of a server: its limits, and who may use it."""

import argparse

__all__ = ["add_server"]


def add_server(parser: argparse.ArgumentParser) -> None:
    """Adds the options of a server; the defaults of limits are those of serving.ServiceSettings."""
    limits = parser.add_argument_group("limits of the server")
    limits.add_argument("--queue", type=int, help="waiting bitstreams (default: 64)")
    limits.add_argument("--max-bytes", type=int, help="bytes of a request (default: 2^24)")
    limits.add_argument(
        "--max-pixels",
        type=int,
        help="pixels of an image, also with --input; of its original at least 2^24 (default: 2^23)",
    )
    limits.add_argument(
        "--max-answer-bytes",
        type=int,
        help="memory for the results of a batch, in bytes (default: 2^31)",
    )
    limits.add_argument("--max-connections", type=int, help="connections at once (default: 512)")
    limits.add_argument(
        "--receive-timeout", type=float, help="seconds to receive a request (default: 30)"
    )
    limits.add_argument("--answer-timeout", type=float, help="seconds until the answer (default: 60)")
    limits.add_argument(
        "--client-requests",
        type=int,
        help="bitstreams of one client at once; more get status 429 (default: 32)",
    )
    limits.add_argument(
        "--client-bytes", type=int, help="bytes of these bitstreams together (default: 2^27)"
    )
    limits.add_argument(
        "--client-rate",
        type=float,
        help="bitstreams per second of one client, on average (default: no limit)",
    )
    access = parser.add_argument_group("access to the server")
    access.add_argument(
        "--token-file",
        metavar="FILE",
        help='accepted bearer tokens, one line "TOKEN" or "NAME TOKEN" for each',
    )
    access.add_argument(
        "--allow-anonymous",
        action="store_true",
        help="listen to other machines even without --token-file or --tls-client-ca",
    )
    access.add_argument("--tls-cert", metavar="FILE", help="certificate (PEM); the server then uses TLS")
    access.add_argument("--tls-key", metavar="FILE", help="its private key (default: in the same file)")
    access.add_argument(
        "--tls-client-ca",
        metavar="FILE",
        help="certificates (PEM) of the authorities that sign those of clients, which then need one",
    )
