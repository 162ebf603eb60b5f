"""A training of a given time in mixed precision, and its evaluation: for tools/gpu_training.py."""

import itertools
import json
import os
import statistics
import time

import torch
from detectron2.data import DatasetCatalog

from ..data.datasets.scenes import procedural_recipe, register_scenes
from ..engine import Trainer, make_stage_config, setup_config, train_stages
from ..experiments import evaluate

MEASURED = 12  # iterations, of which the second half counts
SETTINGS = {
    "MODEL.WEIGHTS": "",
    # A network of random weights needs norms that learn.
    "MODEL.RESNETS.NORM": "BN",
    "MODEL.RESNETS.STRIDE_IN_1X1": False,
    "MODEL.BACKBONE.FREEZE_AT": 0,
    "MODEL.PIXEL_STD": [57.375, 57.12, 58.395],
    "MODEL.FPN.NORM": "BN",
    "MODEL.ROI_HEADS.NUM_CLASSES": 6,
    "MODEL.FEATCOMP.MSFR.NORM": "BN",
    "MODEL.FEATCOMP.TRAIN.OPTIMIZER": "AdamW",
    "MODEL.FEATCOMP.TRAIN.STEPS": (1, 3),
    "MODEL.FEATCOMP.TRAIN.STEP1.BASE_LR": 0.0005,
    "MODEL.FEATCOMP.TRAIN.STEP3.BASE_LR": 0.0005,
    "INPUT.MASK_FORMAT": "bitmask",
    "SOLVER.AMP.ENABLED": True,
    "SOLVER.LR_SCHEDULER_NAME": "WarmupCosineLR",
    "SOLVER.WARMUP_ITERS": 40,
    "SOLVER.WEIGHT_DECAY": 0.01,
    "SOLVER.CLIP_GRADIENTS.ENABLED": True,
    "SOLVER.CLIP_GRADIENTS.CLIP_TYPE": "norm",
    "SOLVER.CLIP_GRADIENTS.CLIP_VALUE": 5.0,
    "SOLVER.CHECKPOINT_PERIOD": 1000000,
    "TEST.EVAL_PERIOD": -1,
    "SEED": 1,
}


def configure(args, size, **more):
    workers = 0 if args.tiny else min(12, max(2, (os.cpu_count() or 2) - 2))
    settings = {
        **SETTINGS,
        "MODEL.DEVICE": args.device,
        "INPUT.MIN_SIZE_TRAIN": (size,),
        "INPUT.MAX_SIZE_TRAIN": size * 4 // 3,
        "INPUT.MIN_SIZE_TEST": size,
        "INPUT.MAX_SIZE_TEST": size * 4 // 3,
        "SOLVER.IMS_PER_BATCH": args.images,
        "DATALOADER.NUM_WORKERS": workers,
        "DATASETS.TRAIN": ("gpu_training_train",),
        "DATASETS.TEST": ("gpu_training_val",),
        **more,
    }
    if args.tiny:
        settings |= {"MODEL.RESNETS.DEPTH": 18, "MODEL.RESNETS.RES2_OUT_CHANNELS": 64}
        settings |= {"MODEL.FPN.OUT_CHANNELS": 32, "MODEL.ROI_BOX_HEAD.FC_DIM": 64}
    return setup_config("msfc_R50", [part for item in settings.items() for part in item])


class TimedTrainer(Trainer):
    """Keeps how long each iteration takes, with its data."""

    def run_step(self):
        start = time.perf_counter()
        super().run_step()
        if torch.device(self.cfg.MODEL.DEVICE).type == "cuda":
            torch.cuda.synchronize()
        self.times.append(time.perf_counter() - start)


def seconds_per_iteration(cfg):
    """Measures the detector and the split together, the slower of the two stages."""
    os.makedirs(make_stage_config(cfg, 3, "").OUTPUT_DIR, exist_ok=True)
    trainer = TimedTrainer(make_stage_config(cfg, 3, ""))
    trainer.times = []
    trainer.train()
    return statistics.median(trainer.times[MEASURED // 2 :])


def train_for_seconds(args):
    """Trains the detector, then detector and split together, evaluates both and prints JSON.

    Args:
        args (Namespace): the options of tools/gpu_training.py.
    """
    if args.device != "cpu" and not torch.cuda.is_available():
        raise ValueError(f"--device {args.device}: this machine has no GPU that PyTorch can use")
    size, counts = (96, {"train": 8, "val": 4}) if args.tiny else (512, {"train": 1000, "val": 100})
    start = time.perf_counter()
    register_scenes("gpu_training", os.path.join(args.output, "scenes"), procedural_recipe(counts))
    DatasetCatalog.get("gpu_training_train")
    print(f"drew the scenes in {time.perf_counter() - start:.0f} s", flush=True)
    step = "MODEL.FEATCOMP.TRAIN.STEP"
    once = {f"{step}3.MAX_ITER": MEASURED, "OUTPUT_DIR": os.path.join(args.output, "measured")}
    seconds = seconds_per_iteration(configure(args, size, **once))
    first, second = (max(4, int(share * args.seconds / seconds)) for share in (0.6, 0.4))
    print(f"{1000 * seconds:.0f} ms an iteration: {first} and {second} of them", flush=True)
    whole = {f"{step}1.MAX_ITER": first, f"{step}3.MAX_ITER": second, "OUTPUT_DIR": args.output}
    start = time.perf_counter()
    train_stages(configure(args, size, **whole))
    trained = time.perf_counter() - start
    results = {}
    for name, enabled, weights in (
        ("detector alone", False, "step1/model_final.pth"),
        ("through bitstreams", True, "model_final.pth"),
    ):
        more = {"MODEL.WEIGHTS": os.path.join(args.output, weights), "MODEL.FEATCOMP.ENABLED": enabled}
        results[name] = evaluate(configure(args, size, **whole, **more))
    losses = final_losses(args.output)
    found = {
        "image_size": size,
        "images": args.images,
        "iterations": [first, second],
        "seconds_per_iteration": seconds,
        "seconds": trained,
        "losses": losses,
        "results": results,
    }
    print(json.dumps(found))


def final_losses(folder):
    """Reads the total losses of each stage: dict[str, list[float]]."""
    found = {}
    for step in (1, 3):
        with open(os.path.join(folder, f"step{step}", "metrics.json"), encoding="utf-8") as file:
            lines = list(map(json.loads, itertools.islice(file, 10000)))
        found[f"step{step}"] = [line["total_loss"] for line in lines if "total_loss" in line]
    return found
