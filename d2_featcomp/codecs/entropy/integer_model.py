"""The entropy model in integers: one and the same probabilities on every machine.

Each sum is proved to stay below 2^24 when the weights are made (see :mod:`.integer_layers`).

The model codes a map in groups of channels, one after the other, and each group in four phases, the
positions (0, 0), (1, 1), (0, 1), (1, 0) of each 2 x 2 block. What it says of a symbol depends on the
groups before (two convolutions) and on the earlier phases of its own group (one convolution). A
hyper-latent, which is coded first, may stand beside the groups before, or in place of all context.

Shape shorthand in this module:
    C, H, W: channels, height and width of a map; Z: channels of its hyper-latent, 0 without one;
    G: groups, of c channels each; F: hidden channels of a group; K: side of a kernel; O: outputs of a
    symbol; R: rate points
"""

import io
from dataclasses import dataclass, replace
from functools import cached_property
from typing import NamedTuple

import numpy as np

from .frequencies import make_frequencies, outputs_per_symbol
from .integer_analysis import HYPER_STRIDE, IntegerAnalysis, shrink_size
from .integer_layers import (
    ALL_TAPS,
    KERNEL,
    activate,
    as_odd,
    biases_at_rate,
    by_taps,
    convolve,
    enlarge,
    kernel_taps,
    pack,
    scale_and_clip,
    unpack,
)
from .range_coder import RangeDecoder, RangeEncoder

__all__ = ["PHASES", "IntegerModel"]

PHASES = ((0, 0), (1, 1), (0, 1), (1, 0))
_OUTPUT_MAX = 2**15


