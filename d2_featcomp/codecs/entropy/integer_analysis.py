"""The hyper-latent of symbols, in integers: what an entropy model sends before the symbols themselves.

Shape shorthand in this module:
    C, H, W: channels, height and width of a map of symbols; Z: channels of its hyper-latent; F: hidden
    channels; K: side of a kernel; R: rate points
"""

from dataclasses import dataclass
from functools import cached_property

import numpy as np

from .integer_layers import (
    ALL_TAPS,
    KERNEL,
    activate,
    biases_at_rate,
    by_taps,
    convolve,
    enlarge,
    scale_and_clip,
)

__all__ = ["HYPER_STRIDE", "IntegerAnalysis", "shrink_size"]

HYPER_STRIDE = 4  # positions of a map, each way, for one of the hyper-latent


@dataclass(frozen=True, eq=False)
class IntegerAnalysis:
    """Two convolutions of stride 2; integers as in :class:`IntegerModel`.

    Attributes:
        first_weight, first_bias, first_scale (ndarray): (F, C, K, K), (F,), (F,).
        second_weight, second_bias, second_scale (ndarray): (Z, F, K, K), (Z,), (Z,).

    For several rates there are R of each bias, in a dimension before these.
    """

    first_weight: np.ndarray
    first_bias: np.ndarray
    first_scale: np.ndarray
    second_weight: np.ndarray
    second_bias: np.ndarray
    second_scale: np.ndarray

    def at_rate(self, code):
        """As :meth:`IntegerModel.at_rate`."""
        found = biases_at_rate(self, code)
        found.__dict__["_matrices"] = self._matrices  # they hold no biases
        return found

    def count_macs(self, size):
        """Counts the multiply-accumulates for a map of height and width `size`: an int."""
        half, quarter = shrink_size(size, 2), shrink_size(size, HYPER_STRIDE)
        first, second = self.first_weight.size, self.second_weight.size
        return half[0] * half[1] * first + quarter[0] * quarter[1] * second

    @cached_property
    def _matrices(self):
        """(ndarray, ndarray): the weights of both convolutions as matrices."""
        return by_taps(self.first_weight, ALL_TAPS), by_taps(self.second_weight, ALL_TAPS)

    def compute(self, symbols, bits):
        """
        Args:
            symbols (ndarray): (C, H, W) odd numbers.
            bits (int): of a symbol of the hyper-latent.

        Returns:
            ndarray: (Z, ceil(H / 4), ceil(W / 4)) int32 symbols of the hyper-latent.
        """
        first, second = self._matrices
        total = _halve(symbols, first, self.first_bias)
        hidden = activate(total, self.first_scale[:, None, None])
        total = _halve(hidden, second, self.second_bias)
        return scale_and_clip(total, self.second_scale[:, None, None], 0, 2**bits - 1).astype(np.int32)


def shrink_size(size, stride):
    """Height and width of a map, (int, int) -> those of every `stride`-th position, rounded up."""
    return tuple(-(-side // stride) for side in size)


def _halve(values, matrix, bias):
    """Convolves (I, H, W) at every second position: (O, ceil(H / 2), ceil(W / 2)) sums."""
    padded = enlarge(values, KERNEL // 2 + 1)[:, 1:, 1:]  # a row and a column more, for odd sizes
    return convolve(padded, matrix, ALL_TAPS, 2, shrink_size(values.shape[1:], 2)) + bias[:, None, None]
