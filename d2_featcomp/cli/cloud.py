"""Runs the cloud sub-model: feature bitstreams to results, from files or as a server.

    featcomp cloud --weights deployed/cloud.pth --input out/ --output results/
    featcomp cloud --weights deployed/cloud.pth --output results/ --serve 127.0.0.1:8000

Needs cloud.pth alone (featcomp export), which holds the configuration, too. For each bitstream NAME.d2fc
it writes NAME.json, what was found, with the maps of dense tasks as PNG files; results.json, all
instances in COCO's result format; and images.json, the images and categories that this names. Their ids
are those of the data set where --annotations gives it, or images.json lies beside the bitstreams. With
--images, the folder of the original images, it draws them, too. The server takes PUT
/v1/bitstreams/ID, and answers GET /healthz and GET /metrics; the network computes up to
MODEL.FEATCOMP.SERVER.MAX_BATCH bitstreams at once. It ends on SIGTERM, when all that it has accepted is
answered. `featcomp serve` tells more of it.
"""

import argparse

from .options import add_overrides, add_sub_model, split_list
from .server_options import add_server


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add_network(parser)
    parser.add_argument("--input", nargs="+", default=[], help=".d2fc files or folders of them")
    parser.add_argument(
        "--images",
        help="folder of the original images, to draw what was found; or a video, with --draw",
    )
    parser.add_argument(
        "--draw",
        metavar="VIDEO",
        help="with --images VIDEO: write its frames with what was found, e.g. drawn.mp4",
    )
    parser.add_argument(
        "--annotations",
        metavar="FILE",
        help="of the data set, in COCO's format, for ids (default: images.json beside the bitstreams, "
        "or annotations.json in --images)",
    )
    parser.add_argument("--serve", metavar="HOST:PORT", help="be a server; port 0 chooses a free one")
    add_server(parser)
    add_overrides(parser)


def add_network(parser: argparse.ArgumentParser) -> None:
    """Adds what a cloud sub-model needs, as files or as a server."""
    add_sub_model(parser, "cloud")
    parser.add_argument("--output", default="results", help="folder (default: results)")
    parser.add_argument(
        "--classes",
        type=split_list,
        metavar="A,B",
        help="names of the classes (default: those in the weights' file, or of the config's data sets)",
    )
    parser.add_argument(
        "--score-threshold",
        type=float,
        metavar="SCORE",
        help="leave instances of a lower score out of results, 0 to 1 (default: 0 in JSON, 0.5 in "
        "pictures)",
    )


def run(args: argparse.Namespace) -> int:
    from ..engine import setup_terminal
    from ..serving.cloud_program import run_cloud

    setup_terminal()
    return run_cloud(args)
