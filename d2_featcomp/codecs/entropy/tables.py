"""Integer tables of the exponential and the logistic function.

They are computed in decimal arithmetic, which rounds alike on every machine, so they need not travel
with a network: no two machines can disagree about them.
"""

from decimal import ROUND_HALF_EVEN, Context, Decimal, localcontext
from functools import cache

import numpy as np

__all__ = [
    "LOGIT_UNIT",
    "POSITION_UNIT",
    "SCALES",
    "SCALE_OFFSET",
    "SCALE_UNIT",
    "exponential_table",
    "logistic_table",
    "reciprocal_table",
]

LOGIT_UNIT = 5  # logits are counted in units of 2^-5 nat
POSITION_UNIT = 4  # positions on the axis of symbols, in units of 2^-4 symbol
SCALE_UNIT = 3  # logarithms of scales, in units of 2^-3 nat
SCALES = 64
SCALE_OFFSET = 24  # the scale of index i is exp((i - 24) / 8) symbols: 0.05 to 131

_LOGITS = 512  # 16 nats
_WEIGHT_BITS = 16
_LOGISTIC_UNIT = 6  # the argument of the logistic function, in units of 2^-6
_LOGISTIC_END = 1023
_LOGISTIC_BITS = 24
_RECIPROCAL_BITS = 12
# Of a difference of positions times a reciprocal, to an argument of the logistic function.
ARGUMENT_SHIFT = POSITION_UNIT + _RECIPROCAL_BITS - _LOGISTIC_UNIT


def _precise():
    """Opens a context of 40 digits."""
    return localcontext(Context(prec=40, rounding=ROUND_HALF_EVEN))


def _rounded(values, bits):
    return [int((value * 2**bits).to_integral_value(ROUND_HALF_EVEN)) for value in values]


def _exponentials(start, stop, step):
    """Decimals: exp(k / step) of k in start..stop - 1."""
    with _precise():
        return [(Decimal(k) / step).exp() for k in range(start, stop)]


@cache
def exponential_table():
    """Weights of softmax: entry d is 2^16 exp(-d / 32), at least 1.

    Returns:
        ndarray: (512,) int64.
    """
    with _precise():
        values = [1 / value for value in _exponentials(0, _LOGITS, 2**LOGIT_UNIT)]
        return np.maximum(np.array(_rounded(values, _WEIGHT_BITS), np.int64), 1)


@cache
def logistic_table():
    """The logistic function: entry 1023 + t is 2^24 / (1 + exp(-t / 64)).

    Returns:
        ndarray: (2047,) int64, rising.
    """
    with _precise():
        lower = [1 / (1 + value) for value in _exponentials(0, _LOGISTIC_END + 1, 2**_LOGISTIC_UNIT)]
        lower = np.array(_rounded(lower, _LOGISTIC_BITS), np.int64)
    return np.concatenate([lower[:0:-1], 2**_LOGISTIC_BITS - lower])


@cache
def reciprocal_table():
    """Reciprocals of scales: entry i is 2^12 exp((24 - i) / 8), at least 1.

    Returns:
        ndarray: (64,) int64.
    """
    with _precise():
        falling = _exponentials(SCALE_OFFSET - SCALES + 1, SCALE_OFFSET + 1, 2**SCALE_UNIT)[::-1]
        return np.maximum(np.array(_rounded(falling, _RECIPROCAL_BITS), np.int64), 1)
