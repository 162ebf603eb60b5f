"""Uniform scalar quantization of features, as in the three papers.

Shape shorthand in this module:
    C, H, W: channels, height and width of a feature
    n: bit depth; 2^n - 1 is the largest symbol
"""

import math

import torch

from . import arrays
from .bit_depths import FLOAT_BITS, check_bits

__all__ = [
    "add_quantization_noise",
    "dequantize_by_table",
    "dequantize_uniform",
    "deviation_range",
    "find_narrow_channels",
    "minmax_range",
    "quantize_minmax",
    "quantize_ste",
    "quantize_uniform",
]

Bound = float | torch.Tensor  # of a range


def _step(bits: int, low: Bound, high: Bound) -> Bound:
    """Computes the step size, between neighbouring reconstruction values; 0 for an empty range."""
    span, steps = high - low, 2**bits - 1
    # By a tensor: in place of dividing by a number, GPUs multiply by its rounded reciprocal.
    return span / (torch.full_like(span, steps) if isinstance(span, torch.Tensor) else steps)


def quantize_uniform(x: torch.Tensor, bits: int, low: Bound, high: Bound) -> torch.Tensor:
    """Quantizes uniformly to n bits, symbol = round((x - low) / (high - low) * (2^n - 1)).

    This is eq. 4 of the BaF paper, and the "n-bit uniform quantization" of the MSFC paper with
    low = -1 and high = 1. Values outside the range take the nearest symbol.

    Args:
        x (Tensor): float, any shape.
        bits (int): n, in 2..16; 32 returns `x` as float32.
        low, high (float or Tensor): range; tensors are broadcast against `x`. Where they are equal
            every symbol is 0.

    Returns:
        Tensor: shape of `x`; uint8 in [0, 2^n - 1] for n <= 8, else int32.

    Raises:
        ValueError: bit depth out of range, or a NaN or infinity in `x`.
    """
    bits = check_bits(bits)
    x = x.float()
    if bits == FLOAT_BITS:
        return x
    _require_finite(x)
    return _symbols(x, bits, low, high)


