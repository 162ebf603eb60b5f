#!/usr/bin/env python
"""Splits a trained network into what the edge needs and what the cloud needs.

    tools/export.py --config-file configs/msfc_R50.yaml --output deployed \\
        MODEL.WEIGHTS output/model_final.pth

writes, into --output:

    edge.pth    the weights of the edge half, for tools/edge.py
    cloud.pth   those of the cloud half, for tools/cloud.py
    edge.onnx   the edge network, for onnxruntime and the like (with --onnx), checked against PyTorch

Both halves carry the same fingerprint; a cloud half refuses bitstreams of any other edge half.
"""

import argparse
import os

from d2_featcomp.engine import (
    export_halves,
    export_onnx,
    load_half,
    report_errors,
    setup_config,
)


def parse_args():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--config-file", required=True, help="of the network that is cut")
    parser.add_argument("--output", default="output/deployed", help="folder (default: output/deployed)")
    parser.add_argument("--onnx", action="store_true", help="write edge.onnx, too")
    parser.add_argument(
        "opts", nargs=argparse.REMAINDER, help="config overrides, KEY VALUE ..., at the end"
    )
    return parser.parse_args()


def main(args):
    cfg = setup_config(args.config_file, [*args.opts, "MODEL.DEVICE", "cpu"])
    for half, path in export_halves(cfg, args.output).items():
        print(f"{path}: {os.path.getsize(path) / 1e6:.1f} MB, the {half} half")
    if args.onnx:
        path = os.path.join(args.output, "edge.onnx")
        network = load_half(cfg, os.path.join(args.output, "edge.pth"), "edge")
        largest, differing, compared = export_onnx(network, path)
        print(f"{path}: {os.path.getsize(path) / 1e6:.1f} MB")
        print(
            f"against PyTorch: {differing} of {compared} symbols differ; features by up to {largest:.2g}"
        )


if __name__ == "__main__":
    arguments = parse_args()
    with report_errors():
        main(arguments)
