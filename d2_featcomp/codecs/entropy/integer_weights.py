"""Integers that coding uses, made of trained weights once: where these are trained, and on no other
machine.

Shape shorthand in this module:
    O, I: outputs and inputs of a layer; R: rate points
"""

import zlib

import numpy as np
import torch
from torch import nn

from .integer_layers import ACTIVATION_MAX, ACTIVATION_UNIT, EXACT
from .rates import interpolate

__all__ = [
    "IntegerWeights",
    "activate",
    "as_integers",
    "bias_at_rate",
    "count_inputs",
    "largest_shift",
    "make_layer",
    "read_integers",
    "weight_rows",
]

_PREFIX = "integer_"
_LARGEST_SHIFT = 20


class IntegerWeights(nn.Module):
    """A module with buffers of integers, which a subclass makes of its parameters in
    :meth:`_make_integers`. Its constructor ends with :meth:`register_source`.

    Attributes:
        described (str): what the parameters are, for messages.
    """

    described = "the weights"

    def register_source(self):
        """Adds the buffer `integer_source`: the checksum of the weights that the integers were made of.
        It is saved with them, so that whoever loads both does not make them again."""
        self.register_buffer("integer_source", torch.tensor([-1]))
        self.register_state_dict_pre_hook(_update_before_saving)

    @torch.no_grad()
    def update(self):
        """Makes the integer weights from those that are trained.

        Raises:
            ValueError: a weight is not finite.
        """
        checksum = 0
        for weight in self.parameters():
            checksum = zlib.crc32(weight.detach().cpu().contiguous().numpy().data, checksum)
        if checksum == int(self.integer_source):
            return
        if not _all_finite(self):
            raise ValueError(f"{self.described} became infinite or NaN")
        self._make_integers()
        self.integer_source.fill_(checksum)

    def _make_integers(self):
        raise NotImplementedError

    def set_integers(self, layer, **parts):
        """Fills the buffers `integer_{layer}_{part}` with the values of `parts`, Tensors."""
        for part, value in parts.items():
            buffer = getattr(self, f"integer_{layer}_{part}")
            buffer.copy_(value.reshape(buffer.shape))


def read_integers(module, dtype):
    """Reads the integers of an :class:`IntegerWeights`, without those of its sub-modules.

    Args:
        module (IntegerWeights): with buffers "integer_...".
        dtype (str): of the result.

    Returns:
        dict[str, ndarray]: name without "integer_" -> array; for "..._shift" the scale 2^-shift, by the
        name "..._scale".
    """
    arrays = {}
    for name, buffer in module.named_buffers(recurse=False):
        if not name.startswith(_PREFIX) or name == f"{_PREFIX}source":
            continue
        name, array = name[len(_PREFIX) :], buffer.cpu().numpy()
        if name.endswith("_shift"):
            name, array = name.replace("_shift", "_scale"), np.ldexp(1.0, -array)
        arrays[name] = array.astype(dtype)
    return arrays


def count_inputs(weight):
    """Returns how many inputs each output of a layer sums, of its weight: of a convolution (O, I, K, K),
    or of matrices (..., O, I)."""
    return weight[0].numel() if weight.dim() == 4 else weight.shape[-1]


def activate(total):
    """Floats -> what integer activations can hold of them."""
    return total.clamp(0, ACTIVATION_MAX / 2**ACTIVATION_UNIT)


def bias_at_rate(bias, rates, rate):
    """Finds the bias of a layer at the rate of each map.

    Args:
        bias (Tensor): (O,), or (R, O) for several rates; O may be several dimensions.
        rates (int): R.
        rate (Tensor or None): (N,), 0..1; not used with one.

    Returns:
        Tensor: (N or 1, O, 1, 1).
    """
    bias = bias[None] if rates == 1 else interpolate(bias, rate)
    return bias[..., None, None]


def _all_finite(module):
    return all(torch.isfinite(weight).all() for weight in module.parameters())


def _update_before_saving(module, prefix, keep_vars):
    """Hook. The weights of a training that diverged are saved as they are."""
    if module.training and _all_finite(module):
        module.update()


def weight_rows(weight):
    """(O, ...) weights -> (O, I) float64."""
    return weight.double().flatten(1)


def largest_shift(terms, bias, unit=ACTIVATION_UNIT):
    """The largest k such that sums in units of 2^-k stay below 2^24.

    Args:
        terms (list[(Tensor, int, int)]): weights (O, I) float64, the exponent of the unit of what they
            are multiplied with, and its largest magnitude.
        bias (Tensor): (R, O).
        unit (int or Tensor): exponent of the unit of the output.

    Returns:
        Tensor: (O,) int64.
    """
    size, slack = bias.double().abs().amax(0), 1.0
    for weight, exponent, largest in terms:
        size = size + weight.abs().sum(1) * largest * 2.0**-exponent
        slack += 0.5 * largest * (weight != 0).sum(1)
    half = torch.exp2(-1.0 - torch.as_tensor(unit, dtype=torch.float64))
    shift = torch.log2((EXACT - 1 - slack) / (size + half)).floor().long()
    return shift.clamp(max=_LARGEST_SHIFT)


def make_layer(terms, bias, unit=ACTIVATION_UNIT):
    """:func:`as_integers` with :func:`largest_shift`."""
    return as_integers(terms, bias, largest_shift(terms, bias, unit), unit)


def as_integers(terms, bias, shift, unit=ACTIVATION_UNIT):
    """Rounds a layer, and proves that its sums are exact.

    Args:
        terms, bias, unit: as :func:`largest_shift` takes them.
        shift (Tensor): (O,), of :func:`largest_shift`, or less.

    Returns:
        (list[Tensor], Tensor, Tensor): the weights, the bias with the half that rounds, and the shift
        that takes a sum to the unit of the output.

    Raises:
        ValueError: a sum may reach 2^24.
    """
    half = torch.where(shift > unit, torch.exp2((shift - unit - 1).double()), 0.0)
    integer_bias = torch.round(torch.ldexp(bias.double(), shift)) + half
    reached, weights = integer_bias.abs().amax(0), []
    for weight, exponent, largest in terms:
        weights.append(torch.round(torch.ldexp(weight, (shift - exponent)[:, None])))
        reached = reached + weights[-1].abs().sum(1) * largest
    if not (reached < EXACT).all():
        raise ValueError("the entropy model's weights are too large to be computed exactly")
    return weights, integer_bias, shift - unit
