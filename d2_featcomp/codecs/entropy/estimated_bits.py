"""Bits that symbols will take, of what the entropy model says of them, with gradients.

Shape shorthand in this module:
    N: maps; C, h, w: channels, height and width of a part of each; O: outputs of a symbol
"""

import math

import torch
import torch.nn.functional as F

from .frequencies import COMPONENTS, LEAST_FREQUENCY, SOFTMAX_BITS
from .tables import SCALE_OFFSET, SCALES

__all__ = ["estimate_bits"]


def estimate_bits(outputs, positions, bits):
    """Estimates the bits of symbols before they are rounded: between two symbols those of both, in
    proportion to the nearness.

    Args:
        outputs (Tensor): (N, C, O, h, w) float, of the entropy model.
        positions (Tensor): (N, C, h, w) float, 0..2^n - 1.
        bits (int): n, of a symbol.

    Returns:
        Tensor: (N, C, h, w) bits.
    """
    lower = positions.detach().floor().clamp(0, 2**bits - 2)
    share = positions - lower
    if bits <= SOFTMAX_BITS:
        below, above = _softmax_bits(outputs, lower)
    else:
        below, above = _mixture_bits(outputs, lower, bits)
    return below + share * (above - below)


def _softmax_bits(outputs, lower):
    """Bits of the symbols `lower` and `lower + 1`."""
    found = -outputs.log_softmax(dim=2) / math.log(2)
    lower = lower.long()[:, :, None]
    return found.gather(2, lower)[:, :, 0], found.gather(2, lower + 1)[:, :, 0]


def _mixture_bits(outputs, lower, bits):
    """The same by a mixture, stacked.

    In logarithms, and with a gradient where the probability is the least that there is: a component
    that is narrow and elsewhere comes back.
    """
    highest = 2**bits - 1
    logits, means, scales = outputs.unflatten(2, (3, COMPONENTS)).unbind(2)
    means = means * 2 ** (bits - 2) + highest / 2
    scales = _Limited.apply(scales, -SCALE_OFFSET / 8, (SCALES - 1 - SCALE_OFFSET) / 8)
    inverse = (-scales).exp()
    ends = torch.stack([lower, lower + 1, lower + 2], dim=0)[:, :, :, None] - 0.5
    distances = (ends - means) * inverse
    below = F.logsigmoid(distances)
    above = below - distances
    # sigmoid(b) - sigmoid(a) = sigmoid(b) sigmoid(-a) (1 - exp(a - b)); here b - a is `inverse`.
    first, last = ends[:-1] < 0, ends[1:] > highest
    inside = torch.where(first | last, 0.0, torch.log(-torch.expm1(-inverse)))
    of_each = torch.where(last, 0.0, below[1:]) + torch.where(first, 0.0, above[:-1]) + inside
    found = torch.logsumexp(of_each + logits.log_softmax(dim=2), dim=3)
    least = LEAST_FREQUENCY / 2**40
    nats = math.log1p(least * 2**bits) - torch.log(found.exp() + least)
    missing = torch.log1p((math.log(least) - found).clamp(min=0))
    return (nats + missing - missing.detach()) / math.log(2)


class _Limited(torch.autograd.Function):
    """Clamps; beyond the ends gradients pass that lead back, so that nothing stays there for good."""

    @staticmethod
    def forward(ctx, values, low, high):
        ctx.save_for_backward(values)
        ctx.ends = low, high
        return values.clamp(low, high)

    @staticmethod
    def backward(ctx, gradient):
        (values,), (low, high) = ctx.saved_tensors, ctx.ends
        outwards = (values < low) & (gradient > 0) | (values > high) & (gradient < 0)
        return gradient.masked_fill(outwards, 0.0), None, None
