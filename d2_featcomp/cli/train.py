"""Trains a network with compressed features, in stages.

Training runs the stages of MODEL.FEATCOMP.TRAIN one after the other. Each stage has its own length and
learning rate: MODEL.FEATCOMP.TRAIN.STEPk.MAX_ITER, .BASE_LR and .LR_STEPS; SOLVER.MAX_ITER,
SOLVER.BASE_LR and SOLVER.STEPS are refused. --resume continues an interrupted training; on CPUs, it ends
with the same weights as a training that was not interrupted. --eval-only measures MODEL.WEIGHTS, as
featcomp eval does:

    featcomp train --config msfc_R50 --num-gpus 8
    featcomp train --config msfc_R50 --eval-only MODEL.WEIGHTS model.pth \\
        MODEL.FEATCOMP.CODEC.NAME jpegxl MODEL.FEATCOMP.CODEC.BITS 4
"""

import argparse
import os
from typing import TYPE_CHECKING

from .options import add_config_file, add_launch_options, add_overrides, add_verbose

if TYPE_CHECKING:
    from detectron2.config import CfgNode


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add_config_file(parser, required=False, default="")
    parser.add_argument("--resume", action="store_true", help="continue an interrupted training")
    parser.add_argument("--eval-only", action="store_true", help="only evaluate MODEL.WEIGHTS")
    add_launch_options(parser)
    add_verbose(parser)
    add_overrides(parser)


def run(args: argparse.Namespace) -> None:
    from ..engine import run_processes

    if not args.config_file and not args.opts:
        raise ValueError("no network: give --config, e.g. --config quick/msfc_R18")
    run_processes(train_or_evaluate, args)


def train_or_evaluate(args: argparse.Namespace) -> None:
    """What each of the processes does."""
    from ..engine import (
        require_stage_settings,
        require_weights,
        setup_config,
        setup_terminal,
        train_stages,
    )
    from ..experiments import evaluate

    cfg = setup_config(args.config_file, args.opts)
    if args.eval_only:
        require_weights(cfg)
    else:
        require_stage_settings(cfg, args.opts)
    setup_terminal(cfg.OUTPUT_DIR, verbose=args.verbose)
    _set_up(cfg, args)
    if args.eval_only:
        evaluate(cfg)
        return
    try:
        train_stages(cfg, resume=args.resume)
    except KeyboardInterrupt as error:
        period = cfg.SOLVER.CHECKPOINT_PERIOD
        raise KeyboardInterrupt(
            "the same command with --resume goes on at the last checkpoint, which is written each "
            f"{period} iterations (SOLVER.CHECKPOINT_PERIOD)"
        ) from error


def _set_up(cfg: "CfgNode", args: argparse.Namespace) -> None:
    """Detectron2's set-up, which writes `config.yaml`: that of a training stays, until another one has
    begun. Evaluations of it may have other settings, and a training may end by a mistake in them."""
    from detectron2.engine import default_setup
    from detectron2.utils import comm

    from ..files import write_text

    path, kept = os.path.join(cfg.OUTPUT_DIR, "config.yaml"), None
    trained = any(os.path.isdir(os.path.join(cfg.OUTPUT_DIR, f"step{stage}")) for stage in range(1, 5))
    if trained and comm.is_main_process() and os.path.isfile(path):
        with open(path, encoding="utf-8") as file:
            kept = file.read()
    default_setup(cfg, args)
    if kept is not None:
        write_text(kept, path)
