"""Runs the cloud sub-model: feature bitstreams to results, from files or as a server.

    featcomp cloud --weights deployed/cloud.pth --input out/ --output results/
    featcomp cloud --weights deployed/cloud.pth --output results/ --serve 127.0.0.1:8000

It needs only cloud.pth (featcomp export), which holds the configuration, too. For each bitstream
NAME.d2fc it writes NAME.json with the results, and maps of dense tasks as PNG files. results.json has
all instances in COCO's result format, images.json the images and categories that it refers to. Their ids
are those of the data set if --annotations gives it, or if images.json lies beside the bitstreams.
--images, the folder of the original images, adds pictures. With --serve it is a server: see
featcomp serve.
"""

import argparse

from .options import add_overrides, add_sub_model, split_list
from .server_options import add_server


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add_network(parser)
    parser.add_argument("--input", nargs="+", default=[], help=".d2fc files, or folders of them")
    parser.add_argument(
        "--images",
        help="folder of the original images, to draw the results; with --draw, the video",
    )
    parser.add_argument(
        "--draw",
        metavar="VIDEO",
        help="with --images VIDEO: write the video with the results drawn, e.g. drawn.mp4",
    )
    parser.add_argument(
        "--annotations",
        metavar="FILE",
        help="annotations of the data set in COCO's format, for ids (default: images.json beside the "
        "bitstreams, or annotations.json in --images)",
    )
    parser.add_argument("--serve", metavar="HOST:PORT", help="run as a server; port 0 is a free one")
    add_server(parser)
    add_overrides(parser)


def add_network(parser: argparse.ArgumentParser) -> None:
    """Adds what a cloud sub-model needs, as files or as a server."""
    add_sub_model(parser, "cloud")
    parser.add_argument("--output", default="results", help="folder to write to (default: results)")
    parser.add_argument(
        "--classes",
        type=split_list,
        metavar="A,B",
        help="class names (default: those in the file of weights, or of the data sets in the config)",
    )
    parser.add_argument(
        "--score-threshold",
        type=float,
        metavar="SCORE",
        help="leave out instances with a lower score, 0 to 1 (default: 0 in JSON, 0.5 in pictures)",
    )


def run(args: argparse.Namespace) -> int:
    from ..engine import setup_terminal
    from ..serving.cloud_program import run_cloud

    setup_terminal()
    return run_cloud(args)
