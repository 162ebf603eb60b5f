"""Splits a trained network into what the edge needs and what the cloud needs.

    featcomp export --config msfc_R50 --output deployed \\
        MODEL.WEIGHTS output/model_final.pth

writes, into --output:

    edge.pth    the weights of the edge sub-model, for featcomp edge
    cloud.pth   those of the cloud sub-model, for featcomp cloud
    edge.onnx   the edge network, for onnxruntime and the like (with --onnx), checked against PyTorch

Each holds what its program needs beside: configuration, names of the classes, input size and format,
codec and fingerprint; in edge.onnx they are metadata. Settings that change the bitstreams stay those of
the export.
Both carry the same fingerprint; a cloud sub-model refuses bitstreams of any other edge sub-model.
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
        help="names of the network's classes (default: of the data sets in the config)",
    )
    parser.add_argument("--onnx", action="store_true", help="write edge.onnx, too")
    add_overrides(parser)


def run(args: argparse.Namespace) -> None:
    from ..deploy import export_onnx, export_sub_models, load_sub_model, read_description
    from ..engine import setup_config

    cfg = setup_config(args.config_file, [*args.opts, "MODEL.DEVICE", "cpu"])
    for sub_model, path in export_sub_models(cfg, args.output, args.classes).items():
        print(f"{path}: {os.path.getsize(path) / 1e6:.1f} MB, the {sub_model} sub-model")
    if args.onnx:
        path = os.path.join(args.output, "edge.onnx")
        edge = os.path.join(args.output, "edge.pth")
        plain = setup_config(args.config_file, [*args.opts, *CHECKED_WITH])
        found = export_onnx(load_sub_model(plain, edge, "edge"), path, read_description(edge))
        print(f"{path}: {os.path.getsize(path) / 1e6:.1f} MB")
        print(
            f"against PyTorch: {found.differing} of {found.compared} symbols differ, and "
            f"{found.on_border} on a border between two; features by up to {found.largest:.2g}"
        )
