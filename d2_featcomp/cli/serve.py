"""Runs the cloud sub-model as a server.

    featcomp serve --weights deployed/cloud.pth --output results/
    featcomp serve --weights deployed/cloud.pth --output results/ --address 0.0.0.0:8000 \\
        --token-file tokens --tls-cert server.pem --tls-key server.key

It is `featcomp cloud --serve HOST:PORT`: takes PUT /v1/bitstreams/ID and writes the results into
--output. GET / is a page that shows what it does, /docs describes the requests, /metrics is for
Prometheus and /healthz for load balancers. It ends on SIGTERM, when all that it has accepted is
answered.
Beyond this machine it listens with --token-file or --tls-client-ca only, or with --allow-anonymous.
Needs the extra "serve": pip install 'd2_featcomp[serve]'. docs/server.md tells more.
"""

import argparse

from . import cloud
from .options import add_overrides
from .server_options import add_server


def add_arguments(parser: argparse.ArgumentParser) -> None:
    cloud.add_network(parser)
    parser.add_argument(
        "--address",
        dest="serve",
        default="127.0.0.1:8000",
        metavar="HOST:PORT",
        help="to listen at; port 0 chooses a free one (default: 127.0.0.1:8000)",
    )
    add_server(parser)
    add_overrides(parser)


def run(args: argparse.Namespace) -> int:
    args.input, args.images, args.annotations, args.draw = [], None, None, None
    return cloud.run(args)
