"""The hyper-latent of an entropy model as networks that are trained.

Shape shorthand in this module:
    N: maps; C, H, W: channels, height and width of a map; Z: channels of its hyper-latent; F: hidden
    channels; K: side of a kernel; R: rate points
"""

import math

import torch
import torch.nn.functional as F
from torch import nn

from .integer_analysis import HYPER_STRIDE, IntegerAnalysis
from .integer_layers import ACTIVATION_MAX, ACTIVATION_UNIT, KERNEL
from .integer_weights import (
    IntegerWeights,
    activate,
    bias_at_rate,
    make_layer,
    read_integers,
    weight_rows,
)

__all__ = ["HYPER_BITS", "HyperLatent"]

HYPER_BITS = 4  # of a symbol of the hyper-latent


class HyperLatent(IntegerWeights):
    """A small latent that is made of symbols and coded before them (Balle et al., ICLR 2018): two
    convolutions of stride 2, and rounding.

    Float counterpart of :class:`IntegerAnalysis`.

    Args:
        model (ContextModel): codes the hyper-latent, with Z channels of 4 bits.
        channels (int): C.
        bits (int): n, of the symbols.
        hidden (int): F.
        rates (int): R; as :class:`ContextModel` takes it.
    """

    described = "the hyper-latent's weights"

    def __init__(self, model, *, channels, bits, hidden, rates=1):
        super().__init__()
        self.model, self.bits, self.rates = model, bits, rates
        sizes = {"first": (hidden, channels), "second": (model.channels, hidden)}
        for name, (outputs, inputs) in sizes.items():
            shape = (outputs, inputs, KERNEL, KERNEL)
            biases = (outputs,) if rates == 1 else (rates, outputs)
            self.register_parameter(f"{name}_weight", nn.Parameter(torch.empty(shape)))
            self.register_parameter(f"{name}_bias", nn.Parameter(torch.zeros(biases)))
            for part, size in (("weight", shape), ("bias", biases), ("shift", (outputs,))):
                empty = torch.zeros(size, dtype=torch.int32)
                self.register_buffer(f"integer_{name}_{part}", empty)
        self.register_source()
        self.reset_parameters()

    def reset_parameters(self):
        """Random weights; the hyper-latent spans some of its symbols from the start."""
        for name in ("first", "second"):
            weight = getattr(self, f"{name}_weight")
            nn.init.normal_(weight, std=1 / math.sqrt(weight[0].numel()))
        self.second_weight.data *= 4

    def forward(self, known, mask=None, rate=None):
        """Makes the hyper-latent of symbols.

        Args:
            known (Tensor): (N, C, H, W) float, symbols as odd numbers in units of 2^(n - 1).
            mask (Tensor or None), rate (Tensor or None): as :meth:`ContextModel.forward` takes them.

        Returns:
            (Tensor, Tensor): the hyper-latent enlarged to the size of the symbols, (N, Z, H, W), odd
            numbers in units of 8, its gradient straight through rounding; and its bits, a scalar.
        """
        hidden = activate(self._halve("first", known, rate))
        if mask is not None:
            hidden = hidden * mask[:, :, ::2, ::2]
        highest = 2**HYPER_BITS - 1
        position = self._halve("second", hidden, rate) + highest / 2
        small_mask = None if mask is None else mask[:, :, ::HYPER_STRIDE, ::HYPER_STRIDE]
        bits = self.model(position, small_mask, rate)
        inside = position.clamp(0, highest)
        rounded = inside + (inside.round() - inside).detach()
        odd = (2 * rounded - highest) / 2 ** (HYPER_BITS - 1)
        enlarged = F.interpolate(odd, scale_factor=HYPER_STRIDE)[..., : known.shape[2], : known.shape[3]]
        return (enlarged if mask is None else enlarged * mask), bits

    def _halve(self, name, values, rate):
        weight, bias = getattr(self, f"{name}_weight"), getattr(self, f"{name}_bias")
        total = F.conv2d(values, weight, stride=2, padding=KERNEL // 2)
        return total + bias_at_rate(bias, self.rates, rate)

    def update(self):
        """See :meth:`IntegerWeights.update`."""
        self.model.update()
        super().update()

    def _make_integers(self):
        given = {name: weight.detach().cpu() for name, weight in self.named_parameters(recurse=False)}
        half = (2**HYPER_BITS - 1) / 2
        for name, unit, largest, offset, output in (
            ("first", self.bits - 1, 2**self.bits - 1, 0.0, ACTIVATION_UNIT),
            ("second", ACTIVATION_UNIT, ACTIVATION_MAX, half, 0),
        ):
            bias = given[f"{name}_bias"] + offset
            bias = bias[None] if self.rates == 1 else bias
            term = (weight_rows(given[f"{name}_weight"]), unit, largest)
            (weight,), bias, shift = make_layer([term], bias, output)
            self.set_integers(name, weight=weight, bias=bias, shift=shift)

    def integer_analysis(self, dtype="float32"):
        """Returns the :class:`IntegerAnalysis` of the integer weights."""
        return IntegerAnalysis(**read_integers(self, dtype))
