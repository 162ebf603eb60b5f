#!/usr/bin/env python
"""Orders the channels of the layer at the split point by how much they tell of its input (BaF eq. 2 and
3).

The images are those of DATASETS.TRAIN; `images:FOLDER` is any folder of images. Name the file that is
written in MODEL.FEATCOMP.BAF.CHANNEL_ORDER:

    tools/select_channels.py --config-file configs/baf_yolov3.yaml --output order.json \\
        MODEL.WEIGHTS yolov3.pth DATASETS.TRAIN "('images:photos',)"
"""

import argparse

from detectron2.modeling import build_model

from d2_featcomp.engine import (
    FeatCompCheckpointer,
    parse_arguments,
    report_errors,
    select_channels,
    setup_config,
)
from d2_featcomp.files import prepare_file, write_text
from d2_featcomp.modeling import format_channel_order


def parse_args():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--config-file", required=True, help="of the network; MODEL.WEIGHTS must be set")
    parser.add_argument("--images", type=int, default=1000, help="how many to look at (default 1000)")
    parser.add_argument("--output", required=True, help="the JSON file to write")
    parser.add_argument("opts", nargs=argparse.REMAINDER, help="config overrides: KEY VALUE ...")
    return parse_arguments(parser)


def main(args):
    prepare_file(args.output)
    # All channels are looked at, whichever are coded later.
    cfg = setup_config(args.config_file, [*args.opts, "MODEL.FEATCOMP.SPLIT", "IntermediateLayerSplit"])
    network = build_model(cfg).eval()
    checkpointer = FeatCompCheckpointer(network)
    checkpointer.load(cfg.MODEL.WEIGHTS)
    checkpointer.require_complete(cfg.MODEL.WEIGHTS or "(none: set MODEL.WEIGHTS)", split=False)
    order, scores, count = select_channels(cfg, network, args.images)
    layer = cfg.MODEL.FEATCOMP.LAYER
    write_text(format_channel_order(layer, order, scores, count), args.output)
    print(f"{args.output}: {len(order)} channels of layer {layer}, from {count} images")


if __name__ == "__main__":
    arguments = parse_args()
    with report_errors():
        main(arguments)
