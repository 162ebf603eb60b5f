"""Runs the edge sub-model: images to feature bitstreams, in files or to a server.

    featcomp edge --weights deployed/edge.pth --input photos/ --output out/
    featcomp edge --weights deployed/edge.onnx --input video.mp4 --connect cloud.example:8000 \\
        --spool spool/

Needs edge.pth alone (featcomp export), which holds the configuration, too; or edge.onnx (featcomp
export --onnx): then pip install 'd2_featcomp[edge]' is enough, without PyTorch and Detectron2, and the
bitstreams are the same. With --output it writes NAME.d2fc for each image; NAME is the file's, with its
suffix or folders where two would have one name. If the input is a folder with annotations.json,
images.json there tells the images' ids. With --connect it sends them to featcomp serve; what
cannot be sent stays in --spool, and is sent first the next time: without --input, that is all it does.
--bandwidth, --latency and --loss simulate a slower network; a table then tells where the time goes.
Images that cannot be coded are told, all others are coded, and the exit status is 3.

Of a video, --stride and --fps choose frames; images.json in --output tells the time of each in seconds.
--target-kbit-s shares its bits among --fps images a second.
"""

import argparse

from .options import add_overrides, add_sampling, add_sub_model


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add_sub_model(parser, "edge")
    parser.add_argument(
        "--input", nargs="+", default=[], help="images, folders, patterns, videos, or camera:0"
    )
    parser.add_argument(
        "--output", help="folder for NAME.d2fc; with --connect for results, NAME-ID.json"
    )
    parser.add_argument(
        "--overwrite", action="store_true", help="replace NAME.d2fc of other images or weights"
    )
    parser.add_argument(
        "--connect", metavar="HOST:PORT", help="server to send to; IPv6 as [::1]:8000, or a URL"
    )
    parser.add_argument(
        "--spool", default="spool", help="folder for what is not sent yet (default: spool)"
    )
    parser.add_argument(
        "--requeue",
        action="store_true",
        help="first put back into the spool what the server refused before (SPOOL/rejected)",
    )
    parser.add_argument(
        "--token-file", metavar="FILE", help='with the token that the server asks for, or "NAME TOKEN"'
    )
    parser.add_argument(
        "--ca-file",
        metavar="FILE",
        help="certificates (PEM) of who signs the server's (default: the well-known ones); sends by TLS",
    )
    parser.add_argument("--client-cert", metavar="FILE", help="certificate (PEM) of this client")
    parser.add_argument(
        "--client-key", metavar="FILE", help="its private key (default: in the same file)"
    )
    parser.add_argument(
        "--timeout",
        type=float,
        default=30,
        help="seconds for a connection to the server, and for each whole answer (30)",
    )
    parser.add_argument("--attempts", type=int, default=5, help="to send one bitstream, at a time (5)")
    parser.add_argument(
        "--target-kb",
        type=float,
        help="kB of each image's bitstream (MODEL.FEATCOMP.CODEC.TARGET_KB); needs codec variable_rate",
    )
    parser.add_argument(
        "--target-kbit-s",
        type=float,
        help="hold this bit rate, in kbit/s, by the rate of each image; needs codec variable_rate",
    )
    add_sampling(parser)
    parser.add_argument(
        "--draw",
        metavar="VIDEO",
        help="with --connect and --output: write the video with what was found, e.g. drawn.mp4",
    )
    parser.add_argument("--limit", type=int, help="stop after this many images")
    parser.add_argument(
        "--in-flight",
        type=int,
        default=2,
        help="images that the network may be ahead of coding and sending (2; 0: one after the other)",
    )
    parser.add_argument("--bandwidth", type=float, help="simulate: kbit/s to the cloud (default: any)")
    parser.add_argument("--latency", type=float, default=0, help="simulate: ms each way (0)")
    parser.add_argument("--loss", type=float, default=0, help="simulate: share of packets lost (0)")
    parser.add_argument("--seed", type=int, default=0, help="of the packets that are lost (0)")
    add_overrides(parser)


def run(args: argparse.Namespace) -> int:
    from ..serving.edge_program import run_edge

    if args.target_kb is not None:
        args.opts = [*args.opts, "MODEL.FEATCOMP.CODEC.TARGET_KB", str(args.target_kb)]
    return run_edge(args)
