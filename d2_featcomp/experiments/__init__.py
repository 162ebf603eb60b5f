"""Measurements of rate and quality: one plan, one loop, one cache, one report."""

from .keys import file_digest
from .measure import evaluate, measure_settings
from .plan import plan_sweep, read_experiment, read_sweep
from .report import Report
from .run import choose_setting, run_experiment, run_plan, run_sweep
from .schema import BDRate, Curve, Goal, Plan, Point, Training

Experiment = Sweep = Plan  # as they were called when they were two
