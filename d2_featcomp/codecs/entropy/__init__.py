"""Learned entropy coding: a context model, its integer form, and a range coder."""

from .context_model import ContextModel, compute_checksum, interpolate
from .integer_model import RATE_CODES, IntegerModel, interpolate_integers
