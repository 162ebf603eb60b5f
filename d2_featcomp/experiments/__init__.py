"""Measurements of rate and quality: one plan, one loop, one cache, one report."""

from ..deprecation import make_getattr
from .keys import hash_file
from .measure import evaluate, measure_settings
from .parallel import share_cores, train_in_parallel
from .plan import plan_sweep, read_experiment, read_sweep
from .report import Report
from .run import (
    choose_setting,
    find_trainings,
    measure_alone,
    run_experiment,
    run_plan,
    run_sweep,
    train_alone,
)
from .schema import BDRate, Curve, Difference, Goal, Plan, Point, Training

Experiment = Sweep = Plan  # as they were called when they were two

__getattr__ = make_getattr(__name__, {"file_digest": "hash_file"})
