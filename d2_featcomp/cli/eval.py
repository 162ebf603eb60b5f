"""Measures the accuracy and the rate of trained weights, through real bitstreams.

    featcomp eval --config msfc_R50 MODEL.WEIGHTS output/model_final.pth
    featcomp eval --config msfc_R50 MODEL.WEIGHTS output/model_final.pth \\
        MODEL.FEATCOMP.CODEC.NAME jpegxl MODEL.FEATCOMP.CODEC.BITS 4

The data set is DATASETS.TEST; codec settings are config overrides. OUTPUT_DIR gets a log, and the rate
of each image in inference/feature_rates.csv; of several data sets, a folder of its name has these.
"""

import argparse

from . import train
from .options import add_config_file, add_launch_options, add_overrides, add_verbose


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add_config_file(parser, required=False, default="")
    add_launch_options(parser)
    add_verbose(parser)
    add_overrides(parser)


def run(args: argparse.Namespace) -> None:
    args.eval_only = True
    train.run(args)
