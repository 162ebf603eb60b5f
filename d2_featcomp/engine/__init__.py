"""Training in steps, and what command lines share."""

import importlib

from .arguments import import_modules, parse_arguments
from .channel_selection import prepare_split, select_channels
from .checkpoint import CheckpointError, FeatCompCheckpointer, load_weights, save_weights
from .command_line import (
    end_process_group,
    report_errors,
    require_weights,
    run_processes,
    setup_config,
)
from .inference import as_input, build_for_inference, prepare_for_inference
from .labelling import label_images
from .steps import config_of_step, require_step_settings, steps_to_run, train_steps
from .timing import timed
from .trainer import Trainer

# Of packages that import this one: found when they are asked for.
_MOVED = {
    "d2_featcomp.deploy": (
        "SplitCost",
        "check_onnx",
        "draw_images",
        "export_halves",
        "export_onnx",
        "fastest_ranges",
        "load_half",
        "measure_splits",
    ),
    "d2_featcomp.experiments": (
        "Curve",
        "Experiment",
        "Point",
        "Sweep",
        "choose_setting",
        "evaluate",
        "file_digest",
        "measure_settings",
        "plan_sweep",
        "read_experiment",
        "read_sweep",
        "run_experiment",
        "run_sweep",
    ),
}


def __getattr__(name):
    for package, names in _MOVED.items():
        if name in names:
            return getattr(importlib.import_module(package), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