@dataclass(frozen=True, eq=False)
class IntegerModel:
    """Weights of the entropy model, all integers in float32, and how they are used.

    A layer's sum, times its scale, a power of 2, rounded down, is its output: biases hold the half that
    makes this rounding to nearest.

    Attributes:
        bits (int): n, of a symbol.
        channels (int): C. The last group may have fewer than c of them.
        before_weight, before_bias, before_scale (ndarray): (G * F, Z + G * c, K, K), (G * F,), (G * F,):
            on the hyper-latent and the groups before.
        middle_weight (ndarray): (G * F, F, K, K): on the result.
        own_weight (ndarray): (4 * G * F, c, K, K): on the phases before; added to the middle layer's.
        own_bias, own_scale (ndarray): (4, G * F), (G * F,): of that sum.
        hidden_weight, hidden_bias, hidden_scale (ndarray): (4, G * F, F), (4, G * F), (4, G * F).
        head_weight, head_bias, head_scale (ndarray): (4, G * c * O, F), (4, G * c * O), (4, G * c * O).
        hyper_analysis (IntegerAnalysis or None), hyper_model (IntegerModel or None): make the
            hyper-latent of symbols, and code it.

    A model for several rates has R of each bias, in a dimension before these; :meth:`at_rate` gives the
    model that codes. A model without context has one group, and of `before_weight` and `own_weight` no
    columns for symbols: (F, Z, K, K) and (4 * F, 0, K, K).
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
    hyper_analysis: IntegerAnalysis | None = None
    hyper_model: "IntegerModel | None" = None

    def to_bytes(self):
        """Returns the model as a compressed NumPy archive, bytes: for programs without PyTorch."""
        file = io.BytesIO()
        np.savez_compressed(file, **pack(self))
        return file.getvalue()

    @classmethod
    def from_bytes(cls, data, dtype="float32"):
        """Inverse of :meth:`to_bytes`.

        Args:
            data (bytes): from a trusted place: a model that was changed decodes to nonsense.
            dtype (str): in which it computes, "float32" or "float64"; the results are the same.
        """
        with np.load(io.BytesIO(data), allow_pickle=False) as arrays:
            return cls._unpack(dict(arrays), dtype)

    @classmethod
    def _unpack(cls, arrays, dtype, prefix=""):
        settings = unpack(cls, arrays, dtype, prefix)
        if any(name.startswith(prefix + "hyper_model.") for name in arrays):
            analysis = unpack(IntegerAnalysis, arrays, dtype, prefix + "hyper_analysis.")
            settings["hyper_analysis"] = IntegerAnalysis(**analysis)
            settings["hyper_model"] = cls._unpack(arrays, dtype, prefix + "hyper_model.")
        return cls(**settings)

    @cached_property
    def group(self):
        """int: c, channels of a group."""
        groups = len(self.middle_weight) // self.hidden
        return self.head_weight.shape[-2] // groups // outputs_per_symbol(self.bits)

    @cached_property
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
        found = biases_at_rate(self, code)
        if self.hyper_model is not None:
            analysis, model = self.hyper_analysis.at_rate(code), self.hyper_model.at_rate(code)
            found = replace(found, hyper_analysis=analysis, hyper_model=model)
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
        self.walk(symbols.shape, coder.code, symbols)
        return coder.finish()

    def decode(self, payload, shape):
        """Inverse of :meth:`encode`.

        Args:
            payload (bytes): from anywhere.
            shape ((int, int, int)): C, H, W.

        Returns:
            ndarray: (C, H, W) int32.

        Raises:
            BitstreamError: it is not the payload of any symbols of that shape; with a hyper-latent, of
                any symbols beside any hyper-latent, be it the one that is made of them or not.
        """
        coder = RangeDecoder(payload)
        symbols = self.walk(shape, coder.code)
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

        self.walk(symbols.shape, add, symbols)
        return float(bits)

    def count_macs(self, shape):
        """Counts the multiply-accumulates of coding a map, (C, H, W): an int."""
        channels, height, width = shape
        found, first = 0, self._hyper_channels
        if first:
            found += self.hyper_analysis.count_macs((height, width))
            found += self.hyper_model.count_macs((first, *shrink_size((height, width), HYPER_STRIDE)))
        for start, group in zip(range(0, channels, self.group), self._groups, strict=False):
            context = self.before_weight[: self.hidden, : first + start].size + group.middle.size
            found += height * width * context
            for phase, (y, x) in enumerate(PHASES):
                layers = group.own[phase].size + group.hidden[phase].size + group.head[phase].size
                found += -(-(height - y) // 2) * -(-(width - x) // 2) * layers
        return found

    def walk(self, shape, code, symbols=None):
        """Goes through the hyper-latent, and the groups and phases of a map, in the order of coding.

        Args:
            shape ((int, int, int)): C, H, W.
            code (callable): of (S, k) frequencies and (S,) symbols, or None; returns (S,) symbols.
            symbols (ndarray or None): (C, H, W), where they are known.

        Returns:
            ndarray: (C, H, W) int32, the symbols that `code` returned.
        """
        channels, height, width = shape
        found = np.zeros(shape, np.int32)
        inputs, margin = self.before_weight.shape[1], KERNEL // 2
        # Symbols as odd numbers, symmetric to 0; 0 is what is not known, or outside.
        known = np.zeros((inputs, height + 2 * margin, width + 2 * margin), self._dtype)
        inside = known[:, margin : margin + height, margin : margin + width]
        first = self._hyper_channels
        if first:
            inside[:first] = self._walk_hyper_latent((height, width), code, symbols)
        for start in range(0, channels, self.group):
            stop = min(start + self.group, channels)
            context = self._context(known[: first + start], start, (height, width))
            own = known[first + start : first + start + self.group]
            for phase, (y, x) in enumerate(PHASES):
                if y >= height or x >= width:
                    continue
                outputs = self._outputs(own, context, start, phase)
                outputs = outputs[: stop - start].reshape(stop - start, outputs.shape[1], -1)
                part = found[start:stop, y::2, x::2]
                given = None if symbols is None else symbols[start:stop, y::2, x::2].reshape(-1)
                part[...] = _code_digits(make_frequencies(outputs, self.bits), code, given).reshape(
                    part.shape
                )
                if self._has_context:
                    inside[first + start : first + stop, y::2, x::2] = as_odd(part, self.bits)
        return found

    def _walk_hyper_latent(self, size, code, symbols):
        """Codes the hyper-latent, or decodes it; returns it, (Z, H, W), enlarged to the map's size."""
        bits = self.hyper_model.bits
        if symbols is not None:
            odd = as_odd(symbols.astype(self._dtype), self.bits)
            symbols = self.hyper_analysis.compute(odd, bits)
        shape = (self._hyper_channels, *shrink_size(size, HYPER_STRIDE))
        found = as_odd(self.hyper_model.walk(shape, code, symbols), bits)
        enlarged = found.repeat(HYPER_STRIDE, axis=1).repeat(HYPER_STRIDE, axis=2)
        return enlarged[:, : size[0], : size[1]]

    @property
    def _hyper_channels(self):
        """int: Z."""
        return 0 if self.hyper_model is None else self.hyper_model.channels

    @property
    def _dtype(self):
        return self.before_weight.dtype

    @property
    def _has_context(self):
        """bool: whether symbols depend on other symbols, and not on the hyper-latent alone."""
        return self.own_weight.shape[1] > 0

    def _context(self, known, start, size):
        """What the hyper-latent and the groups before, `known`, mean for a group: (F, H, W) sums of the
        middle layer."""
        group = self._groups[start // self.group]
        total = convolve(known, group.before, ALL_TAPS, 1, size)
        total += self._biases[start // self.group].before
        activations = activate(total, group.before_scale)
        side = self.middle_weight.shape[-1]
        return convolve(enlarge(activations, side // 2), group.middle, kernel_taps(side), 1, size)

    def _outputs(self, own, context, start, phase):
        """(c, O, h, w) integers that describe the symbols of one group and phase."""
        y, x = PHASES[phase]
        group, bias = self._groups[start // self.group], self._biases[start // self.group]
        total = context[:, y::2, x::2] + bias.own[phase]
        shape = total.shape[1:]
        if phase and self._has_context:  # nothing of the group is known before
            total += convolve(own[:, y:, x:], group.own[phase], _EARLIER_TAPS[phase], 2, shape)
        hidden = activate(total, group.own_scale).reshape(self.hidden, -1)
        total = group.hidden[phase] @ hidden
        total += bias.hidden[phase]
        total = group.head[phase] @ activate(total, group.hidden_scale[phase])
        total += bias.head[phase]
        scale_and_clip(total, group.head_scale[phase], -_OUTPUT_MAX, _OUTPUT_MAX)
        return total.reshape(self.group, -1, *shape)

    @cached_property
    def _groups(self):
        """list[_Group]"""
        own = np.split(self.own_weight, len(PHASES))
        first = self._hyper_channels
        found = []
        for start, rows, heads in self._rows_of_groups():
            found.append(
                _Group(
                    before=by_taps(self.before_weight[rows, : first + start], ALL_TAPS),
                    before_scale=self.before_scale[rows, None, None],
                    middle=by_taps(self.middle_weight[rows], kernel_taps(self.middle_weight.shape[-1])),
                    own=[
                        by_taps(weight[rows], taps)
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


def _find_earlier_taps(phase):
    """Those of a kernel centred on a phase that lie on the phases before it."""
    (y, x), reach = PHASES[phase], KERNEL // 2
    return [
        (row, column)
        for row, column in kernel_taps(KERNEL)
        if PHASES.index(((y + row - reach) % 2, (x + column - reach) % 2)) < phase
    ]


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
