"""Format 2 of the bitstream: damage is noticed, and hostile fields get no memory."""

import contextlib
import dataclasses
import random
import struct
import tracemalloc
import zlib

import pytest
import torch
from format_2 import (
    CODECS,
    FIELDS,
    FINGERPRINT,
    MEGABYTE,
    RANGES,
    TABLE,
    codec_of,
    compress,
    ramp,
    sealed,
    size,
    stream_of,
    text,
    varint,
)
from hypothesis import given, settings
from hypothesis import strategies as st

from d2_featcomp.codecs import (
    BitstreamError,
    CodedTensor,
    DecodeLimits,
    FeatureBitstream,
    ImageSizes,
    decompress_stream,
)
from d2_featcomp.ops import quantize_uniform, tile_channels

# ---- damage --------------------------------------------------------------------------------------


def as_coded(name, y, bits=4):
    """A stream that holds the image codec's data even where fixed-length symbols would be smaller."""
    codec = codec_of(name, bits)
    symbols = quantize_uniform(y, bits, -1, 1)
    image = tile_channels(symbols) if codec.image_codec.layout == "tiles" else symbols.flatten(1)
    tensor = CodedTensor({"y": codec.image_codec.encode(image.numpy())})
    return dataclasses.replace(compress([y], codec), tensors=[tensor]), codec


def representatives():
    for name, ys, codec in [
        ("raw", [ramp(2, 1, 3)], codec_of()),
        ("raw-16-tensor", [ramp(3, 3, 2), ramp(1, 1, 1)], codec_of("raw", 16, "tensor")),
        ("raw-32", [ramp(1, 2, 3)], codec_of("raw", 32)),
    ]:
        yield name, (compress(ys, codec), codec)
    for name in CODECS:
        yield f"{name}-4", as_coded(name, ramp(3, 2, 3))
        codec = codec_of(name, 6, "channel")
        ys = [torch.full((4, 9, 9), 0.5), ramp(5, 2, 2)]
        yield f"{name}-6-channel", (compress(ys, codec), codec)


STREAMS = dict(representatives())
streams = pytest.mark.parametrize(("stream", "codec"), STREAMS.values(), ids=STREAMS.keys())


def test_fixed_length_symbols_and_every_image_codec_meet_the_damage():
    tensors = [(s.codec, tensor.fixed_length) for s, _ in STREAMS.values() for tensor in s.tensors]
    assert set(CODECS) == {codec for codec, fixed_length in tensors if not fixed_length}
    assert {"png", "jpegxl", "jpegls"} <= {codec for codec, fixed_length in tensors if fixed_length}


@streams
def test_every_corrupt_byte_cut_and_appended_byte_is_noticed(stream, codec):
    data, generator = stream.to_bytes(), random.Random(0)
    damaged = [data[:length] for length in range(len(data))]
    damaged += [sealed(data[:length]) for length in range(8)]
    for position in range(len(data)):
        for mask in generator.sample(range(1, 256), 4):
            damaged.append(data[:position] + bytes([data[position] ^ mask]) + data[position + 1 :])
    tails = [b"\x00", b"\x00" * 4, b"\xff", data, data[-4:]]
    damaged += [data + tail for tail in tails]
    for candidate in damaged:
        with pytest.raises(BitstreamError):
            FeatureBitstream.from_bytes(candidate)


def decode(data, stream, codec, limits):
    received = FeatureBitstream.from_bytes(data, limits)
    return decompress_stream(received.described(stream.description), codec)


@streams
def test_forged_bytes_are_decoded_or_refused_with_little_memory(stream, codec):
    """Any byte replaced, cut off or added under a valid checksum: nothing but BitstreamError may come of
    it, and no two streams may mean the same."""
    data, limits, refused = stream.to_bytes(), DecodeLimits(), 0
    forged = [sealed(data[:length]) for length in range(len(data) - 4)]
    forged += [sealed(data[:-4] + tail) for tail in (b"\x00", b"\xff" * 9, data)]
    # After a body and its CRC-32, these four bytes are the CRC-32 of all of it.
    assert zlib.crc32(data) == 0x2144DF1C
    forged.append(sealed(data))
    for position in range(2, len(data) - 4):
        for mask in ((0x01, 0x80), (0x10, 0xFF))[position % 2]:
            changed = bytes([data[position] ^ mask])
            forged.append(sealed(data[:position] + changed + data[position + 1 : -4]))
    peak = 0
    for number, candidate in enumerate(forged):
        watched = number % 13 == 0  # it takes long; each mask in turn
        if watched:
            tracemalloc.start()
        try:
            restored = decode(candidate, stream, codec, limits)
        except BitstreamError:
            refused += 1
        else:
            assert tuple(tuple(y.shape) for y in restored) == stream.shapes
            assert all(torch.isfinite(y).all() for y in restored)
            assert FeatureBitstream.from_bytes(candidate).to_bytes() == candidate
        finally:
            if watched:
                peak = max(peak, tracemalloc.get_traced_memory()[1])
                tracemalloc.stop()
    assert refused > 20
    assert 0 < peak < 8 * MEGABYTE


