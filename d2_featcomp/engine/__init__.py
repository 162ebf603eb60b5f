"""Training in steps, evaluation, and what command lines share."""

from .channel_selection import prepare_split, select_channels
from .checkpoint import CheckpointError, FeatCompCheckpointer, load_weights, save_weights
from .command_line import (
    end_process_group,
    report_errors,
    require_weights,
    run_processes,
    setup_config,
)
from .demo import as_input, build_for_inference, draw_images
from .digests import file_digest
from .experiment import Experiment, read_experiment
from .experiment_run import run_experiment
from .halves import export_halves, load_half
from .inference import prepare_for_inference
from .labelling import label_images
from .measurement import measure_settings
from .onnx_export import check_onnx, export_onnx
from .split_costs import SplitCost, fastest_ranges, measure_splits
from .steps import config_of_step, evaluate, steps_to_run, train_steps
from .sweep import Curve, Point, Sweep, plan_sweep, read_sweep
from .sweep_run import choose_setting, run_sweep
from .timing import timed
from .trainer import Trainer
