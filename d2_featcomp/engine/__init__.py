"""Training in steps, evaluation, and what command lines share."""

import importlib

from .channel_selection import prepare_split, select_channels
from .checkpoint import CheckpointError, FeatCompCheckpointer, load_weights, save_weights
from .command_line import (
    end_process_group,
    report_errors,
    require_weights,
    run_processes,
    setup_config,
)
from .digests import file_digest
from .experiment import Experiment, read_experiment
from .experiment_run import run_experiment
from .inference import as_input, build_for_inference, prepare_for_inference
from .labelling import label_images
from .measurement import measure_settings
from .steps import config_of_step, evaluate, steps_to_run, train_steps
from .sweep import Curve, Point, Sweep, plan_sweep, read_sweep
from .sweep_run import choose_setting, run_sweep
from .timing import timed
from .trainer import Trainer

# Of d2_featcomp.deploy, which imports this package: found when they are asked for.
_DEPLOYMENT = (
    "SplitCost",
    "check_onnx",
    "draw_images",
    "export_halves",
    "export_onnx",
    "fastest_ranges",
    "load_half",
    "measure_splits",
)


def __getattr__(name):
    if name in _DEPLOYMENT:
        return getattr(importlib.import_module("d2_featcomp.deploy"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
