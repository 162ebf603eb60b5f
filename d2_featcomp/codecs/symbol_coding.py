"""Symbols and their range -> a coded tensor. NumPy alone.

Shape shorthand in this module:
    C, H, W: channels, height and width of a latent; n: bit depth
"""

import numpy as np

from ..ops import tile_channels
from .constant_channels import CONSTANT_CHANNELS, write_constant_channels
from .entropy import interpolate_integers
from .images.raw import count_fixed_length_bytes, write_fixed_length
from .structures import CodedTensor

__all__ = ["STEP_UNIT", "arrange", "code_floats", "code_symbols", "prepend_rate", "scale_range"]

STEP_UNIT = 12  # integer step sizes are counted in units of 2^-12


def _rows(symbols):
    return symbols.reshape(len(symbols), -1)


def _colour(symbols):
    if len(symbols) != 3:
        raise ValueError(
            f"a colour codec takes 3 channels, not {len(symbols)}: it is for MODEL.FEATCOMP.SPLIT "
            "ImageSplit"
        )
    return symbols.transpose(1, 2, 0)


_ARRANGE = {"tiles": tile_channels, "rows": _rows, "colour": _colour}


def arrange(symbols, layout):
    """(C, H, W) symbols, ndarray -> the image that a codec of this layout takes, see
    :class:`ImageCodec`."""
    return _ARRANGE[layout](symbols)


def code_symbols(symbols, ranges, bits, quantizer, encode):
    """Codes the symbols of a latent, or writes them with fixed length where that takes fewer bytes.

    Args:
        symbols (ndarray): (C, H, W) uint8 if n <= 8, else uint16.
        ranges ((ndarray, ndarray)): low and high of `quantizer`, each (1 or C, 1, 1) float32.
        bits (int): n.
        quantizer (Quantizer): of the symbols.
        encode (callable): (C', H, W) symbols of the channels that are coded -> bytes.

    Returns:
        CodedTensor
    """
    pairs, strings = None, {}
    if quantizer.count_ranges(len(symbols)):
        pairs = np.stack([end.reshape(-1) for end in ranges], axis=1).astype(np.float16)
    if quantizer.omits_channels:
        coded, strings[CONSTANT_CHANNELS] = write_constant_channels(symbols, bits)
        symbols = symbols[coded]
    payload = encode(symbols) if len(symbols) else b""
    fixed_length = len(payload) > count_fixed_length_bytes(symbols.size, bits)
    if fixed_length:
        payload = write_fixed_length(symbols, bits)
    return CodedTensor({**strings, "y": payload}, pairs, fixed_length)


def code_floats(y):
    """Codes a latent, ndarray, as float32: a CodedTensor.

    Raises:
        ValueError: a NaN or infinity in it.
    """
    if not np.isfinite(y).all():
        raise ValueError("cannot code: the features contain NaN or infinite values")
    return CodedTensor({"y": np.ascontiguousarray(y).astype("<f4", copy=False).tobytes()})


# ---- at one of several rates -----------------------------------------------------------------------


def scale_range(low, high, points, code, bits):
    """Finds the range of the symbols at a rate, by operations that IEEE 754 fixes.

    Args:
        low, high (ndarray): (1 or C, 1, 1) float32, the range of the latent.
        points (ndarray): (R, C) int32, step sizes at the rate points, in units of 2^-12 of the smallest.
        code (int): 0..255, the rate.
        bits (int): n.

    Returns:
        (ndarray, ndarray): the values of symbols 0 and 2^n - 1, each (C, 1, 1) float32. Symbol 2^(n-1)
        is the middle of the latent's range.
    """
    low, high = low.astype(np.float64), high.astype(np.float64)
    zero = 2 ** (bits - 1)
    relative = (interpolate_integers(points, code) * 2.0**-STEP_UNIT)[:, None, None]
    step = relative * ((high - low) / 2) / (zero - 1)
    middle = (low + high) / 2
    return (middle - zero * step).astype(np.float32), (middle + (zero - 1) * step).astype(np.float32)


def prepend_rate(coded, code):
    """A CodedTensor whose payload begins with the rate, 0..255."""
    return CodedTensor({"y": bytes([code]) + coded.payload}, coded.ranges, coded.fixed_length)
