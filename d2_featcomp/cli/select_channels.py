"""Orders the channels of a layer by their correlation with the layer's input, for BaF (eq. 2 and 3).

The images are those of DATASETS.TRAIN; `images:FOLDER` is any folder of images. Set
MODEL.FEATCOMP.BAF.CHANNEL_ORDER to the file that is written:

    featcomp select-channels --config baf_yolov3 --output order.json \\
        MODEL.WEIGHTS yolov3.pth DATASETS.TRAIN "('images:photos',)"
"""

import argparse

from .options import add_config_file, add_overrides


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add_config_file(parser, "config of the network; MODEL.WEIGHTS must be set")
    parser.add_argument("--images", type=int, default=1000, help="number of images (default: 1000)")
    parser.add_argument("--output", required=True, help="JSON file to write")
    add_overrides(parser)


def run(args: argparse.Namespace) -> None:
    from detectron2.modeling import build_model

    from ..engine import FeatCompCheckpointer, select_channels, setup_config, setup_terminal
    from ..files import prepare_file, write_text
    from ..modeling import format_channel_order

    setup_terminal()
    prepare_file(args.output)
    # All channels are looked at, whichever are coded later, and also by the config of the network alone.
    overrides = ["MODEL.FEATCOMP.ENABLED", "True", "MODEL.FEATCOMP.SPLIT", "IntermediateLayerSplit"]
    cfg = setup_config(args.config_file, [*args.opts, *overrides])
    network = build_model(cfg).eval()
    checkpointer = FeatCompCheckpointer(network)
    checkpointer.load(cfg.MODEL.WEIGHTS)
    checkpointer.require_complete(cfg.MODEL.WEIGHTS or "(none: set MODEL.WEIGHTS)", split=False)
    order, scores, count = select_channels(cfg, network, args.images)
    layer = network.split_point.layer.number
    write_text(format_channel_order(layer, order, scores, count), args.output)
    print(f"{args.output}: {len(order)} channels of layer {layer}, from {count} images")
