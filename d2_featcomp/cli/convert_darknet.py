"""Converts a weight file of Darknet's YOLO-v3 or YOLO-v3-tiny to a Detectron2 checkpoint.

    featcomp convert-darknet --weights yolov3.weights --config baf_yolov3 \\
        --output yolov3.pth
"""

import argparse

from .options import add_config_file, add_overrides


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--weights", required=True, help="Darknet's .weights file")
    add_config_file(parser, "config of the network that it is for")
    parser.add_argument("--output", required=True, help=".pth file to write")
    add_overrides(parser)


def run(args: argparse.Namespace) -> None:
    from detectron2.modeling import build_model

    from ..engine import save_weights, setup_config
    from ..files import prepare_file
    from ..modeling import YOLOV3, load_darknet_weights

    prepare_file(args.output)
    overrides = ["MODEL.DEVICE", "cpu", "MODEL.FEATCOMP.ENABLED", "False"]
    network = build_model(setup_config(args.config_file, [*args.opts, *overrides]))
    if not isinstance(network, YOLOV3):
        raise ValueError(f"{args.config_file!r} describes a {type(network).__name__}, not a YOLOV3")
    load_darknet_weights(network, args.weights)
    save_weights(network.state_dict(), args.output)
    print(f"{args.output}: {sum(p.numel() for p in network.parameters())} parameters")
