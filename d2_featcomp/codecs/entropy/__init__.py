"""Learned entropy coding: a context model, its integer form, and a range coder.

The integer form and the coder need NumPy alone; the context model is imported when it is asked for.
"""

from typing import TYPE_CHECKING

from ...lazy_names import make_lazy_getattr
from .integer_model import IntegerModel
from .rates import RATE_CODES, HasRate, find_rate_code, interpolate, interpolate_integers

if TYPE_CHECKING:
    from .needs_torch import *

__getattr__ = make_lazy_getattr(__name__)
