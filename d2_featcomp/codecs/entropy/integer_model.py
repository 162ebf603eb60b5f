"""The entropy model in integers: one and the same probabilities on every machine.

All numbers are integers that are held in floating point. Each sum is proved to stay below 2^24 when the
weights are made, so float32 holds every partial sum exactly, in whatever order a processor adds.

The model codes a map in groups of channels, one after the other, and each group in four phases, the
positions (0, 0), (1, 1), (0, 1), (1, 0) of each 2 x 2 block. What it says of a symbol depends on the
groups before (two convolutions) and on the earlier phases of its own group (one convolution).

Shape shorthand in this module:
    C, H, W: channels, height and width of a map; G: groups, of c channels each; F: hidden channels of a
    group; K: side of a kernel; O: outputs of a symbol
"""

from dataclasses import dataclass

import numpy as np

from .frequencies import frequencies_of, outputs_per_symbol
from .range_coder import RangeDecoder, RangeEncoder

__all__ = ["ACTIVATION_MAX", "ACTIVATION_UNIT", "EXACT", "PHASES", "IntegerModel"]

PHASES = ((0, 0), (1, 1), (0, 1), (1, 0))
ACTIVATION_UNIT = 5  # activations are counted in units of 2^-5
ACTIVATION_MAX = 255
EXACT = 2**24  # float32 holds all integers up to here
_OUTPUT_MAX = 2**15
_PATCH_ELEMENTS = 2**21  # of the patches that one matrix product reads


