#!/usr/bin/env python
"""Turns a weight file of Darknet's YOLO-v3 or YOLO-v3-tiny into a Detectron2 checkpoint.

    tools/convert_darknet.py --weights yolov3.weights --config-file configs/baf_yolov3.yaml \\
        --output yolov3.pth
"""

import argparse

from detectron2.modeling import build_model

from d2_featcomp.engine import parse_arguments, report_errors, save_weights, setup_config
from d2_featcomp.files import prepare_file
from d2_featcomp.modeling import YOLOV3, load_darknet_weights


def parse_args():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--weights", required=True, help="the Darknet file")
    parser.add_argument("--config-file", required=True, help="of the network that it is for")
    parser.add_argument("--output", required=True, help="the .pth file to write")
    parser.add_argument("opts", nargs=argparse.REMAINDER, help="config overrides: KEY VALUE ...")
    return parse_arguments(parser)


def main(args):
    prepare_file(args.output)
    overrides = ["MODEL.DEVICE", "cpu", "MODEL.FEATCOMP.ENABLED", "False"]
    network = build_model(setup_config(args.config_file, [*args.opts, *overrides]))
    if not isinstance(network, YOLOV3):
        raise ValueError(f"{args.config_file!r} describes a {type(network).__name__}, not a YOLOV3")
    load_darknet_weights(network, args.weights)
    save_weights(network.state_dict(), args.output)
    print(f"{args.output}: {sum(p.numel() for p in network.parameters())} parameters")


if __name__ == "__main__":
    arguments = parse_args()
    with report_errors():
        main(arguments)