def quantize_minmax(
    x: torch.Tensor, bits: int, per_channel: bool
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Computes :func:`quantize_uniform` in the range of :func:`minmax_range`, in fewer passes.

    Args:
        x (Tensor): (C, H, W) float, not empty.
        bits (int): n, in 2..16; 32 returns `x` as float32.
        per_channel (bool): one range a channel instead of one for all.

    Returns:
        (Tensor, Tensor, Tensor): symbols, low and high, as those two return.

    Raises:
        ValueError: bit depth out of range, or a NaN or infinity in `x`.
    """
    bits = check_bits(bits)
    x = x.float()
    low, high, holds_all = _range(x, per_channel)
    if bits != FLOAT_BITS:
        x = _symbols(x, bits, low, high, clamp=not holds_all)
    return x, low, high


def _require_finite(x: torch.Tensor) -> None:
    # One pass; a sum that overflows asks for a second look.
    if not math.isfinite(x.detach().sum()) and not torch.isfinite(x).all():
        raise ValueError(arrays.NOT_FINITE)


def _symbols(x: torch.Tensor, bits: int, low: Bound, high: Bound, clamp: bool = True) -> torch.Tensor:
    step = torch.as_tensor(_step(bits, low, high), dtype=torch.float32, device=x.device)
    empty = step <= 0  # every symbol is 0
    symbols = (x - low).div_(step.masked_fill(empty, math.inf)).round_()
    if clamp:
        symbols = symbols.clamp_(0, 2**bits - 1)
        if empty.any():  # the difference of what lies far outside may be infinite, too
            symbols = symbols.masked_fill(empty, 0.0)
    return _to_integers(symbols, bits)


def _to_integers(symbols: torch.Tensor, bits: int) -> torch.Tensor:
    """Floats in [0, 2^n - 1] to uint8 or int32; PyTorch's way from float to uint8 is slow on CPUs."""
    if bits > 8:
        return symbols.to(torch.int32)
    if bits == 8:
        return symbols.to(torch.int16).to(torch.uint8)
    return symbols.to(torch.int8).view(torch.uint8)


def dequantize_uniform(symbols: torch.Tensor, bits: int, low: Bound, high: Bound) -> torch.Tensor:
    """Dequantizes, the inverse of :func:`quantize_uniform`: low + symbol / (2^n - 1) * (high - low).

    Args:
        symbols (Tensor): integers in [0, 2^n - 1]; any float dtype if `bits` is 32.
        bits (int): n, in 2..16, or 32.
        low, high (float or Tensor): the range that was quantized with.

    Returns:
        Tensor: float32, shape of `symbols`.
    """
    bits = check_bits(bits)
    if bits == FLOAT_BITS:
        return symbols.float()
    return symbols.float() * _step(bits, low, high) + low


def dequantize_by_table(
    symbols: torch.Tensor, bits: int, low: torch.Tensor, high: torch.Tensor
) -> torch.Tensor:
    """Computes :func:`dequantize_uniform` with all arithmetic done on the CPU, so that another device's
    way to multiply and add cannot change a bit of the result.

    Args:
        symbols (Tensor): (C, H, W) integers in [0, 2^n - 1], on any device.
        bits (int): n, in 2..16.
        low, high (Tensor): float32, (1, 1, 1) or (C, 1, 1): the range that was quantized with.

    Returns:
        Tensor: (C, H, W) float32, on the device of `symbols`.
    """
    low, high = low.cpu(), high.cpu()
    if low.numel() * 2**bits > symbols.numel():  # a table would be larger than what is looked up
        return dequantize_uniform(symbols.cpu(), bits, low, high).to(symbols.device)
    values = torch.arange(2**bits).expand(low.numel(), 1, 2**bits)
    table = dequantize_uniform(values, bits, low, high).to(symbols.device)
    rows = torch.arange(low.numel(), device=symbols.device)[:, None, None] * 2**bits
    return table.flatten()[symbols.long() + rows]


def minmax_range(x: torch.Tensor, per_channel: bool) -> tuple[torch.Tensor, torch.Tensor]:
    """Computes the range of a feature, as it is coded beside the symbols: two float16 a tensor or a
    channel.

    The minimum is rounded down and the maximum up, so that the range holds every value; a range
    whose two ends are the same float16 is kept as it is. Values beyond float16 are clipped to it.

    Args:
        x (Tensor): (C, H, W) float, not empty.
        per_channel (bool): one range a channel (BaF) instead of one for all (MTL).

    Returns:
        (Tensor, Tensor): low and high, float32 holding float16 values, each (C, 1, 1) or (1, 1, 1).

    Raises:
        ValueError: a NaN or infinity in `x`.
    """
    return _range(x.float(), per_channel)[:2]


def _range(x: torch.Tensor, per_channel: bool) -> tuple[torch.Tensor, torch.Tensor, bool]:
    """(Tensor, Tensor, bool): low, high, and whether no value lies outside."""
    dims = (1, 2) if per_channel else (0, 1, 2)
    x = x.detach()
    ends = torch.stack([x.amin(dim=dims, keepdim=True), -x.amax(dim=dims, keepdim=True)]).cpu()
    _require_finite(ends)  # both are NaN where a value is
    below = _float16_below(ends)
    low, minus_high = below.to(x.device)
    return low, -minus_high, not (below > ends).any()


def _float16_below(x: torch.Tensor) -> torch.Tensor:
    """See :func:`arrays.round_to_float16_below`; of a Tensor on the CPU."""
    return torch.from_numpy(arrays.round_to_float16_below(x.numpy()))


def deviation_range(x: torch.Tensor, deviations: float) -> tuple[torch.Tensor, torch.Tensor]:
    """Computes the range mean - k * std to mean + k * std of a feature, as two float16.

    In double precision, so that devices and orders of summation come to the same float16 unless an end
    lies on the border between two of them by 15 digits. As in :func:`minmax_range`, low is rounded down,
    high up, and values beyond float16 are clipped to it.

    Args:
        x (Tensor): (C, H, W) float, not empty.
        deviations (float): k.

    Returns:
        (Tensor, Tensor): low and high, (1, 1, 1) float32 holding float16 values.

    Raises:
        ValueError: a NaN or infinity in `x`.
    """
    _require_finite(x)
    values = x.detach().double()
    mean, half = values.mean(), deviations * values.std(unbiased=False)
    ends = torch.stack([mean - half, -mean - half]).cpu().reshape(2, 1, 1, 1)
    low, minus_high = _float16_below(ends).to(x.device)
    return low, -minus_high


def find_narrow_channels(x: torch.Tensor, share: float) -> tuple[torch.Tensor, torch.Tensor]:
    """Finds the channels whose range is below a share of the range of all.

    Args:
        x (Tensor): (C, H, W) float, not empty.
        share (float): 0..1.

    Returns:
        (Tensor, Tensor): (C, 1, 1), bool, which these are; and the middle of each channel's range, dtype
        of `x`.
    """
    low, high = x.amin(dim=(1, 2), keepdim=True), x.amax(dim=(1, 2), keepdim=True)
    return high - low < share * (high.max() - low.min()), low + (high - low) / 2


def add_quantization_noise(
    x: torch.Tensor,
    bits: int,
    low: Bound,
    high: Bound,
    generator: torch.Generator | None = None,
) -> torch.Tensor:
    """Adds uniform noise, one step size wide: a quantization surrogate for training.

    Args:
        x (Tensor): float, any shape.
        bits (int): n, in 2..16; 32 adds nothing.
        low, high (float or Tensor): range, broadcast against `x`.
        generator (torch.Generator or None): source of the noise.

    Returns:
        Tensor: `x` plus noise in [-1/2, 1/2) of a step size, same shape and dtype, differentiable.
    """
    bits = check_bits(bits)
    if bits == FLOAT_BITS:
        return x
    noise = torch.rand(x.shape, generator=generator, device=x.device, dtype=torch.float32) - 0.5
    return x + (noise * _step(bits, low, high)).to(x.dtype)


def quantize_ste(x: torch.Tensor, bits: int, low: Bound, high: Bound) -> torch.Tensor:
    """Quantizes and restores `x`; the gradient passes straight through the rounding.

    Args:
        x (Tensor): float, any shape.
        bits (int): n, in 2..16; 32 returns `x`.
        low, high (float or Tensor): range, broadcast against `x`. The gradient is 0 where `x` lies
            outside and is clipped.

    Returns:
        Tensor: restored values, shape and dtype of `x`.
    """
    bits = check_bits(bits)
    if bits == FLOAT_BITS:
        return x
    with torch.no_grad():
        restored = dequantize_uniform(quantize_uniform(x, bits, low, high), bits, low, high).to(x.dtype)
        inside = (x >= low) & (x <= high)
    passed = torch.where(inside, x, restored)
    return passed + (restored - passed).detach()
