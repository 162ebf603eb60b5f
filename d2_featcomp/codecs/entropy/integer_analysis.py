"""The hyper-latent of symbols, in integers: what an entropy model sends before the symbols themselves.

Shape shorthand in this module:
    C, H, W: channels, height and width of a map of symbols; Z: channels of its hyper-latent; F: hidden
    channels; K: side of a kernel; R: rate points
"""

from dataclasses import dataclass

import numpy as np

from .integer_layers import ALL_TAPS, KERNEL, activate, by_taps, convolve, enlarge, scale_and_clip

__all__ = ["HYPER_STRIDE", "IntegerAnalysis"]

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

    def count_macs(self, size):
        """Counts the multiply-accumulates for a map of height and width `size`: an int."""
        halves = [tuple(-(-side // stride) for side in size) for stride in (2, HYPER_STRIDE)]
        weights = (self.first_weight, self.second_weight)
        return sum(
            height * width * weight.size for (height, width), weight in zip(halves, weights, strict=True)
        )

    def compute(self, symbols, bits):
        """
        Args:
            symbols (ndarray): (C, H, W) odd numbers.
            bits (int): of a symbol of the hyper-latent.

        Returns:
            ndarray: (Z, ceil(H / 4), ceil(W / 4)) int32 symbols of the hyper-latent.
        """
        hidden = activate(
            _halve(symbols, self.first_weight, self.first_bias), self.first_scale[:, None, None]
        )
        total = _halve(hidden, self.second_weight, self.second_bias)
        return scale_and_clip(total, self.second_scale[:, None, None], 0, 2**bits - 1).astype(np.int32)


def _halve(values, weight, bias):
    """Convolves (I, H, W) at every second position: (O, ceil(H / 2), ceil(W / 2)) sums."""
    size = tuple(-(-side // 2) for side in values.shape[1:])
    padded = enlarge(values, KERNEL // 2 + 1)[:, 1:, 1:]  # a row and a column more, for odd sizes
    return convolve(padded, by_taps(weight, ALL_TAPS), ALL_TAPS, 2, size) + bias[:, None, None]
