"""Channels of one symbol: which they are, and that symbol, in place of a whole map each.

Shape shorthand in this module:
    C, H, W: channels, height and width of a latent; n: bit depth
"""

import numpy as np

from .images import BitstreamError
from .images.raw import count_fixed_length_bytes, read_fixed_length, write_fixed_length

__all__ = ["CONSTANT_CHANNELS", "read_constant_channels", "write_constant_channels"]

CONSTANT_CHANNELS = "c"  # name of the string in a bitstream, short since each holds it


def write_constant_channels(symbols, bits):
    """Writes which channels are constant, and their symbols.

    Args:
        symbols (ndarray): (C, H, W) uint8 or uint16, not empty.
        bits (int): n, 2..16.

    Returns:
        (ndarray, bytes): (C,) bool, the channels that are still to be coded; and what tells the others:
        a bit for each channel, 1 if it is still to be coded, the first one most significant, in whole
        bytes; then fixed-length symbols of the others.
    """
    flat = symbols.reshape(len(symbols), -1)
    coded = (flat != flat[:, :1]).any(axis=1)
    return coded, np.packbits(coded).tobytes() + write_fixed_length(flat[~coded, 0], bits)


def read_constant_channels(data, channels, bits):
    """Inverse of :func:`write_constant_channels`.

    Args:
        data (bytes): from anywhere.
        channels (int): C.
        bits (int): n.

    Returns:
        (ndarray, ndarray): (C,) bool, the channels that are coded; the symbols of the others, uint8 or
        uint16.

    Raises:
        BitstreamError: too few or too many bytes, or bits set beyond the last channel or symbol.
    """
    size = count_fixed_length_bytes(channels, 1)
    if len(data) < size:
        raise BitstreamError(f"feature bitstream holds {len(data)} bytes to list {channels} channels")
    coded = np.unpackbits(np.frombuffer(data[:size], np.uint8), count=channels).astype(bool)
    symbols = read_fixed_length(data[size:], channels - int(coded.sum()), bits)
    if np.packbits(coded).tobytes() + write_fixed_length(symbols, bits) != data:
        raise BitstreamError("feature bitstream lists its channels in another form than the shortest")
    return coded, symbols
