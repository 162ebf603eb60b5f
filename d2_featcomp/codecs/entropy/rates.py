"""A rate between 0 and 1, and what depends on it: values at rate points, linear in between.

Shape shorthand in this module:
    N: maps; R: rate points, at rates 0, 1 / (R - 1), ..., 1; at least 2
"""

import contextlib
from contextvars import ContextVar

import numpy as np

__all__ = ["RATE_CODES", "HasRate", "find_rate_code", "interpolate", "interpolate_integers"]

RATE_CODES = 256  # a rate is sent as a byte
_PINNED = ContextVar("codec and rate code of this thread", default=(None, 0))


def find_rate_code(rate):
    """Returns the byte, 0..255, of a rate."""
    return round(rate * (RATE_CODES - 1))


class HasRate:
    """Has an attribute `rate`, which codecs with several rates code at. A base before the codec's own.

    Raises:
        ValueError: it is set out of range.
    """

    @property
    def rate(self):
        """float: 0 (fewest bytes) to 1 (most), at which images are coded; a multiple of 1 / 255."""
        return self._code / (RATE_CODES - 1)

    @rate.setter
    def rate(self, value):
        if not 0 <= value <= 1:
            raise ValueError(f"MODEL.FEATCOMP.CODEC.RATE is {value}: it must lie between 0 and 1")
        self._configured_code = find_rate_code(value)

    @property
    def _code(self):
        codec, code = _PINNED.get()
        return code if codec is self else self._configured_code

    def compress(self, ys, **stream):
        """As without rates; all of an image is coded at one, whatever other threads set meanwhile."""
        with self.pinned_rate(self.rate):
            return super().compress(ys, **stream)

    @contextlib.contextmanager
    def pinned_rate(self, rate):
        """Context in which this thread codes at a rate (float, 0..1), whatever `rate` is set to."""
        token = _PINNED.set((self, find_rate_code(rate)))
        try:
            yield
        finally:
            _PINNED.reset(token)


def interpolate(points, rate):
    """Interpolates linearly between rate points.

    Args:
        points (Tensor): (R, ...) float, values at rates 0, 1 / (R - 1), ..., 1; R at least 2.
        rate (Tensor): (N,), 0..1.

    Returns:
        Tensor: (N, ...).
    """
    position = rate.to(points) * (len(points) - 1)
    lower = position.detach().floor().clamp(0, len(points) - 2)
    share = (position - lower).reshape(-1, *[1] * (points.dim() - 1))
    lower = lower.long()
    return points[lower] + share * (points[lower + 1] - points[lower])


def interpolate_integers(points, code):
    """Interpolates linearly between rate points, in integers: one result on every machine.

    Args:
        points (ndarray): (R, ...) integers, below 2^50, at rates 0, 1 / (R - 1), ..., 1; R at least 2.
        code (int): 0..255, the rate in units of 1 / 255.

    Returns:
        ndarray: (...) int64.
    """
    lower, share = divmod(code * (len(points) - 1), RATE_CODES - 1)
    upper = min(lower + 1, len(points) - 1)
    ends = points[lower].astype(np.int64), points[upper].astype(np.int64)
    total = ends[0] * (RATE_CODES - 1 - share) + ends[1] * share
    return (total + (RATE_CODES - 1) // 2) // (RATE_CODES - 1)
