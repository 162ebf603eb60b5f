"""The entropy model in integers: one and the same probabilities on every machine.

All numbers are integers that are held in floating point. Each sum is proved to stay below 2^24 when the
weights are made, so float32 holds every partial sum exactly, in whatever order a processor adds.

The model codes a map in groups of channels, one after the other, and each group in four phases, the
positions (0, 0), (1, 1), (0, 1), (1, 0) of each 2 x 2 block. What it says of a symbol depends on the
groups before (two convolutions) and on the earlier phases of its own group (one convolution).

Shape shorthand in this module:
    C, H, W: channels, height and width of a map; G: groups, of c channels each; F: hidden channels of a
    group; K: side of a kernel; O: outputs of a symbol; R: rate points
"""

import io
from dataclasses import dataclass, fields, replace
from functools import cached_property
from typing import NamedTuple

import numpy as np

from .frequencies import make_frequencies, outputs_per_symbol
from .range_coder import RangeDecoder, RangeEncoder
from .rates import interpolate_integers

__all__ = ["ACTIVATION_MAX", "ACTIVATION_UNIT", "EXACT", "KERNEL", "PHASES", "IntegerModel"]

PHASES = ((0, 0), (1, 1), (0, 1), (1, 0))
KERNEL = 5  # side of a kernel, but of the middle layer
ACTIVATION_UNIT = 5  # activations are counted in units of 2^-5
ACTIVATION_MAX = 255
EXACT = 2**24  # float32 holds all integers up to here
_SCALE, _BIAS = "_scale", "_bias"
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

    A model for several rates has R of each bias, in a dimension before these; :meth:`at_rate` gives the
    model that codes.
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

    def to_bytes(self):
        """Returns the model as a compressed NumPy archive, bytes: for programs without PyTorch."""
        arrays = {}
        for entry in fields(self):
            value = np.asarray(getattr(self, entry.name))
            if entry.name.endswith(_SCALE):  # powers of 2
                value = np.frexp(value)[1] - 1
            arrays[entry.name] = value.astype(np.int32)
        file = io.BytesIO()
        np.savez_compressed(file, **arrays)
        return file.getvalue()

    @classmethod
    def from_bytes(cls, data, dtype="float32"):
        """Inverse of :meth:`to_bytes`.

        Args:
            data (bytes): from a trusted place: a model that was changed decodes to nonsense.
            dtype (str): in which it computes, "float32" or "float64"; the results are the same.
        """
        settings = {}
        with np.load(io.BytesIO(data), allow_pickle=False) as arrays:
            for name in arrays.files:
                value = arrays[name]
                if value.ndim == 0:
                    settings[name] = int(value)
                else:
                    value = np.ldexp(1.0, value) if name.endswith(_SCALE) else value
                    settings[name] = value.astype(dtype)
        return cls(**settings)

    @property
    def group(self):
        """int: c, channels of a group."""
        return self.own_weight.shape[1]

    @property
    def hidden(self):
        """int: F."""
        return self.middle_weight.shape[1]

    @property
    def rates(self):
        """int: R."""
        return len(self.before_bias) if self.before_bias.ndim > 1 else 1

    def at_rate(self, code):
        """Returns the :class:`IntegerModel` of one rate, of a model for several.

        Args:
            code (int): 0..255, the rate in units of 1 / 255.
        """
        biases = {
            entry.name: interpolate_integers(getattr(self, entry.name), code).astype(
                self.before_bias.dtype
            )
            for entry in fields(self)
            if entry.name.endswith(_BIAS)
        }
        found = replace(self, **biases)
        found.__dict__["_groups"] = self._groups  # they hold no biases
        return found

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

    def count_macs(self, shape):
        """Counts the multiply-accumulates of coding a map, (C, H, W), or of decoding it: an int."""
        channels, height, width = shape
        found = 0
        for start, group in zip(range(0, channels, self.group), self._groups, strict=False):
            context = self.before_weight[: self.hidden, :start].size + group.middle.size
            found += height * width * context
            for phase, (y, x) in enumerate(PHASES):
                layers = group.own[phase].size + group.hidden[phase].size + group.head[phase].size
                found += -(-(height - y) // 2) * -(-(width - x) // 2) * layers
        return found

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
                part[...] = _code_digits(make_frequencies(outputs, self.bits), code, given).reshape(
                    part.shape
                )
                inside[start:stop, y::2, x::2] = 2 * part - (2**self.bits - 1)
        return found

    def _context(self, known, start, size):
        """What the groups before mean for a group: (F, H, W) sums of the middle layer."""
        group = self._groups[start // self.group]
        total = _convolve(known[:start], group.before, _ALL_TAPS, 1, size)
        total += self._biases[start // self.group].before
        activations = _activate(total, group.before_scale)
        side = self.middle_weight.shape[-1]
        margin = ((0, 0), (side // 2, side // 2), (side // 2, side // 2))
        return _convolve(np.pad(activations, margin), group.middle, _taps(side), 1, size)

    def _outputs(self, known, context, start, phase):
        """(c, O, h, w) integers that describe the symbols of one group and phase."""
        y, x = PHASES[phase]
        group, bias = self._groups[start // self.group], self._biases[start // self.group]
        total = context[:, y::2, x::2] + bias.own[phase]
        shape = total.shape[1:]
        if phase:  # nothing of the group is known before
            own = known[start : start + self.group, y:, x:]
            total += _convolve(own, group.own[phase], _EARLIER_TAPS[phase], 2, shape)
        hidden = _activate(total, group.own_scale).reshape(self.hidden, -1)
        total = group.hidden[phase] @ hidden
        total += bias.hidden[phase]
        total = group.head[phase] @ _activate(total, group.hidden_scale[phase])
        total += bias.head[phase]
        total *= group.head_scale[phase]
        np.floor(total, out=total)
        np.clip(total, -_OUTPUT_MAX, _OUTPUT_MAX, out=total)
        return total.reshape(self.group, -1, *shape)

    @cached_property
    def _groups(self):
        """list[_Group]"""
        own = np.split(self.own_weight, len(PHASES))
        found = []
        for start, rows, heads in self._rows_of_groups():
            found.append(
                _Group(
                    before=_by_taps(self.before_weight[rows, :start], _ALL_TAPS),
                    before_scale=self.before_scale[rows, None, None],
                    middle=_by_taps(self.middle_weight[rows], _taps(self.middle_weight.shape[-1])),
                    own=[
                        _by_taps(weight[rows], taps)
                        for weight, taps in zip(own, _EARLIER_TAPS, strict=True)
                    ],
                    own_scale=self.own_scale[rows, None, None],
                    hidden=self.hidden_weight[:, rows],
                    hidden_scale=self.hidden_scale[:, rows, None],
                    head=self.head_weight[:, heads],
                    head_scale=self.head_scale[:, heads, None],
                )
            )
        return found

    @cached_property
    def _biases(self):
        """list[_Biases]"""
        return [
            _Biases(
                before=self.before_bias[rows, None, None],
                own=self.own_bias[:, rows, None, None],
                hidden=self.hidden_bias[:, rows, None],
                head=self.head_bias[:, heads, None],
            )
            for _, rows, heads in self._rows_of_groups()
        ]

    def _rows_of_groups(self):
        """Yields of each group its first channel, and the rows of layers and of the head."""
        outputs = outputs_per_symbol(self.bits)
        for index in range(len(self.middle_weight) // self.hidden):
            rows = slice(index * self.hidden, (index + 1) * self.hidden)
            start = index * self.group
            yield start, rows, slice(start * outputs, (start + self.group) * outputs)


def _taps(side):
    """Positions (y, x) of a kernel, in its order."""
    return [(y, x) for y in range(side) for x in range(side)]


def _find_earlier_taps(phase):
    """Those of a kernel centred on a phase that lie on the phases before it."""
    (y, x), reach = PHASES[phase], KERNEL // 2
    return [
        (row, column)
        for row, column in _taps(KERNEL)
        if PHASES.index(((y + row - reach) % 2, (x + column - reach) % 2)) < phase
    ]


_ALL_TAPS = _taps(KERNEL)
_EARLIER_TAPS = [_find_earlier_taps(phase) for phase in range(len(PHASES))]


class _Biases(NamedTuple):
    """What is added to the products of one group."""

    before: np.ndarray
    own: np.ndarray
    hidden: np.ndarray
    head: np.ndarray


class _Group(NamedTuple):
    """The weights of one group as matrices, and what their products are multiplied with."""

    before: np.ndarray
    before_scale: np.ndarray
    middle: np.ndarray
    own: list
    own_scale: np.ndarray
    hidden: np.ndarray
    hidden_scale: np.ndarray
    head: np.ndarray
    head_scale: np.ndarray


def _by_taps(weight, taps):
    """(O, I, K, K) -> (O, taps * I), of the taps alone."""
    chosen = [weight[:, :, y, x] for y, x in taps]
    return np.concatenate(chosen, axis=1) if chosen else weight.reshape(len(weight), -1)[:, :0]


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
    """Sums -> activations 0..255, in place."""
    total *= scale
    np.floor(total, out=total)
    return np.clip(total, 0, ACTIVATION_MAX, out=total)


def _convolve(padded, matrix, taps, stride, size):
    """Convolves (I, ...) with a matrix of :func:`_by_taps`: (O, *size), at multiples of `stride`."""
    inputs, (height, width) = len(padded), size
    result = np.zeros((len(matrix), height * width), matrix.dtype)
    if not inputs:
        return result.reshape(-1, height, width)
    step = max(1, _PATCH_ELEMENTS // (matrix.shape[1] * width))
    patches = np.empty((len(taps), inputs, min(step, height), width), matrix.dtype)
    for row in range(0, height, step):
        rows = min(step, height - row)
        for patch, (y, x) in zip(patches, taps, strict=True):
            top = y + row * stride
            patch[:, :rows] = padded[
                :, top : top + rows * stride : stride, x : x + width * stride : stride
            ]
        columns = patches[:, :, :rows].reshape(matrix.shape[1], -1)
        np.matmul(matrix, columns, out=result[:, row * width : (row + rows) * width])
    return result.reshape(-1, height, width)
