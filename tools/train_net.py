#!/usr/bin/env python
"""Trains and evaluates networks with compressed features.

Training runs the steps of MODEL.FEATCOMP.TRAIN one after the other; --resume goes on where an
interrupted training stopped. --eval-only measures MODEL.WEIGHTS; codec settings are config overrides:

    tools/train_net.py --config-file configs/msfc_R50.yaml --num-gpus 8
    tools/train_net.py --config-file configs/msfc_R50.yaml --eval-only MODEL.WEIGHTS model.pth \\
        MODEL.FEATCOMP.CODEC.NAME jpegxl MODEL.FEATCOMP.CODEC.BITS 4
"""

import sys

from detectron2.engine import default_argument_parser, default_setup, launch
from detectron2.utils import comm
from detectron2.utils.logger import setup_logger
from torch.multiprocessing import ProcessExitedException

from d2_featcomp.engine import end_process_group, evaluate, report_errors, setup_config, train_steps


def main(args):
    with report_errors():
        cfg = setup_config(args.config_file, args.opts)
        default_setup(cfg, args)
        setup_logger(cfg.OUTPUT_DIR, distributed_rank=comm.get_rank(), name="d2_featcomp")
        results = evaluate(cfg) if args.eval_only else train_steps(cfg, resume=args.resume)
        end_process_group()
        return results


if __name__ == "__main__":
    parser = default_argument_parser(epilog=__doc__)
    args = parser.parse_args()
    try:
        launch(
            main,
            args.num_gpus,
            num_machines=args.num_machines,
            machine_rank=args.machine_rank,
            dist_url=args.dist_url,
            args=(args,),
        )
    except ProcessExitedException as error:  # one of several processes has said what is wrong
        sys.exit(error.exit_code)
