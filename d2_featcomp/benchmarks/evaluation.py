"""Whole evaluations."""

import contextlib
import itertools
import json
import logging
import os
import statistics
import subprocess
import sys
import tempfile
import time

import torch
from detectron2.data import DatasetCatalog
from detectron2.engine import launch
from detectron2.modeling import build_model
from detectron2.utils import comm

from ..data.datasets.scenes import procedural_recipe, register_scenes
from ..engine import Trainer, save_weights, setup_config
from ..experiments import evaluate, measure_settings
from ..serving import run_ahead
from .common import median_times, share, times_faster
from .networks import random_network, random_record


def benchmark_sweep(settings):
    """Several lossless codecs at one bit depth, measured together, against one evaluation."""
    codecs = ("png", "jpegxl", "jpegls", "raw")
    with tempfile.TemporaryDirectory() as folder:
        register_scenes("benchmark", folder, procedural_recipe({"train": 1, "val": 24}))
        DatasetCatalog.get("benchmark_val")
        torch.manual_seed(0)
        weights = os.path.join(folder, "random.pth")
        configs = {
            codec: setup_config(
                "quick/msfc_R18",
                [
                    *("MODEL.DEVICE", str(settings.device), "DATASETS.TEST", ("benchmark_val",)),
                    *("MODEL.WEIGHTS", weights, "TEST.DETECTIONS_PER_IMAGE", 20),
                    *("MODEL.FEATCOMP.CODEC.NAME", codec, "MODEL.FEATCOMP.CODEC.BITS", 4),
                    *("DATALOADER.NUM_WORKERS", 0, "OUTPUT_DIR", os.path.join(folder, codec)),
                ],
            )
            for codec in codecs
        }
        save_weights(build_model(configs["png"]).state_dict(), weights)
        calls = itertools.count()

        def sweep():
            measure_settings(configs, os.path.join(folder, f"records{next(calls)}"))

        variants = {"sweep": sweep, "one": lambda: evaluate(configs["png"])}
        with open(os.devnull, "w") as nothing, contextlib.redirect_stdout(nothing):
            seconds = median_times(variants, settings.few, settings.device)
    yield share(
        f"sweep over {len(codecs)} lossless codecs at one bit depth, 24 images",
        "evaluation of one of them",
        seconds["sweep"],
        seconds["one"],
        1.3,
    )


IMAGES = 48


def _evaluate_together(folder, repeats):
    """In each process: evaluates its part; the first one writes the seconds of each evaluation."""
    torch.set_num_threads(1)
    logging.disable(logging.INFO)
    register_scenes("benchmark", folder, procedural_recipe({"train": 1, "val": IMAGES}))
    cfg = setup_config(
        "quick/msfc_R18",
        [
            *("MODEL.DEVICE", "cpu", "DATASETS.TEST", ("benchmark_val",), "MODEL.WEIGHTS", ""),
            *("DATALOADER.NUM_WORKERS", 0, "INPUT.MIN_SIZE_TEST", 384, "INPUT.MAX_SIZE_TEST", 512),
            *("TEST.DETECTIONS_PER_IMAGE", 20, "OUTPUT_DIR", folder),
        ],
    )
    torch.manual_seed(0)
    model = Trainer.build_model(cfg).eval()
    seconds = []
    for _ in range(repeats + 1):  # the first one warms up
        comm.synchronize()
        start = time.perf_counter()
        Trainer.test(cfg, model)
        comm.synchronize()
        seconds.append(time.perf_counter() - start)
    if comm.is_main_process():
        with open(os.path.join(folder, "seconds.json"), "w", encoding="utf-8") as file:
            json.dump(seconds[1:], file)


def benchmark_processes(settings):
    """Evaluation by two processes against one, of one thread each."""
    seconds = {}
    for processes in (1, 2):
        with tempfile.TemporaryDirectory() as folder:
            # By a program of its own: processes start from what this one has not touched.
            run = [sys.executable, "-c", _RUN, folder, str(processes), str(settings.few)]
            environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": _python_path()}
            subprocess.run(run, check=True, env=environment, stdout=subprocess.DEVNULL)
            with open(os.path.join(folder, "seconds.json"), encoding="utf-8") as file:
                seconds[processes] = statistics.median(json.load(file))
    yield times_faster(
        f"evaluation of {IMAGES} images, 2 processes", "1 process", seconds[2], seconds[1], 1.7
    )


def _python_path():
    """PYTHONPATH by which another program finds this package, installed or not."""
    root = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
    return os.pathsep.join([root, *filter(None, [os.environ.get("PYTHONPATH")])])


_RUN = """
import sys
from d2_featcomp.benchmarks.evaluation import evaluate_in_processes
if __name__ == "__main__":
    evaluate_in_processes(sys.argv[1], int(sys.argv[2]), int(sys.argv[3]))
"""


def evaluate_in_processes(folder, processes, repeats):
    """Evaluates with so many processes; `folder` gets seconds.json."""
    launch(_evaluate_together, processes, dist_url="auto", args=(folder, repeats))


@torch.inference_mode()
def benchmark_pipeline(settings):
    """Coding an image while the next one is in the edge network, against one after the other."""
    network = random_network(
        "quick/msfc_R18",
        settings.device,
        *("MODEL.FEATCOMP.CODEC.NAME", "jpegxl", "MODEL.FEATCOMP.CODEC.EFFORT", 9),
    )
    records = [random_record(settings.at_most(384, 512)) for _ in range(8)]

    def run(ahead):
        features = (network.edge_features([record])[0] for record in records)
        for each in run_ahead(features, ahead):
            network.encode(each)

    seconds = median_times(
        {"both": lambda: run(2), "in turn": lambda: run(0)}, settings.few, settings.device
    )
    yield times_faster(
        "8 images, JPEG XL effort 9 on a thread of its own",
        "network and codec in turn",
        seconds["both"],
        seconds["in turn"],
    )
