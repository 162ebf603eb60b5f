"""Splits a trained network into what the edge needs and what the cloud needs.

    featcomp export --config msfc_R50 --output deployed \\
        MODEL.WEIGHTS output/model_final.pth

writes, into --output:

    edge.pth    the weights of the edge sub-model, for featcomp edge
    cloud.pth   those of the cloud sub-model, for featcomp cloud
    edge.onnx   with --onnx: the edge network, for featcomp edge without PyTorch, checked against PyTorch
    edge.int8.onnx   with --int8 --calibrate FOLDER: the same in 8 bits, faster and less exact

Each file also holds configuration, class names, input size and format, codec and fingerprint; in the
ONNX files these are metadata. Settings that change the bitstreams are fixed by the export. All files
carry the same fingerprint; a cloud sub-model refuses bitstreams of any other network.
"""

import argparse
import os

from .options import add_config_file, add_overrides, split_list

CHECKED_WITH = ("MODEL.DEVICE", "cpu", "MODEL.FEATCOMP.INFERENCE", "plain")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add_config_file(parser)
    parser.add_argument("--output", default="output/deployed", help="folder (default: output/deployed)")
    parser.add_argument(
        "--classes",
        type=split_list,
        metavar="A,B",
        help="names of the network's classes (default: those of the data sets in the config)",
    )
    parser.add_argument("--onnx", action="store_true", help="also write edge.onnx")
    parser.add_argument("--int8", action="store_true", help="also write edge.onnx and edge.int8.onnx")
    parser.add_argument(
        "--calibrate",
        metavar="FOLDER",
        help="with --int8: folder of images like those that the edge will see; no labels needed",
    )
    parser.add_argument(
        "--calibration-images",
        type=int,
        default=100,
        metavar="N",
        help="with --int8: use at most N of these images (default: 100)",
    )
    parser.add_argument(
        "--float-layers",
        type=int,
        default=1,
        metavar="N",
        help="with --int8: number of layers before the latent that stay float32 (default: 1)",
    )
    parser.add_argument(
        "--vnni",
        action="store_true",
        help="with --int8: weights of 8 bits instead of 7, for edges whose processors have VNNI",
    )
    add_overrides(parser)


def run(args: argparse.Namespace) -> None:
    from ..deploy import export_onnx, export_sub_models, load_sub_model, read_description
    from ..engine import setup_config
    from ..images import list_images

    if args.int8 != bool(args.calibrate):
        raise ValueError("--int8 and --calibrate FOLDER belong together: give both, or neither")
    if args.vnni and not args.int8:
        raise ValueError("--vnni chooses the weights of --int8: give both, or neither")
    if args.int8:
        list_images(args.calibrate)  # before long work
    cfg = setup_config(args.config_file, [*args.opts, "MODEL.DEVICE", "cpu"])
    for sub_model, path in export_sub_models(cfg, args.output, args.classes).items():
        print(f"{path}: {os.path.getsize(path) / 1e6:.1f} MB, the {sub_model} sub-model")
    if args.onnx or args.int8:
        path = os.path.join(args.output, "edge.onnx")
        edge = os.path.join(args.output, "edge.pth")
        plain = setup_config(args.config_file, [*args.opts, *CHECKED_WITH])
        found = export_onnx(load_sub_model(plain, edge, "edge"), path, read_description(edge))
        print(f"{path}: {os.path.getsize(path) / 1e6:.1f} MB")
        print(
            f"against PyTorch: {found.differing} of {found.compared} symbols differ, and "
            f"{found.on_border} on a border between two; features by up to {found.largest:.2g}"
        )
    if args.int8:
        quantize(path, args)


def quantize(path: str, args: argparse.Namespace) -> None:
    """Writes edge.int8.onnx beside edge.onnx, `path`."""
    from tqdm import tqdm

    from ..deploy.onnx_int8 import quantize_onnx

    output = os.path.join(args.output, "edge.int8.onnx")
    found = quantize_onnx(
        path,
        output,
        args.calibrate,
        args.calibration_images,
        args.float_layers,
        args.vnni,
        lambda paths: tqdm(paths, desc="calibration", mininterval=1),
    )
    print(f"{output}: {os.path.getsize(output) / 1e6:.1f} MB")
    print(
        f"against edge.onnx, on {found.images} images: {found.differing} of {found.compared} symbols "
        f"differ, {found.int8_bytes} bytes for {found.float_bytes}"
    )
