"""A small network's settings, measured, and Detectron2's own evaluation of them."""

import json
import os

import networks

from d2_featcomp.engine import Trainer, build_for_inference, setup_config

IMAGES = 4  # of the data set measured_val
TINY = {
    **networks.TINY,
    "MODEL.ROI_HEADS.SCORE_THRESH_TEST": 0.0,
    "TEST.DETECTIONS_PER_IMAGE": 10,
    "INPUT.MIN_SIZE_TEST": 96,
    "DATALOADER.NUM_WORKERS": 0,
    "DATASETS.TEST": ("measured_val",),
    "SEED": 3,
}


def configured(config, settings, **more):
    keyed = {key.replace("__", "."): value for key, value in more.items()}
    return setup_config(config, [part for item in {**settings, **keyed}.items() for part in item])


def alone(cfg):
    """What Detectron2's own loop gives: the network's `forward`, an image at a time."""
    return Trainer.test(cfg, build_for_inference(cfg, cfg.MODEL.WEIGHTS, cfg.MODEL.FEATCOMP.ENABLED))


def same(found, expected):
    assert json.dumps(found, sort_keys=True) == json.dumps(expected, sort_keys=True, default=float)


def detections(cfg):
    """What the evaluator wrote, by image."""
    with open(os.path.join(cfg.OUTPUT_DIR, "inference", "coco_instances_results.json")) as file:
        found = json.load(file)
    images = dict.fromkeys(entry["image_id"] for entry in found)
    return [[entry for entry in found if entry["image_id"] == image] for image in images]
