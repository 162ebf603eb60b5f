#!/usr/bin/env python
"""Runs a whole experiment: trainings, measurements, table, plot and pictures.

    tools/reproduce.py projects/MSFC/quickstart.yaml --output output/quickstart

What was finished before an interruption is not done again: run the same command to go on. The exit
status is 1 if a goal that the experiment states was missed. The file's keys are in
d2_featcomp/experiments/plan.py.
"""

import argparse
import sys
import time

from detectron2.utils.logger import setup_logger

from d2_featcomp.engine import parse_arguments, report_errors
from d2_featcomp.experiments import read_experiment, run_experiment


def parse_args():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("experiment", help="YAML file, e.g. projects/MSFC/quickstart.yaml")
    parser.add_argument("--output", required=True, help="folder to write to, or to go on in")
    parser.add_argument(
        "--retrain",
        action="store_true",
        help="train again what was trained with other settings; the old is kept beside the new",
    )
    return parse_arguments(parser)


def main(args):
    start = time.monotonic()
    experiment = read_experiment(args.experiment)
    for name in ("detectron2", "fvcore", "d2_featcomp"):
        logger = setup_logger(args.output, name=name)
    missed = run_experiment(experiment, args.output, retrain=args.retrain)
    logger.info("This run took %.1f minutes", (time.monotonic() - start) / 60)
    return 1 if missed else 0


if __name__ == "__main__":
    with report_errors():
        sys.exit(main(parse_args()))
