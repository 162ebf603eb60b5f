"""Labels a folder of images with the confident detections of a network.

It writes FOLDER/annotations.json in COCO's format; existing annotations are kept as
annotations.bak.json. For images without ground truth, the data set `images:FOLDER` then measures how
many of these detections a network with compressed features keeps; the network that made them has 100 AP.

    featcomp label-images --config baf_yolov3_tiny --images photos \\
        MODEL.WEIGHTS yolov3-tiny.pth
"""

import argparse

from .options import add_config_file, add_overrides


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add_config_file(parser, "config of the network; MODEL.WEIGHTS must be set")
    parser.add_argument("--images", required=True, metavar="FOLDER", help="folder of images")
    parser.add_argument(
        "--score", type=float, default=0.5, help="smallest score of a label, 0 to 1 (default: 0.5)"
    )
    parser.add_argument(
        "--classes", nargs="+", help="class names (default: COCO's if there are 80, else numbers)"
    )
    add_overrides(parser)


def run(args: argparse.Namespace) -> None:
    from ..engine import (
        build_for_inference,
        label_images,
        require_weights,
        setup_config,
        setup_terminal,
    )

    setup_terminal()
    if not 0 <= args.score <= 1:
        raise ValueError(f"--score is {args.score}: it goes from 0 to 1")
    cfg = setup_config(args.config_file, args.opts)
    require_weights(cfg)
    network = build_for_inference(cfg, cfg.MODEL.WEIGHTS, enabled=False)
    images, labels = label_images(cfg, network, args.images, score=args.score, class_names=args.classes)
    print(f"{args.images}: {labels} labels in {images} images")
