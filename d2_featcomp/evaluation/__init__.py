"""Evaluators of rates, beside Detectron2's of accuracy."""

from .average_precision import ImageMatches, bootstrap_difference
from .bjontegaard_delta import bd_rate
from .build import EVALUATOR_REGISTRY, build_evaluator
from .feature_rate import FeatureRateEvaluator
from .multi_task import DisparityEvaluator, ReconstructionEvaluator
