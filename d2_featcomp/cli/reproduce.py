"""Runs a whole experiment: trainings, measurements, table, plot and pictures.

    featcomp reproduce msfc/quickstart --output output/quickstart
    featcomp reproduce mine.yaml --output output/mine

What was finished before an interruption is not done again: run the same command to go on. The exit
status is 1 if a goal that the experiment states was missed. The file's keys are in
d2_featcomp/experiments/plan.py.
"""

import argparse
import logging
import time

from ..model_zoo import find_plan_file
from .options import add_verbose


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "experiment", help="YAML file, or the name of one of this project, e.g. msfc/quickstart"
    )
    parser.add_argument("--output", required=True, help="folder to write to, or to go on in")
    parser.add_argument(
        "--retrain",
        action="store_true",
        help="train again what was trained with other settings; the old is kept beside the new",
    )
    add_verbose(parser)


def run(args: argparse.Namespace) -> int:
    path = find_plan_file(args.experiment)  # before anything is loaded

    from ..engine import setup_terminal
    from ..experiments import read_experiment, run_experiment

    start = time.monotonic()
    experiment = read_experiment(path)
    setup_terminal(args.output, verbose=args.verbose)
    missed = run_experiment(experiment, args.output, retrain=args.retrain)
    logging.getLogger("d2_featcomp").info("This run took %.1f minutes", (time.monotonic() - start) / 60)
    return 1 if missed else 0
