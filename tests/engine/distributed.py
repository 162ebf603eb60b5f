"""Trainings in several processes: shared by their tests."""

import re

import networks

SETTINGS = {
    **networks.TINY,
    "MODEL.FEATCOMP.TRAIN.STEPS": (1, 2),
    "MODEL.FEATCOMP.TRAIN.STEP1.MAX_ITER": 3,
    "MODEL.FEATCOMP.TRAIN.STEP2.MAX_ITER": 2,
    "MODEL.ROI_HEADS.SCORE_THRESH_TEST": 0.0,
    "TEST.DETECTIONS_PER_IMAGE": 10,
    "INPUT.MIN_SIZE_TRAIN": (96,),
    "INPUT.MIN_SIZE_TEST": 96,
    "SOLVER.IMS_PER_BATCH": 2,
    "SOLVER.WARMUP_ITERS": 1,
    "DATALOADER.NUM_WORKERS": 0,
    "DATASETS.TRAIN": ("few_train",),
    "DATASETS.TEST": ("few_val",),
    "SEED": 1,
}


def copied(log):
    """Detectron2's own result lines."""
    return re.findall(r"copypaste: (.*)", log)
