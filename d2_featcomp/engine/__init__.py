"""Training in steps, evaluation, and what command lines share."""

from .checkpoint import CheckpointError, FeatCompCheckpointer, load_weights, save_weights
from .command_line import report_errors, setup_config
from .demo import build_for_inference, draw_images
from .experiment import Experiment, read_experiment, run_experiment
from .steps import config_of_step, evaluate, steps_to_run, train_steps
from .trainer import Trainer
