#!/usr/bin/env python
"""Trains and evaluates networks with compressed features.

Training runs the stages of MODEL.FEATCOMP.TRAIN one after the other. How long and how fast is each
stage's own: MODEL.FEATCOMP.TRAIN.STEPk.MAX_ITER, .BASE_LR and .LR_STEPS; SOLVER.MAX_ITER, SOLVER.BASE_LR
and SOLVER.STEPS are refused. --resume goes on where an interrupted training stopped, and ends, on CPUs,
with the weights of one that was not. --eval-only measures MODEL.WEIGHTS; codec settings are config
overrides:

    tools/train_net.py --config-file configs/msfc_R50.yaml --num-gpus 8
    tools/train_net.py --config-file configs/msfc_R50.yaml --eval-only MODEL.WEIGHTS model.pth \\
        MODEL.FEATCOMP.CODEC.NAME jpegxl MODEL.FEATCOMP.CODEC.BITS 4
"""

from detectron2.engine import default_argument_parser, default_setup
from detectron2.utils import comm
from detectron2.utils.logger import setup_logger

from d2_featcomp.engine import (
    evaluate,
    parse_arguments,
    require_stage_settings,
    run_processes,
    setup_config,
    train_stages,
)


def main(args):
    cfg = setup_config(args.config_file, args.opts)
    if not args.eval_only:
        require_stage_settings(cfg, args.opts)
    default_setup(cfg, args)
    setup_logger(cfg.OUTPUT_DIR, distributed_rank=comm.get_rank(), name="d2_featcomp")
    return evaluate(cfg) if args.eval_only else train_stages(cfg, resume=args.resume)


if __name__ == "__main__":
    parser = default_argument_parser(epilog=__doc__)
    run_processes(main, parse_arguments(parser))
