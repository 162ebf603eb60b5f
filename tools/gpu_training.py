#!/usr/bin/env python
"""Trains configs/msfc_R50.yaml in mixed precision at 512 px for a given time, and evaluates it.

    tools/gpu_training.py --seconds 120 --output output/gpu_training

On embedded scenes, from random weights: the detector first, then detector and split together. How many
iterations there is time for is measured first. The last line that it prints is JSON.
"""

import argparse

from d2_featcomp.errors import report_errors


def parse_args():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--device", default="cuda", help="cuda (default), cuda:N or cpu")
    parser.add_argument("--seconds", type=float, default=120, help="of training (default: 120)")
    parser.add_argument("--images", type=int, default=8, help="in an iteration (default: 8)")
    parser.add_argument("--tiny", action="store_true", help="a small network at 96 px: a trial on a CPU")
    parser.add_argument("--output", default="output/gpu_training", help="folder to write to")
    return parser.parse_args()


def main(args):
    from d2_featcomp.benchmarks.gpu_training import train_for_seconds

    train_for_seconds(args)


if __name__ == "__main__":
    arguments = parse_args()
    with report_errors():
        main(arguments)
