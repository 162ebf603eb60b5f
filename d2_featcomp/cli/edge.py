"""Runs the edge sub-model: images to feature bitstreams, in files or to a server.

    featcomp edge --weights deployed/edge.pth --input photos/ --output out/
    featcomp edge --weights deployed/edge.onnx --input video.mp4 --connect cloud.example:8000 \\
        --spool spool/

It needs only edge.pth (featcomp export), which holds the configuration, too; or only edge.onnx (featcomp
export --onnx): then pip install 'd2_featcomp[edge]' is enough, without PyTorch and Detectron2, and the
bitstreams are the same.

With --output it writes NAME.d2fc for each image; NAME is the file's name, with its suffix or folders if
two images would have the same. If the input is a folder with annotations.json, images.json in --output
has the ids of the images. With --connect it sends the bitstreams to featcomp serve. What cannot be sent
stays in --spool and is sent first the next time; without --input, that is all it does. --bandwidth,
--latency and --loss simulate a slower network, and a table then shows where the time goes. Images that
cannot be coded are reported, all others are coded, and the exit status is 3.

For a video, --stride and --fps choose frames, and images.json in --output has the time of each in
seconds. --target-kbit-s shares its bits among --fps images per second.
"""

import argparse

from .options import add_overrides, add_sampling, add_sub_model


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add_sub_model(parser, "edge")
    parser.add_argument(
        "--input", nargs="+", default=[], help="images, folders, patterns, videos, or camera:0"
    )
    parser.add_argument(
        "--output", help="folder for NAME.d2fc; with --connect, for the results NAME-ID.json"
    )
    parser.add_argument(
        "--overwrite", action="store_true", help="replace existing NAME.d2fc of other images or weights"
    )
    parser.add_argument(
        "--connect", metavar="HOST:PORT", help="server to send to; IPv6 as [::1]:8000; may be a URL"
    )
    parser.add_argument(
        "--spool", default="spool", help="folder for bitstreams that are not sent yet (default: spool)"
    )
    parser.add_argument(
        "--requeue",
        action="store_true",
        help="first try again what the server refused before (SPOOL/rejected)",
    )
    parser.add_argument(
        "--token-file", metavar="FILE", help='file with the token for the server, or with "NAME TOKEN"'
    )
    parser.add_argument(
        "--ca-file",
        metavar="FILE",
        help="certificates (PEM) of the authority that signed the server's (default: the well-known "
        "ones); sends by TLS",
    )
    parser.add_argument("--client-cert", metavar="FILE", help="certificate (PEM) of this client")
    parser.add_argument(
        "--client-key", metavar="FILE", help="its private key (default: in the same file)"
    )
    parser.add_argument(
        "--timeout",
        type=float,
        default=30,
        help="seconds to connect to the server, and to receive a whole answer (default: 30)",
    )
    parser.add_argument(
        "--attempts",
        type=int,
        default=5,
        help="attempts to send a bitstream before it is left for later (default: 5)",
    )
    parser.add_argument(
        "--target-kb",
        type=float,
        help="kB (1000 bytes) of each bitstream; sets MODEL.FEATCOMP.CODEC.TARGET_KB; needs codec "
        "variable_rate",
    )
    parser.add_argument(
        "--target-kbit-s",
        type=float,
        help="bit rate of the stream, kbit/s, kept by the rate of each image; needs codec variable_rate",
    )
    add_sampling(parser)
    parser.add_argument(
        "--draw",
        metavar="VIDEO",
        help="with --connect and --output: write the video with the results drawn, e.g. drawn.mp4",
    )
    parser.add_argument("--limit", type=int, help="stop after this many images (default: all)")
    parser.add_argument(
        "--in-flight",
        type=int,
        default=2,
        help="images that the network may be ahead of coding and sending (default: 2; 0: one by one)",
    )
    parser.add_argument("--bandwidth", type=float, help="simulated kbit/s (default: no limit)")
    parser.add_argument("--latency", type=float, default=0, help="simulated ms each way (default: 0)")
    parser.add_argument(
        "--loss", type=float, default=0, help="simulated share of lost packets, 0 to 1 (default: 0)"
    )
    parser.add_argument("--seed", type=int, default=0, help="seed of the lost packets (default: 0)")
    add_overrides(parser)


def run(args: argparse.Namespace) -> int:
    from ..serving.edge_program import run_edge

    if args.target_kb is not None:
        args.opts = [*args.opts, "MODEL.FEATCOMP.CODEC.TARGET_KB", str(args.target_kb)]
    return run_edge(args)
