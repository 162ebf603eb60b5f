"""Evaluators of rates, beside Detectron2's of accuracy."""

from .build import build_evaluator
from .feature_rate import FeatureRateEvaluator
