"""Learned entropy coding: a context model, its integer form, and a range coder."""

from .context_model import ContextModel
from .integer_model import IntegerModel
