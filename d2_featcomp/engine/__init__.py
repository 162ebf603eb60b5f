"""Training in stages, and what command lines share."""

from ..arguments import import_modules, parse_arguments
from ..deprecation import make_getattr
from ..errors import report_errors
from .channel_selection import select_channels
from .checkpoint import (
    CheckpointError,
    FeatCompCheckpointer,
    load_weights,
    read_state_dict,
    save_backbone_weights,
    save_weights,
)
from .command_line import (
    end_process_group,
    require_weights,
    run_processes,
    setup_config,
)
from .inference import build_for_inference, make_input, prepare_for_inference
from .labelling import label_images
from .steps import choose_stages, make_stage_config, require_stage_settings, train_stages
from .terminal import setup_terminal
from .timing import time_call
from .timm_weights import TimmHandler
from .trainer import Trainer

# Of packages that import this one: found when they are asked for.
_MOVED = {
    "d2_featcomp.deploy": (
        "SplitCost",
        "check_onnx",
        "draw_images",
        "export_sub_models",
        "export_onnx",
        "find_fastest_ranges",
        "load_sub_model",
        "measure_splits",
    ),
    "d2_featcomp.experiments": (
        "Curve",
        "Experiment",
        "Point",
        "Sweep",
        "choose_setting",
        "evaluate",
        "hash_file",
        "measure_settings",
        "plan_sweep",
        "read_experiment",
        "read_sweep",
        "run_experiment",
        "run_sweep",
    ),
}

_RENAMED = {
    "as_input": "make_input",
    "config_of_step": "make_stage_config",
    "export_halves": "export_sub_models",
    "fastest_ranges": "find_fastest_ranges",
    "file_digest": "hash_file",
    "load_half": "load_sub_model",
    "require_step_settings": "require_stage_settings",
    "steps_to_run": "choose_stages",
    "timed": "time_call",
    "train_steps": "train_stages",
}

__getattr__ = make_getattr(__name__, _RENAMED, _MOVED)
