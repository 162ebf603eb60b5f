"""Fixed-length coding: n bits a symbol, nothing else. The rate that the MSFC paper reports."""

import numpy as np

from ...ops import BIT_DEPTHS, FLOAT_BITS
from .base import IMAGE_CODEC_REGISTRY, BitstreamError, ImageCodec

__all__ = ["RawCodec", "count_fixed_length_bytes", "read_fixed_length", "write_fixed_length"]

_GROUP = 8  # symbols written together: n of up to 8 bits make n whole bytes


def count_fixed_length_bytes(count, bits):
    """Counts the bytes of fixed-length symbols: ceil(count * bits / 8)."""
    return -(-count * bits // 8)


def write_fixed_length(symbols, bits):
    """Writes fixed-length symbols of n bits, most significant bit first.

    Up to 8 bits the codes simply follow one another. Above, the upper 8 bits of all symbols come
    first, one byte each, then their lower n - 8 bits.

    Args:
        symbols (ndarray): uint8 or uint16, any shape, each below 2^n.
        bits (int): n, in 1..16.

    Returns:
        bytes: :func:`count_fixed_length_bytes` of them; unused bits at the end are 0.
    """
    symbols = symbols.reshape(-1)
    if bits == 8:
        return symbols.astype(np.uint8, copy=False).tobytes()
    if bits > 8:
        low = (symbols & (2 ** (bits - 8) - 1)).astype(np.uint8)
        return (symbols >> (bits - 8)).astype(np.uint8).tobytes() + write_fixed_length(low, bits - 8)
    groups = np.zeros(-(-symbols.size // _GROUP) * _GROUP, dtype=np.uint64)
    groups[: symbols.size] = symbols
    groups = groups.reshape(-1, _GROUP)
    words = np.zeros(len(groups), dtype=np.uint64)
    for position in range(_GROUP):
        words = (words << np.uint64(bits)) | groups[:, position]
    in_bytes = words.astype(">u8").view(np.uint8).reshape(-1, 8)[:, 8 - bits :]
    return in_bytes.tobytes()[: count_fixed_length_bytes(symbols.size, bits)]


def read_fixed_length(data, count, bits):
    """Inverse of :func:`write_fixed_length`.

    Args:
        data (bytes): exactly :func:`count_fixed_length_bytes` of them.
        count (int): number of symbols.
        bits (int): n, in 1..16.

    Returns:
        ndarray: (count,) uint8 if n <= 8, else uint16.

    Raises:
        BitstreamError: too few or too many bytes, or an unused bit that is set.
    """
    if len(data) != count_fixed_length_bytes(count, bits):
        raise BitstreamError(
            f"{count} fixed-length symbols of {bits} bits take "
            f"{count_fixed_length_bytes(count, bits)} bytes, not {len(data)}"
        )
    if bits == 8:
        return np.frombuffer(data, dtype=np.uint8)
    if bits > 8:
        high = np.frombuffer(data, dtype=np.uint8, count=count).astype(np.uint16)
        return (high << (bits - 8)) | read_fixed_length(data[count:], count, bits - 8)
    unused = -count * bits % 8
    if unused and data[-1] & (2**unused - 1):
        raise BitstreamError(
            "fixed-length symbols are in another form than the shortest: unused bits are set"
        )
    groups = -(-count // _GROUP)
    padded = np.zeros((groups, 8), dtype=np.uint8)
    tail = np.zeros(groups * bits, dtype=np.uint8)
    tail[: len(data)] = np.frombuffer(data, dtype=np.uint8)
    padded[:, 8 - bits :] = tail.reshape(groups, bits)
    words = padded.reshape(-1).view(">u8").astype(np.uint64)
    shifts = np.arange(_GROUP - 1, -1, -1, dtype=np.uint64) * np.uint64(bits)
    symbols = (words[:, None] >> shifts) & np.uint64(2**bits - 1)
    return symbols.astype(np.uint8).reshape(-1)[:count]


@IMAGE_CODEC_REGISTRY.register()
class RawCodec(ImageCodec):
    """n bits a symbol; at 32 bits the float32 features as they are."""

    name = "raw"
    bit_depths = (*BIT_DEPTHS, FLOAT_BITS)
    layout = "rows"

    def _encode(self, samples):
        return write_fixed_length(samples, self.bits)

    @staticmethod
    def _decode(data, *, shape, depth):
        return read_fixed_length(data, shape[0] * shape[1], depth).reshape(shape)
