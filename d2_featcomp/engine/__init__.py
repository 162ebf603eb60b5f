"""Training in stages, and what command lines share."""

from ..deprecation import make_getattr
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
from .steps import choose_stages, make_stage_config, require_stage_settings, train_stages
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

_RENAMED = {
    "config_of_step": "make_stage_config",
    "require_step_settings": "require_stage_settings",
    "steps_to_run": "choose_stages",
    "train_steps": "train_stages",
}

__getattr__ = make_getattr(__name__, _RENAMED, _MOVED)
