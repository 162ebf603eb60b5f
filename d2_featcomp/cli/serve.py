"""Runs the cloud sub-model as a server.

    featcomp serve --weights deployed/cloud.pth --output results/
    featcomp serve --weights deployed/cloud.pth --output results/ --address 0.0.0.0:8000 \\
        --token-file tokens --tls-cert server.pem --tls-key server.key

It takes PUT /v1/bitstreams/ID, answers with the results and writes them into --output. The network
computes up to MODEL.FEATCOMP.SERVER.MAX_BATCH bitstreams at once. GET / is a page that shows the state
of the server, /docs describes the requests, /metrics is for Prometheus and /healthz for load balancers.
On SIGTERM it answers all that it has accepted, then ends.

It listens to other machines only with --token-file or --tls-client-ca, or with --allow-anonymous.
It needs the extra "serve": pip install 'd2_featcomp[serve]'. See docs/server.md.
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
        help="address to listen at; port 0 is a free one (default: 127.0.0.1:8000)",
    )
    add_server(parser)
    add_overrides(parser)


def run(args: argparse.Namespace) -> int:
    args.input, args.images, args.annotations, args.draw = [], None, None, None
    return cloud.run(args)
