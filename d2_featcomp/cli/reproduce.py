"""Runs a whole experiment: trainings, measurements, table, plot and pictures.

    featcomp reproduce msfc/quickstart --output output/quickstart
    featcomp reproduce mine.yaml --output output/mine
    featcomp reproduce msfc/photo_scenes_pretrained --output output/photo --workers 2
    featcomp reproduce mine.yaml --output output/mine --train "msfc, seed 2"   # a job of a cluster

After an interruption, run the same command to continue; what was finished is not done again. The exit
status is 1 if a goal that the experiment states was missed. The file's keys are in
d2_featcomp/experiments/plan.py.
"""

import argparse
import logging
import sys
import time

from ..model_zoo import find_plan_file
from .options import add_verbose


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "experiment", help="YAML file, or name of an experiment of this project, e.g. msfc/quickstart"
    )
    parser.add_argument("--output", required=True, help="folder to write to, or to continue in")
    parser.add_argument(
        "--retrain",
        action="store_true",
        help="repeat trainings that were done with other settings; the old ones are kept beside the new",
    )
    parser.add_argument(
        "--trainings",
        metavar="OUTPUT",
        help="use the trainings in the output folder of another experiment; others are trained there",
    )
    parser.add_argument(
        "--seeds",
        type=int,
        nargs="+",
        metavar="SEED",
        help="train and measure with each of these seeds instead of the experiment's; tables show means",
    )
    parser.add_argument(
        "--workers",
        type=int,
        default=1,
        metavar="N",
        help="number of processes, which share the CPU cores or the GPUs: train N networks at a time, "
        "measure while fewer are left to train, and measure with N in the end (default: 1)",
    )
    parser.add_argument(
        "--train",
        nargs="+",
        metavar="TRAINING",
        help="do only these trainings of the experiment, without measuring; a name without a seed "
        "means those of all seeds",
    )
    parser.add_argument(
        "--measure",
        nargs="+",
        metavar="TRAINING",
        help="measure only the networks of these trainings, which must be done; a call without --train "
        "and --measure then writes tables and plots",
    )
    add_verbose(parser)


def run(args: argparse.Namespace) -> None:
    path = find_plan_file(args.experiment)  # before anything is loaded

    from ..engine import run_processes, setup_terminal
    from ..experiments import (
        find_trainings,
        measure_alone,
        read_experiment,
        train_alone,
        train_in_parallel,
    )

    began = time.time()
    experiment = read_experiment(path, seeds=args.seeds)
    if args.train or args.measure:
        setup_terminal(verbose=args.verbose)
        given = {"retrain": args.retrain, "trained_in": args.trainings}
        find_trainings(experiment, args.measure or ())  # a wrong name is told before hours of training
        if args.train:
            train_alone(experiment, args.output, args.train, **given)
        if args.measure:
            measure_alone(experiment, args.output, args.measure, **given)
        return
    setup_terminal(args.output, verbose=args.verbose)
    if args.workers != 1:
        train_in_parallel(
            experiment,
            args.output,
            workers=args.workers,
            make_command=lambda task, name: _make_command(args, task, name),
            retrain=args.retrain,
            trained_in=args.trainings,
        )
    layout = {"num_gpus": _count_processes(args.workers), "num_machines": 1, "machine_rank": 0}
    run_processes(_finish, argparse.Namespace(**vars(args), **layout, dist_url="auto", began=began))


def _count_processes(workers: int) -> int:
    """Those that measure: on GPUs, one for each."""
    import torch

    return min(workers, torch.cuda.device_count()) if torch.cuda.is_available() else workers


def _finish(args: argparse.Namespace) -> None:
    """What each of the processes does: measures its images. The first one trains before, where there is
    only one, writes the results, and ends with status 1 if a goal was missed."""
    from ..engine import end_process_group, setup_terminal
    from ..experiments import read_experiment, run_experiment, share_cores

    if args.num_gpus > 1:  # this one was started for it
        setup_terminal(args.output, verbose=args.verbose)
        share_cores(args.num_gpus)
    experiment = read_experiment(find_plan_file(args.experiment), seeds=args.seeds)
    missed = run_experiment(experiment, args.output, retrain=args.retrain, trained_in=args.trainings)
    logging.getLogger("d2_featcomp").info("This run took %.1f minutes", (time.time() - args.began) / 60)
    if missed:
        end_process_group()
        sys.exit(1)


def _make_command(args: argparse.Namespace, task: str, training: str) -> list[str]:
    command = [sys.executable, "-m", "d2_featcomp", "reproduce", args.experiment]
    command += ["--output", args.output]
    for module in args.imports:
        command += ["--import", module]
    if args.seeds:
        command += ["--seeds", *map(str, args.seeds)]
    if args.trainings:
        command += ["--trainings", args.trainings]
    if args.retrain:
        command.append("--retrain")
    return [*command, f"--{task}", training]
