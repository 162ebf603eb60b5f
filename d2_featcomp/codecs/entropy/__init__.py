"""Learned entropy coding: a context model, its integer form, and a range coder."""

from .context_model import ContextModel
from .integer_model import IntegerModel
from .integer_weights import IntegerWeights
from .rates import RATE_CODES, find_rate_code, interpolate, interpolate_integers
