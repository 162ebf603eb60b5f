"""Symbols of any depth, packed without gaps."""

import numpy as np
import pytest
from gray_codecs import CLASSES, dtype_of, noise

from d2_featcomp.codecs import (
    BitstreamError,
    build_image_codec,
)
from d2_featcomp.codecs.images.raw import count_fixed_length_bytes, read_fixed_length, write_fixed_length


@pytest.mark.parametrize(
    "bits, symbols, packed",
    [
        (1, [1, 0, 0, 1, 1, 0, 0, 0, 1], "98 80"),
        (2, [0, 1, 2, 3, 3], "1b c0"),
        (3, [1, 2, 3, 4, 5, 6, 7, 0], "29 cb b8"),
        (4, [1, 15, 7], "1f 70"),
        (5, [1, 2, 31], "08 be"),
        (7, [127, 1], "fe 04"),
        (8, [0, 127, 255], "00 7f ff"),
        (9, [0x1FF, 0, 0x101], "ff 00 80 a0"),
        (10, [0x3FF, 0x001, 0x200], "ff 00 80 d0"),
        (12, [0xABC, 0x123], "ab 12 c3"),
        (16, [0x1234, 0xABCD], "12 ab 34 cd"),
        (4, [], ""),
    ],
)
def test_hand_worked_packing(bits, symbols, packed):
    symbols = np.array(symbols, dtype=dtype_of(bits))
    packed = bytes.fromhex(packed)
    assert write_fixed_length(symbols, bits) == packed
    assert count_fixed_length_bytes(len(symbols), bits) == len(packed)
    result = read_fixed_length(packed, len(symbols), bits)
    assert result.dtype == symbols.dtype
    assert np.array_equal(result, symbols)


def in_binary(values, bits):
    """The codes one after the other, by way of text."""
    text = "".join(format(value, f"0{bits}b") for value in values)
    text += "0" * (-len(text) % 8)
    return bytes(int(text[start : start + 8], 2) for start in range(0, len(text), 8))


@pytest.mark.parametrize("count", [1, 2, 7, 8, 9, 64, 101])
@pytest.mark.parametrize("bits", range(1, 17))
def test_packing_at_every_depth(bits, count):
    symbols = noise(count, bits, seed=count)
    symbols[-1] = 2**bits - 1
    values = symbols.tolist()
    if bits <= 8:
        expected = in_binary(values, bits)
    else:
        expected = bytes(value >> (bits - 8) for value in values)
        expected += in_binary([value % 2 ** (bits - 8) for value in values], bits - 8)
    packed = write_fixed_length(symbols, bits)
    assert packed == expected
    assert len(packed) == count_fixed_length_bytes(count, bits) == (count * bits + 7) // 8
    assert np.array_equal(read_fixed_length(packed, count, bits), symbols)


@pytest.mark.parametrize("bits", [1, 2, 7, 12, 15])
def test_unused_bits_are_0(bits):
    packed = write_fixed_length(noise(19, bits), bits)
    for unused in range(-19 * bits % 8):
        changed = packed[:-1] + bytes([packed[-1] | 1 << unused])
        with pytest.raises(BitstreamError, match="unused bits are set"):
            read_fixed_length(changed, 19, bits)


@pytest.mark.parametrize("bits", range(1, 17))
def test_packed_symbols_of_the_wrong_length_are_refused(bits):
    packed = write_fixed_length(noise(19, bits), bits)
    for data in (b"", packed[:-1], packed + b"\x00", packed + packed):
        taken = f"19 fixed-length symbols of {bits} bits take {len(packed)}"
        with pytest.raises(BitstreamError, match=taken):
            read_fixed_length(data, 19, bits)


@pytest.mark.parametrize("bits", range(2, 17))
def test_the_raw_codec_is_plain_packing(bits):
    symbols = noise((3, 5), bits)
    data = build_image_codec("raw", bits=bits).encode(symbols)
    assert data == write_fixed_length(symbols.reshape(-1), bits)
    for other in (data[:-1], data + b"\x00"):
        with pytest.raises(BitstreamError):
            CLASSES["raw"].decode(other, shape=(3, 5), bits=bits, lossless=True)
