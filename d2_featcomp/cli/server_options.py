"""Options of a server: its limits, and who may use it."""

import argparse

__all__ = ["add_server"]


def add_server(parser: argparse.ArgumentParser) -> None:
    """Adds the options of a server; the defaults of limits are those of serving.ServiceSettings."""
    limits = parser.add_argument_group("limits of the server")
    limits.add_argument("--queue", type=int, help="bitstreams that wait (64)")
    limits.add_argument("--max-bytes", type=int, help="of a request (2^24)")
    limits.add_argument(
        "--max-pixels",
        type=int,
        help="of an image, of --input, too; of the original at least 2^24 (2^23)",
    )
    limits.add_argument(
        "--max-answer-bytes",
        type=int,
        help="memory for what is found in the images of a batch (2^31)",
    )
    limits.add_argument("--max-connections", type=int, help="at once (512)")
    limits.add_argument("--receive-timeout", type=float, help="of a request, seconds (30)")
    limits.add_argument("--answer-timeout", type=float, help="of an answer, seconds (60)")
    limits.add_argument(
        "--client-requests", type=int, help="bitstreams of one client at once, or 429 (32)"
    )
    limits.add_argument("--client-bytes", type=int, help="of those bitstreams together (2^27)")
    limits.add_argument(
        "--client-rate", type=float, help="bitstreams a second of one client, on average (any)"
    )
    access = parser.add_argument_group("access to the server")
    access.add_argument(
        "--token-file",
        metavar="FILE",
        help='bearer tokens that are accepted, a line "TOKEN" or "NAME TOKEN" each',
    )
    access.add_argument(
        "--allow-anonymous",
        action="store_true",
        help="listen to other machines without --token-file or --tls-client-ca",
    )
    access.add_argument("--tls-cert", metavar="FILE", help="certificate (PEM); the server then uses TLS")
    access.add_argument("--tls-key", metavar="FILE", help="its private key (default: in the same file)")
    access.add_argument(
        "--tls-client-ca",
        metavar="FILE",
        help="certificates (PEM) of who signs those of clients, which then need one",
    )
