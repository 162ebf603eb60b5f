"""Runs the cloud sub-model as a server.

    featcomp serve --weights deployed/cloud.pth --output results/ --address 0.0.0.0:8000

It is `featcomp cloud --serve HOST:PORT`: takes PUT /v1/bitstreams/ID, answers GET /healthz and GET
/metrics, writes the results into --output, and ends on SIGTERM, when all that it has accepted is
answered. There is no encryption and no access control. Needs the extra "serve":
pip install 'd2_featcomp[serve]'.
"""

import argparse

from . import cloud
from .options import add_overrides


def add_arguments(parser: argparse.ArgumentParser) -> None:
    cloud.add_network(parser)
    parser.add_argument(
        "--address",
        dest="serve",
        default="127.0.0.1:8000",
        metavar="HOST:PORT",
        help="to listen at; port 0 chooses a free one (default: 127.0.0.1:8000)",
    )
    cloud.add_limits(parser)
    add_overrides(parser)


def run(args: argparse.Namespace) -> int:
    args.input, args.images, args.annotations, args.draw = [], None, None, None
    return cloud.run(args)
