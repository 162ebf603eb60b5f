#!/usr/bin/env python
"""Turns NanoDet-g as a TensorFlow.js graph model into a Detectron2 checkpoint.

    projects/NanoDet/convert_weights.py --graph nanodet.json --output nanodet.pth

The files of the weights lie beside the graph, under the names that it gives.
"""

import argparse
import os

from detectron2.modeling import build_model
from nanodet import load_tfjs_weights

from d2_featcomp.engine import parse_arguments, report_errors, save_weights, setup_config
from d2_featcomp.files import prepare_file

CONFIG = os.path.join(os.path.dirname(os.path.realpath(__file__)), "configs", "nanodet_msfc.yaml")


def parse_args():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--graph", required=True, help="JSON file of the graph")
    parser.add_argument(
        "--config-file", default=CONFIG, help="config of the network (default: NanoDet-g)"
    )
    parser.add_argument("--output", required=True, help=".pth file to write")
    parser.add_argument("opts", nargs=argparse.REMAINDER, help="config overrides: KEY VALUE ...")
    return parse_arguments(parser)


def main(args):
    prepare_file(args.output)
    overrides = ["MODEL.DEVICE", "cpu", "MODEL.FEATCOMP.ENABLED", "False"]
    network = build_model(setup_config(args.config_file, [*args.opts, *overrides]))
    load_tfjs_weights(network, args.graph)
    save_weights(network.state_dict(), args.output)
    print(f"{args.output}: {sum(p.numel() for p in network.parameters())} parameters")


if __name__ == "__main__":
    arguments = parse_args()
    with report_errors():
        main(arguments)