@settings(deadline=None, derandomize=True, max_examples=300)
@given(st.binary(max_size=200))
def test_arbitrary_bytes_are_refused_or_read_as_they_are(data):
    for candidate in (data, sealed(data), sealed(b"D2\x02" + data)):
        with contextlib.suppress(BitstreamError):
            assert FeatureBitstream.from_bytes(candidate).to_bytes() == candidate


# ---- hostile fields under a valid checksum -------------------------------------------------------

LARGEST = varint(2**35 - 1)
ONE = b"\x01\x02" + text(b"") + varint(3)  # a table of one tensor of one string, without its ranges


def with_table(table, ranges=b"", payload=FIELDS["payload"]):
    return stream_of(flags=b"\x1d", table=table, ranges=ranges, payload=payload)


HOSTILE = {
    "empty": (b"", "do not begin with D2"),
    "magic": (stream_of(magic=b"D3"), "do not begin with D2"),
    "magic alone": (sealed(b"D2"), "cut short"),
    "version 0": (stream_of(version=b"\x00"), "format version 0, this program reads 1 and 2"),
    "version 1 after D2": (stream_of(version=b"\x01"), "format version 1, this program"),
    "version 3": (stream_of(version=b"\x03"), "format version 3, this program reads 1 and 2"),
    "flag 64": (stream_of(flags=b"\x4d"), "unknown flags 0x4d"),
    "flag 128": (stream_of(flags=b"\x8d"), "unknown flags 0x8d"),
    "fixed-length beside a table": (
        stream_of(flags=b"\x3d", table=ONE + b"\x01", ranges=RANGES[:4]),
        "shortest form",
    ),
    "a table where none is needed": (with_table(ONE + b"\x00"), "shortest form"),
    "padding of a larger power": (
        stream_of(flags=b"\x07", resized=size(256, 256), original=b""),
        "shortest form",
    ),
    "padding written out": (
        stream_of(flags=b"\x09", padded=size(192, 256)),
        "shortest form",
    ),
    "original written out": (stream_of(original=size(180, 240)), "shortest form"),
    "cut in the sizes": (sealed(b"D2\x02\x0d" + FINGERPRINT + b"\xb4"), "cut short"),
    "number not in its shortest form": (stream_of(resized=b"\xb4\x81\x00\x7f"), "malformed number"),
    "number of six bytes": (stream_of(resized=b"\x81\x80\x80\x80\x80\x01\x7f"), "malformed number"),
    "resized height 0": (stream_of(resized=size(0, 240)), r"image side of 0 px \(padded\)"),
    "resized width 32769": (stream_of(resized=size(1, 32769)), r"image side of \d+ px \(padded\)"),
    "original width 0": (stream_of(original=size(480, 0)), r"image side of 0 px \(original\)"),
    "padded smaller": (
        stream_of(flags=b"\x09", padded=size(180, 239)),
        r"resized image of \(180, 240\) px in a padded one of \(180, 239\)",
    ),
    "padded of many pixels": (
        stream_of(resized=size(8192, 8192)),
        r"67108864 pixels \(padded\); at most 8388608 are accepted \(DecodeLimits.max_image_pixels, --",
    ),
    "original of many pixels": (
        stream_of(resized=size(800, 1333), original=size(4097, 4096)),
        r"16781312 pixels \(original\); at most 16777216",
    ),
    "original far beyond resized": (
        stream_of(resized=size(60, 60), original=size(960, 961)),
        "at most 256 times as many pixels",
    ),
    "original of 3000 x 3000 for a small network": (
        stream_of(resized=size(128, 128), original=size(3000, 3000)),
        "at most 256 times as many pixels",
    ),
    "no tensors": (with_table(b"\x00"), "declares 0 tensors; 1 to 16"),
    "17 tensors": (with_table(b"\x11"), "declares 17 tensors; 1 to 16"),
    "2^35 tensors": (with_table(LARGEST), "declares 34359738367 tensors"),
    "no strings": (with_table(b"\x01\x00\x00"), "declares 0 strings of a tensor; 1 to 16"),
    "17 strings": (with_table(b"\x01\x22"), "declares 17 strings of a tensor; 1 to 16"),
    "2^34 strings": (with_table(b"\x01" + LARGEST), "declares 17179869183 strings"),
    "fixed-length without y": (
        with_table(b"\x01\x03" + text(b"z") + varint(3) + b"\x00"),
        "declares fixed-length symbols but holds none",
    ),
    "y written out": (
        with_table(b"\x01\x02" + text(b"y") + varint(3) + b"\x01", RANGES[:4]),
        "shortest",
    ),
    "the same name twice": (
        with_table(b"\x01\x04" + 2 * (text(b"a") + varint(1)) + b"\x00", payload=b"12"),
        "malformed name",
    ),
    "names not in order": (
        with_table(
            b"\x01\x04" + text(b"b") + varint(1) + text(b"a") + varint(1) + b"\x00", payload=b"12"
        ),
        "shortest form",
    ),
    "name not ASCII": (
        with_table(b"\x01\x02" + text(b"\xc3\xa9") + varint(3) + b"\x00"),
        "malformed name",
    ),
    "name not printable": (
        with_table(b"\x01\x02" + text(b"a\n") + varint(3) + b"\x00"),
        "malformed name",
    ),
    "name longer than the stream": (with_table(b"\x01\x02\xffab"), "cut short"),
    "more ranges than bytes": (with_table(ONE + varint(9)), "cut short"),
    "2^35 ranges": (with_table(ONE + LARGEST), "cut short"),
    "string too short": (
        with_table(b"\x01\x02" + text(b"z") + varint(2) + b"\x00"),
        "declares 2 payload bytes but holds 3",
    ),
    "string too long": (
        with_table(b"\x01\x02" + text(b"z") + varint(4) + b"\x00"),
        "declares 4 payload bytes but holds 3",
    ),
    "string huge": (
        with_table(b"\x01\x02" + text(b"z") + LARGEST + b"\x00"),
        "declares 34359738367 payload bytes but holds 3",
    ),
}
HOSTILE |= {
    f"range {low} to {high}": (
        with_table(ONE + b"\x01", struct.pack("<2e", low, high)),
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


@pytest.mark.parametrize(("data", "message"), HOSTILE.values(), ids=HOSTILE.keys())
def test_hostile_fields_are_refused_with_little_memory(data, message):
    tracemalloc.start()
    try:
        with pytest.raises(BitstreamError, match=message) as caught:
            FeatureBitstream.from_bytes(data)
        used = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert type(caught.value) is BitstreamError
    assert used < MEGABYTE


def test_the_largest_accepted_sizes_are_accepted():
    for resized, original in [
        ((2048, 4096), (4096, 4096)),
        ((256, 256), (4096, 4096)),
        ((1, 1), (16, 16)),
    ]:
        DecodeLimits().check_sizes(ImageSizes(resized, resized, original))
    for original in [(3024, 4032), (4000, 3000), (1080, 1920), (3456, 4608)]:  # of phones and cameras
        DecodeLimits().check_sizes(ImageSizes((800, 1344), (800, 1066), original))


def test_limits_can_be_chosen():
    data = with_table(TABLE, RANGES, b"yyyZ")
    exact = {
        "max_image_side": 640,
        "max_image_pixels": 192 * 256,
        "max_original_pixels": 480 * 640,
        "max_enlargement": 8,  # 7.1
        "max_tensors": 2,
        "max_strings": 2,
    }
    assert FeatureBitstream.from_bytes(data, DecodeLimits(**exact)).to_bytes() == data
    for key, value in exact.items():
        with pytest.raises(BitstreamError):
            FeatureBitstream.from_bytes(data, DecodeLimits(**{**exact, key: value - 1}))


def test_bytes_like_objects_are_read():
    for data in (bytearray(stream_of()), memoryview(stream_of())):
        assert FeatureBitstream.from_bytes(data).to_bytes() == stream_of()


@pytest.mark.parametrize("name", [name for name in CODECS if name != "raw"])
def test_a_small_payload_that_promises_a_huge_image_gets_no_memory(name):
    """`raw` promises nothing: the length of its payload is the number of its symbols."""
    stream, codec = as_coded(name, torch.zeros(1, 1024, 2048))
    tracemalloc.start()
    try:
        with pytest.raises(BitstreamError, match=name):
            codec.decompress(stream.tensors, [(1, 8, 8)])
        assert tracemalloc.get_traced_memory()[1] < MEGABYTE
    finally:
        tracemalloc.stop()
