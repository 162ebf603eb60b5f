"""What an entropy model says of symbols -> integer frequencies.

Shape shorthand in this module:
    C: channels; S: positions; K = 2^n: symbols of n bits; M: components of a mixture
"""

from functools import cached_property

import numpy as np

from .tables import (
    ARGUMENT_SHIFT,
    POSITION_UNIT,
    SCALES,
    exponential_table,
    logistic_table,
    reciprocal_table,
)

__all__ = [
    "COMPONENTS",
    "SOFTMAX_BITS",
    "MixtureFrequencies",
    "SoftmaxFrequencies",
    "outputs_per_symbol",
]

SOFTMAX_BITS = 4  # up to so many bits a symbol has a logit for each value, above a mixture
COMPONENTS = 3  # M
# Of 2^40, what the heaviest component has, at least: the least frequency of a symbol.
LEAST_FREQUENCY = 2**20


def outputs_per_symbol(bits):
    """Numbers with which an entropy model describes one symbol of `bits` bits: K logits up to 4 bits,
    above M each of logits, means and logarithms of scales."""
    return 2**bits if bits <= SOFTMAX_BITS else 3 * COMPONENTS


class SoftmaxFrequencies:
    """Softmax of integer logits.

    Args:
        outputs (ndarray): (C, K, S) integer-valued logits, in units of 2^-5 nat.
    """

    def __init__(self, outputs):
        table = exponential_table()
        below = outputs.max(axis=1, keepdims=True) - outputs
        self._frequencies = table[np.minimum(below, len(table) - 1).astype(np.int64)]
        self.digits = (outputs.shape[1].bit_length() - 1,)

    def of_digit(self, index, known):
        """
        Args:
            index (int): 0; there is one digit.
            known (ndarray): not used.

        Returns:
            ndarray: (C * S, K) int64 frequencies, at least 1, in the order of symbols.
        """
        return self._frequencies.transpose(0, 2, 1).reshape(-1, self._frequencies.shape[1])


class MixtureFrequencies:
    """A mixture of discretized logistic distributions; what lies outside of the range of symbols belongs
    to the first and last. A symbol is coded as two digits, its upper and lower bits.

    Args:
        outputs (ndarray): (C, 3M, S) integer-valued: M logits in units of 2^-5 nat, M means in units of
            2^-4 symbol, M indices of scales.
        bits (int): n.
    """

    def __init__(self, outputs, bits):
        self.bits = bits
        self.digits = (bits - bits // 2, bits // 2)
        channels, _, positions = outputs.shape
        parts = outputs.astype(np.int64).reshape(channels, 3, COMPONENTS, positions)
        logits, self._means, scales = parts.transpose(1, 2, 0, 3).reshape(3, COMPONENTS, -1)
        table = exponential_table()
        below = logits.max(axis=0) - logits
        self._weights = table[np.minimum(below, len(table) - 1)]
        self._reciprocals = reciprocal_table()[np.clip(scales, 0, SCALES - 1)]

    def of_digit(self, index, known):
        """
        Args:
            index (int): 0 for the upper bits, 1 for the lower.
            known (ndarray or None): (C * S,) upper digits, for index 1.

        Returns:
            ndarray: (C * S, 2^bits of the digit) int64 frequencies, at least 1.
        """
        if index == 0:
            return np.diff(self._below_upper_digits, axis=0).T
        known, lower = known.astype(np.int64), self.digits[1]
        between = (known << lower) + np.arange(1, 2**lower)[:, None]
        first, last = np.take_along_axis(self._below_upper_digits, np.stack([known, known + 1]), axis=0)
        return np.diff(self._below(between), axis=0, prepend=first[None], append=last[None]).T

    @cached_property
    def _below_upper_digits(self):
        """(2^bits of the digit + 1, C * S) int64: frequency of all symbols below each upper digit, and
        of all symbols."""
        upper, lower = self.digits
        table = logistic_table()
        found = np.zeros((2**upper + 1, self._means.shape[1]), np.int64)
        found[1:-1] = self._below(np.arange(1, 2**upper)[:, None] << lower)
        found[-1] = self._weights.sum(axis=0) * (table[-1] + table[0]) + 2**self.bits * LEAST_FREQUENCY
        return found

    def _below(self, ends):
        """(L, C * S) int64: frequency of all symbols below `ends`, which are of that shape or (L, 1),
        none of them the first or behind the last."""
        table = logistic_table()
        half = len(table) // 2
        positions = (ends << POSITION_UNIT) - (1 << (POSITION_UNIT - 1))
        found = ends * LEAST_FREQUENCY
        for weight, mean, reciprocal in zip(self._weights, self._means, self._reciprocals, strict=True):
            argument = positions - mean
            argument *= reciprocal
            argument >>= ARGUMENT_SHIFT
            argument += half
            # np.clip is slower on small maps.
            np.maximum(argument, 0, out=argument)
            part = table[np.minimum(argument, len(table) - 1, out=argument)]
            part *= weight
            found = found + part
        return found


def make_frequencies(outputs, bits):
    """Makes the frequencies that an entropy model's outputs mean, of one of the classes above."""
    return SoftmaxFrequencies(outputs) if bits <= SOFTMAX_BITS else MixtureFrequencies(outputs, bits)
