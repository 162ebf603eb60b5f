"""Uniform quantization of NumPy arrays, for edges without PyTorch: what they need of `quantization.py`,
under the same names and with the same results, bit for bit.

Shape shorthand in this module:
    C, H, W: channels, height and width of a feature
    n: bit depth; 2^n - 1 is the largest symbol
"""

from typing import Any

import numpy as np
import numpy.typing as npt

from .bit_depths import FLOAT_BITS, check_bits

__all__ = [
    "deviation_range",
    "find_narrow_channels",
    "minmax_range",
    "quantize_minmax",
    "quantize_uniform",
    "round_to_float16_below",
]

Array = npt.NDArray[Any]
_FLOAT16_MAX = 65504.0
NOT_FINITE = "cannot quantize: the features contain NaN or infinite values"


def quantize_uniform(x: Array, bits: int, low: Array, high: Array) -> Array:
    """Quantizes uniformly to n bits, symbol = round((x - low) / (high - low) * (2^n - 1)).

    Args:
        x (ndarray): float32, any shape.
        bits (int): n, in 2..16; 32 returns `x` as float32.
        low, high (ndarray): float32 range, broadcast against `x`; where they are equal
            every symbol is 0.

    Returns:
        ndarray: shape of `x`; uint8 in [0, 2^n - 1] for n <= 8, else uint16.

    Raises:
        ValueError: bit depth out of range, or a NaN or infinity in `x`.
    """
    bits = check_bits(bits)
    x = np.asarray(x, np.float32)
    if bits == FLOAT_BITS:
        return x
    _require_finite(x)
    step = np.asarray((high - low) / np.float32(2**bits - 1), np.float32)
    step = np.where(step > 0, step, np.float32(np.inf))
    with np.errstate(over="ignore", invalid="ignore"):  # what lies far outside of an empty range
        symbols = np.rint((x - low) / step)
    symbols = np.where(np.isinf(step), np.float32(0), np.clip(symbols, 0, 2**bits - 1))
    return symbols.astype(np.uint8 if bits <= 8 else np.uint16)


def quantize_minmax(x: Array, bits: int, per_channel: bool) -> tuple[Array, Array, Array]:
    """Computes :func:`quantize_uniform` in the range of :func:`minmax_range`.

    Args:
        x (ndarray): (C, H, W) float32, not empty.
        bits (int): n, in 2..16; 32 returns `x` as float32.
        per_channel (bool): one range a channel instead of one for all.

    Returns:
        (ndarray, ndarray, ndarray): symbols, low and high, as those two return.

    Raises:
        ValueError: bit depth out of range, or a NaN or infinity in `x`.
    """
    low, high = minmax_range(x, per_channel)
    return quantize_uniform(x, bits, low, high), low, high


def minmax_range(x: Array, per_channel: bool) -> tuple[Array, Array]:
    """Computes the range of a feature, as it is coded beside the symbols: two float16 a tensor or a
    channel; the minimum is rounded down and the maximum up.

    Args:
        x (ndarray): (C, H, W) float32, not empty.
        per_channel (bool): one range a channel instead of one for all.

    Returns:
        (ndarray, ndarray): low and high, float32 holding float16 values, each (C, 1, 1) or (1, 1, 1).

    Raises:
        ValueError: a NaN or infinity in `x`.
    """
    axes = (1, 2) if per_channel else (0, 1, 2)
    _require_finite(x)
    low, high = x.min(axis=axes, keepdims=True), x.max(axis=axes, keepdims=True)
    return round_to_float16_below(low), -round_to_float16_below(-high)


def deviation_range(x: Array, deviations: float) -> tuple[Array, Array]:
    """Computes the range mean - k * std to mean + k * std of a feature, as two float16, in double
    precision; low is rounded down and high up.

    Args:
        x (ndarray): (C, H, W) float32, not empty.
        deviations (float): k.

    Returns:
        (ndarray, ndarray): low and high, (1, 1, 1) float32 holding float16 values.

    Raises:
        ValueError: a NaN or infinity in `x`.
    """
    _require_finite(x)
    values = x.astype(np.float64)
    mean, half = values.mean(), deviations * values.std()
    low, minus_high = round_to_float16_below(np.array([mean - half, -mean - half])).reshape(2, 1, 1, 1)
    return low, -minus_high


def find_narrow_channels(x: Array, share: float) -> tuple[Array, Array]:
    """Finds the channels whose range is below a share of the range of all.

    Args:
        x (ndarray): (C, H, W) float32, not empty.
        share (float): 0..1.

    Returns:
        (ndarray, ndarray): (C, 1, 1), bool, which these are; and the middle of each channel's range.
    """
    low, high = x.min(axis=(1, 2), keepdims=True), x.max(axis=(1, 2), keepdims=True)
    return high - low < np.float32(share) * (high.max() - low.min()), low + (high - low) / np.float32(2)


def round_to_float16_below(x: Array) -> Array:
    """Rounds floats down to a float16 value; what lies beyond them is clipped.

    Args:
        x (ndarray): float32 or float64, any shape.

    Returns:
        ndarray: float32, the largest float16 that are not above.
    """
    x = np.clip(x, -_FLOAT16_MAX, _FLOAT16_MAX)
    nearest = x.astype(np.float16)
    with np.errstate(over="ignore"):  # of the least float16, which is not above
        below = np.nextafter(nearest, np.float16(-np.inf))
    return np.where(nearest > x, below, nearest).astype(np.float32)


def _require_finite(x: Array) -> None:
    if not np.isfinite(x).all():
        raise ValueError(NOT_FINITE)
