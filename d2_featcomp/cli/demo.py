"""Runs a network with compressed features on images and draws the latents and the outputs.

For every input image it writes, below --output:

    NAME_detections.png   what is found; with --reference, beside what that network finds, not split, in
                          the image, and in one that an image codec codes to about as many bytes
    NAME_tasks.png        of networks with several tasks: all that they predict
    NAME_features.png     the latents, a tile a channel
    NAME.d2fc             the feature bitstream itself
"""

import argparse
import os

from .options import add_config_file, add_overrides


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add_config_file(parser)
    parser.add_argument("--input", nargs="+", required=True, help="images or folders of images")
    parser.add_argument("--output", required=True, help="folder to write to")
    parser.add_argument(
        "--reference",
        metavar="WEIGHTS",
        help="checkpoint of the network before it was split, to compare with",
    )
    parser.add_argument(
        "--confidence-threshold", type=float, default=0.5, help="smallest score shown (0 to 1)"
    )
    parser.add_argument("--limit", type=int, help="stop after this many images")
    add_overrides(parser)


def run(args: argparse.Namespace) -> None:
    from ..deploy import draw_images
    from ..engine import build_for_inference, setup_config

    cfg = setup_config(args.config_file, args.opts)
    images = [{"file_name": path} for path in list_images(args.input)[: args.limit]]
    model = build_for_inference(cfg, cfg.MODEL.WEIGHTS)
    reference = build_for_inference(cfg, args.reference, enabled=False) if args.reference else None
    draw_images(
        cfg, model, images, args.output, reference=reference, threshold=args.confidence_threshold
    )


def list_images(paths: list[str]) -> list[str]:
    """Lists images: the files that are named, and those in folders."""
    from ..data.datasets import image_folders

    images = []
    for path in paths:
        if os.path.isdir(path):
            images += image_folders.list_images(path)
        elif os.path.isfile(path):
            images.append(path)
        else:
            raise FileNotFoundError(f"no image or folder {path!r}")
    return images
