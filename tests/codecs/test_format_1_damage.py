"""Format 1 of the bitstream: damage is noticed, and hostile fields get no memory."""

import glob
import os
import random
import struct
import tracemalloc
import zlib

import pytest
import torch
from format_1 import FIELDS, MEGABYTE, STORED, refuse, sealed, stream_of, text, varint
from hypothesis import given, settings
from hypothesis import strategies as st

from d2_featcomp.codecs import (
    BitstreamError,
    DecodeLimits,
    FeatureBitstream,
    decompress_stream,
)

# ---- damage --------------------------------------------------------------------------------------


FILES = sorted(glob.glob("tests/fixtures/*.v1.d2fc"))


def read(path):
    with open(path, "rb") as file:
        return file.read()


STREAMS = {"stored": STORED, "layout": stream_of()}
STREAMS |= {os.path.basename(path): read(path) for path in FILES}
streams = pytest.mark.parametrize("data", STREAMS.values(), ids=STREAMS.keys())


@streams
def test_every_corrupt_byte_is_noticed(data):
    for position in range(0, len(data), 1 + len(data) // 100):
        for mask in (0x01, 0x10, 0x80, 0xFF):
            damaged = bytearray(data)
            damaged[position] ^= mask
            with pytest.raises(BitstreamError):
                FeatureBitstream.from_bytes(bytes(damaged))


@streams
def test_every_cut_is_noticed(data):
    for length in range(0, len(data), 1 + len(data) // 100):
        with pytest.raises(BitstreamError):
            FeatureBitstream.from_bytes(data[:length])


@streams
def test_whatever_is_cut_off_a_valid_checksum_does_not_help(data):
    for length in range(0, len(data) - 4, 1 + len(data) // 100):
        with pytest.raises(BitstreamError):
            FeatureBitstream.from_bytes(sealed(data[:length]))


@streams
def test_appended_bytes_are_noticed(data):
    generator = random.Random(0)
    # After a body and its CRC-32, these four bytes are the CRC-32 of all of it.
    residue = struct.pack("<I", zlib.crc32(data))
    assert zlib.crc32(data) == 0x2144DF1C
    tails = [b"\x00", b"\x00" * 4, b"\xff", data, residue, data[-4:]]
    tails += [generator.randbytes(length) for length in range(1, 30)]
    for tail in tails:
        with pytest.raises(BitstreamError):
            FeatureBitstream.from_bytes(data + tail)
        with pytest.raises(BitstreamError):
            FeatureBitstream.from_bytes(sealed(data[:-4] + tail))


@streams
def test_forged_bytes_are_decoded_or_refused_with_little_memory(data):
    """Any one byte replaced under a valid checksum: nothing but BitstreamError may come of it."""
    limits = DecodeLimits(max_elements=2**18)
    tracemalloc.start()
    refused = 0
    try:
        for position in [
            *range(4, min(50, len(data) - 4)),
            *range(50, len(data) - 4, 1 + len(data) // 100),
        ]:
            forged = bytearray(data[:-4])
            forged[position] ^= (0x01, 0x10, 0x80, 0xFF)[position % 4]
            try:
                stream = FeatureBitstream.from_bytes(sealed(bytes(forged)), limits)
                restored = decompress_stream(stream)
            except BitstreamError:
                refused += 1
            else:
                assert tuple(tuple(x.shape) for x in restored) == stream.shapes
                assert all(torch.isfinite(x).all() for x in restored)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert refused > 10
    assert peak < 8 * MEGABYTE


@settings(deadline=None, derandomize=True, max_examples=300)
@given(st.binary(max_size=200))
def test_arbitrary_bytes_are_refused(data):
    for candidate in (data, b"D2FC" + data, sealed(b"D2FC" + data), sealed(b"D2FC\x01" + data)):
        with pytest.raises(BitstreamError):
            FeatureBitstream.from_bytes(candidate)


# ---- hostile fields under a valid checksum -------------------------------------------------------

LARGEST = varint(2**35 - 1)
ONE = varint(1)


def shape_of(*sides):
    return b"".join(map(varint, sides))


HOSTILE = {
    "empty": (b"", "do not begin with D2"),
    "magic": (stream_of(magic=b"D3FC"), "do not begin with D2"),
    "magic alone": (b"D2FC", "cut short"),
    "magic and checksum": (sealed(b"D2FC"), "cut short"),
    "version alone": (sealed(b"D2FC\x01"), "cut short"),
    "version 0": (stream_of(version=b"\x00"), "format version 0, this program reads 1 and 2"),
    "version 2": (stream_of(version=b"\x02"), "format version 2, this program reads 1 and 2"),
    "flag 2": (stream_of(flags=b"\x02"), "unknown flags 0x02"),
    "flag 128": (stream_of(flags=b"\x81"), "unknown flags 0x81"),
    **{
        f"{bits} bits": (stream_of(bits=bytes([bits])), f"bit depth of {bits}$")
        for bits in (0, 1, 17, 31, 33, 64, 255)
    },
    "image area": (stream_of(sizes=6 * varint(2**14)), "an image of 268435456 pixels"),
    "32 bits, fixed range": (stream_of(bits=b"\x20"), "quantizer 1 at 32 bits"),
    "4 bits, no quantizer": (stream_of(quantizer=b"\x00"), "quantizer 0 at 4 bits"),
    "quantizer 4": (stream_of(quantizer=b"\x04"), "quantizer 4 at 4 bits"),
    "quantizer 255": (stream_of(quantizer=b"\xff"), "quantizer 255 at 4 bits"),
    "split not ASCII": (stream_of(split=text(b"MS\xc3\xa9")), "malformed name"),
    "codec not ASCII": (stream_of(codec=text(b"r\x80w")), "malformed name"),
    "split longer than the stream": (stream_of(split=b"\xffMSFC"), "cut short"),
    "codec unknown": (stream_of(codec=text(b"flif")), "unknown image codec 'flif'"),
    "codec empty": (stream_of(codec=text(b"")), "unknown image codec ''"),
    "codec that cannot carry the bits": (
        stream_of(codec=text(b"jpeg"), bits=b"\x09"),
        "'jpeg' carries no 9 bits",
    ),
    "floats by an image codec": (
        stream_of(codec=text(b"png"), bits=b"\x20", quantizer=b"\x00", ranges=b""),
        "'png' carries no 32 bits",
    ),
    "floats that are not finite": (
        stream_of(
            bits=b"\x20",
            quantizer=b"\x00",
            ranges=b"",
            length=varint(48),
            payload=struct.pack("<6f", 0, 1, 2, float("nan"), 4, 5),
        ),
        "NaN or infinite",
    ),
    "resized beyond padded": (
        stream_of(sizes=b"".join(map(varint, (192, 256, 193, 240, 480, 640)))),
        r"resized image of \(193, 240\) px in a padded one of \(192, 256\)",
    ),
    "original far beyond resized": (
        stream_of(sizes=b"".join(map(varint, (64, 64, 60, 60, 960, 961)))),
        "at most 256 times as many pixels",
    ),
    "original of many pixels": (
        stream_of(sizes=b"".join(map(varint, (800, 1344, 800, 1333, 4097, 4096)))),
        r"16781312 pixels \(original\); at most 16777216",
    ),
    "padded of many pixels": (
        stream_of(sizes=b"".join(map(varint, (2**12, 2**11 + 1, 60, 60, 60, 60)))),
        r"8392704 pixels \(padded\); at most 8388608",
    ),
    "floats too few": (
        stream_of(bits=b"\x20", quantizer=b"\x00", ranges=b""),
        "6 float32 features take 24 bytes, not 3",
    ),
    "channel ranges cut short": (
        stream_of(quantizer=b"\x03", shape=shape_of(2**20, 1, 1)),
        "cut short",
    ),
    "channel ranges in the payload": (stream_of(quantizer=b"\x03"), "cut short"),
    "no feature elements": (stream_of(feature_elements=b"\x00"), "no feature elements"),
    "no tensors": (stream_of(count=b"\x00"), "declares 0 tensors; 1 to 16"),
    "17 tensors": (stream_of(count=b"\x11"), "declares 17 tensors; 1 to 16"),
    "255 tensors": (stream_of(count=b"\xff"), "declares 255 tensors; 1 to 16"),
    "one tensor promised too many": (stream_of(count=b"\x02"), "malformed number"),  # its range
    "shape over the limit": (stream_of(shape=shape_of(2**13, 2**13, 2)), "1 to 67108864 elements"),
    "shape beyond all bounds": (stream_of(shape=3 * LARGEST), "1 to 67108864 elements"),
    "shape over the limit together": (
        stream_of(count=b"\x02", shape=shape_of(2**26, 1, 1) + ONE + shape_of(1, 1, 1)),
        "1 to 67108864 elements",
    ),
    "a shape within the limit without its payload": (
        stream_of(shape=shape_of(64, 1024, 1024)),
        "67108864 fixed-length symbols of 4 bits take 33554432 bytes, not 3",
    ),
    "the same, packed": (
        stream_of(codec=text(b"png"), shape=shape_of(64, 1024, 1024), length=varint(7)),
        "67108864 fixed-length symbols of 4 bits take 33554432 bytes, not 3",
    ),
    "payload length too small": (stream_of(length=varint(4)), "declares 2 payload bytes but holds 3"),
    "payload length 0": (stream_of(length=b"\x00"), "declares 0 payload bytes but holds 3"),
    "payload length too large": (stream_of(length=varint(8)), "declares 4 payload bytes but holds 3"),
    "payload length huge": (stream_of(length=LARGEST), "declares 17179869183 payload bytes but holds 3"),
    "payload missing": (stream_of(payload=b""), "declares 3 payload bytes but holds 0"),
    "payload and length wrong alike": (
        stream_of(payload=b"\x03\x69", length=varint(4)),
        "6 fixed-length symbols of 4 bits take 3 bytes, not 2",
    ),
    "payload followed by more": (stream_of(payload=bytes(4)), "declares 3 payload bytes but holds 4"),
    "payload of no image": (stream_of(codec=text(b"png")), "png payload cannot be decoded"),
    "number without an end": (stream_of(feature_elements=b"\xff" * 40), "malformed number"),
    "number of six bytes": (stream_of(feature_elements=b"\x81\x80\x80\x80\x80\x01"), "malformed number"),
    "number not in its shortest form": (stream_of(feature_elements=b"\x81\x00"), "malformed number"),
    "zero not in its shortest form": (
        stream_of(shape=b"\x80\x00" + varint(1) + varint(3)),
        "malformed number",
    ),
}
HOSTILE |= {
    f"side {axis} of the shape is 0": (
        stream_of(shape=shape_of(*(0 if axis == index else 2 for index in range(3)))),
        "1 to 67108864 elements",
    )
    for axis in range(3)
}
HOSTILE |= {
    f"image side {index} is {side}": (
        stream_of(sizes=shape_of(*(side if index == other else 32 for other in range(6)))),
        rf"image side of {side} px \(\w+\); 1 to 32768",
    )
    for index in range(6)
    for side in (0, 32769, 2**35 - 1)
}
HOSTILE |= {
    f"range {low} to {high}": (
        stream_of(ranges=struct.pack("<2e", low, high)),
        "malformed quantizer range",
    )
    for low, high in [
        (1.0, -1.0),
        (float("nan"), 1.0),
        (-1.0, float("nan")),
        (float("-inf"), 1.0),
        (-1.0, float("inf")),
        (float("inf"), float("inf")),
    ]
}


@pytest.mark.parametrize("data, message", HOSTILE.values(), ids=HOSTILE.keys())
def test_hostile_fields_are_refused_with_little_memory(data, message):
    refuse(data, message)


def test_the_stream_that_hostile_fields_are_put_into_is_sound():
    (restored,) = decompress_stream(FeatureBitstream.from_bytes(stream_of()))
    torch.testing.assert_close(restored, torch.linspace(-1, 1, 6).reshape(2, 1, 3))


def test_the_largest_accepted_values_are_accepted():
    FeatureBitstream.from_bytes(
        stream_of(sizes=3 * (varint(2**15) + varint(2**8)), feature_elements=LARGEST)
    )
    FeatureBitstream.from_bytes(stream_of(shape=shape_of(64, 1024, 1024)))
    count = stream_of(
        count=b"\x10",
        shape=15 * (shape_of(1, 1, 1) + varint(0)) + shape_of(2, 1, 3),
        ranges=16 * FIELDS["ranges"],
    )
    assert len(FeatureBitstream.from_bytes(count).tensors) == 16
    equal = struct.pack("<2e", 0.5, 0.5)
    (restored,) = decompress_stream(FeatureBitstream.from_bytes(stream_of(ranges=equal)))
    assert torch.equal(restored, torch.full((2, 1, 3), 0.5))


def test_limits_can_be_chosen():
    data = STORED
    exact = {"max_elements": 10, "max_image_side": 640, "max_tensors": 2}
    assert FeatureBitstream.from_bytes(data, DecodeLimits(**exact)).to_bytes() == data
    for key, message in [
        ("max_elements", "1 to 9 elements"),
        ("max_image_side", "1 to 639"),
        ("max_tensors", "1 to 1 are"),
    ]:
        refuse(data, message, limits=DecodeLimits(**{**exact, key: exact[key] - 1}))


def test_bytes_like_objects_are_read():
    for data in (bytearray(STORED), memoryview(STORED)):
        assert FeatureBitstream.from_bytes(data).to_bytes() == STORED