@dataclass(frozen=True, eq=False)
class IntegerModel:
    """Weights of the entropy model, all integers in float32, and how they are used.

    A layer's sum, times its scale, a power of 2, rounded down, is its output: biases hold the half that
    makes this rounding to nearest.

    Attributes:
        bits (int): n, of a symbol.
        channels (int): C. The last group may have fewer than c of them.
        before_weight, before_bias, before_scale (ndarray): (G * F, G * c, K, K), (G * F,), (G * F,): on
            the groups before.
        middle_weight (ndarray): (G * F, F, K, K): on the result.
        own_weight (ndarray): (4 * G * F, c, K, K): on the phases before; added to the middle layer's.
        own_bias, own_scale (ndarray): (4, G * F), (G * F,): of that sum.
        hidden_weight, hidden_bias, hidden_scale (ndarray): (4, G * F, F), (4, G * F), (4, G * F).
        head_weight, head_bias, head_scale (ndarray): (4, G * c * O, F), (4, G * c * O), (4, G * c * O).
    """

    bits: int
    channels: int
    before_weight: np.ndarray
    before_bias: np.ndarray
    before_scale: np.ndarray
    middle_weight: np.ndarray
    own_weight: np.ndarray
    own_bias: np.ndarray
    own_scale: np.ndarray
    hidden_weight: np.ndarray
    hidden_bias: np.ndarray
    hidden_scale: np.ndarray
    head_weight: np.ndarray
    head_bias: np.ndarray
    head_scale: np.ndarray

    @property
    def group(self):
        """int: c, channels of a group."""
        return self.own_weight.shape[1]

    @property
    def hidden(self):
        """int: F."""
        return self.middle_weight.shape[1]

    def encode(self, symbols):
        """
        Args:
            symbols (ndarray): (C, H, W) integers below 2^n.

        Returns:
            bytes: the payload.
        """
        coder = RangeEncoder()
        self._walk(symbols.shape, coder.code, symbols)
        return coder.finish()

    def decode(self, payload, shape):
        """Inverse of :meth:`encode`.

        Args:
            payload (bytes): from anywhere.
            shape ((int, int, int)): C, H, W.

        Returns:
            ndarray: (C, H, W) int32.

        Raises:
            BitstreamError: it is not the payload of any symbols of that shape.
        """
        coder = RangeDecoder(payload)
        symbols = self._walk(shape, coder.code)
        coder.finish()
        return symbols

    def count_bits(self, symbols):
        """Returns the bits, a float, that the model's probabilities need for (C, H, W) symbols."""
        bits = 0.0

        def add(frequencies, found):
            nonlocal bits
            chosen = np.take_along_axis(frequencies, found[:, None].astype(np.int64), axis=1)[:, 0]
            bits -= np.log2(chosen / frequencies.sum(axis=1)).sum()
            return found

        self._walk(symbols.shape, add, symbols)
        return float(bits)

    def _walk(self, shape, code, symbols=None):
        """Goes through the groups and phases of a map in the order of coding.

        Args:
            code (callable): of (S, k) frequencies and (S,) symbols, or None; returns (S,) symbols.
            symbols (ndarray or None): (C, H, W), where they are known.

        Returns:
            ndarray: (C, H, W) int32, the symbols that `code` returned.
        """
        channels, height, width = shape
        found = np.zeros(shape, np.int32)
        margin = self.before_weight.shape[-1] // 2
        groups = len(self.middle_weight) // self.hidden
        # Symbols as odd numbers, symmetric to 0; 0 is what is not known, or outside.
        known = np.zeros(
            (groups * self.group, height + 2 * margin, width + 2 * margin), self.own_weight.dtype
        )
        inside = known[:, margin : margin + height, margin : margin + width]
        for start in range(0, channels, self.group):
            stop = min(start + self.group, channels)
            context = self._context(known, start, (height, width))
            for phase, (y, x) in enumerate(PHASES):
                if y >= height or x >= width:
                    continue
                outputs = self._outputs(known, context, start, phase)
                outputs = outputs[: stop - start].reshape(stop - start, outputs.shape[1], -1)
                part = found[start:stop, y::2, x::2]
                given = None if symbols is None else symbols[start:stop, y::2, x::2].reshape(-1)
                part[...] = _code_digits(frequencies_of(outputs, self.bits), code, given).reshape(
                    part.shape
                )
                inside[start:stop, y::2, x::2] = 2 * part - (2**self.bits - 1)
        return found

    def _context(self, known, start, size):
        """What the groups before mean for a group: (F, H, W) sums of the middle layer."""
        rows = slice(start // self.group * self.hidden, (start // self.group + 1) * self.hidden)
        total = _convolve(known[:start], self.before_weight[rows, :start], 1, size)
        total += self.before_bias[rows, None, None]
        activations = _activate(total, self.before_scale[rows, None, None])
        margin = self.middle_weight.shape[-1] // 2
        padded = np.pad(activations, ((0, 0), (margin, margin), (margin, margin)))
        return _convolve(padded, self.middle_weight[rows], 1, size)

    def _outputs(self, known, context, start, phase):
        """(c, O, h, w) integers that describe the symbols of one group and phase."""
        y, x = PHASES[phase]
        rows = slice(start // self.group * self.hidden, (start // self.group + 1) * self.hidden)
        total = context[:, y::2, x::2]
        shape = total.shape[1:]
        if phase:  # nothing of the group is known before
            own = known[start : start + self.group, y:, x:]
            total = total + _convolve(own, np.split(self.own_weight, len(PHASES))[phase][rows], 2, shape)
        total = total + self.own_bias[phase, rows, None, None]
        hidden = _activate(total, self.own_scale[rows, None, None]).reshape(self.hidden, -1)
        total = self.hidden_weight[phase, rows] @ hidden + self.hidden_bias[phase, rows, None]
        hidden = _activate(total, self.hidden_scale[phase, rows, None])
        count = outputs_per_symbol(self.bits)
        rows = slice(start * count, (start + self.group) * count)
        total = self.head_weight[phase, rows] @ hidden + self.head_bias[phase, rows, None]
        outputs = np.floor(total * self.head_scale[phase, rows, None])
        outputs = np.clip(outputs, -_OUTPUT_MAX, _OUTPUT_MAX)
        return outputs.reshape(self.group, count, *shape)


def _code_digits(frequencies, code, symbols):
    """Codes (S,) symbols, or decodes them where they are None, digit by digit."""
    found = None
    for index, width in enumerate(frequencies.digits):
        digit = None
        if symbols is not None:
            digit = symbols >> sum(frequencies.digits[index + 1 :]) & (2**width - 1)
        digit = code(frequencies.of_digit(index, found), digit)
        found = digit if found is None else found << width | digit
    return found


def _activate(total, scale):
    """Sums -> activations 0..255."""
    return np.clip(np.floor(total * scale), 0, ACTIVATION_MAX)


def _convolve(padded, weight, stride, size):
    """Convolution: (I, ...) padded and (O, I, K, K) -> (O, *size). Positions are i * stride."""
    outputs, inputs, side, _ = weight.shape
    height, width = size
    if not inputs:
        return np.zeros((outputs, height, width), weight.dtype)
    flat = weight.reshape(outputs, -1)
    result = np.empty((outputs, height, width), weight.dtype)
    windows = np.lib.stride_tricks.sliding_window_view(padded, (side, side), axis=(1, 2))
    windows = windows[:, ::stride, ::stride].transpose(0, 3, 4, 1, 2)
    step = max(1, _PATCH_ELEMENTS // (flat.shape[1] * width))
    for row in range(0, height, step):
        patches = windows[:, :, :, row : min(row + step, height), :width]
        patches = patches.reshape(flat.shape[1], -1)
        result[:, row : row + step] = (flat @ patches).reshape(outputs, -1, width)
    return result
