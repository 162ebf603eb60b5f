import dataclasses
import random
import struct
import tracemalloc
import zlib

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays_of

from d2_featcomp.codecs import (
    IMAGE_CODEC_REGISTRY,
    BitstreamError,
    CodedTensor,
    DecodeLimits,
    FeatureBitstream,
    FeatureCodec,
    ImageSizes,
    build_image_codec,
)
from d2_featcomp.ops import dequantize_uniform, minmax_range, quantize_uniform, tile_channels

SIZES = ImageSizes((192, 256), (180, 240), (480, 640))
SHAPES = [(1, 1, 1), (3, 1, 1), (1, 5, 3), (5, 3, 7), (8, 4, 4), (2, 1, 9)]
LARGER_SHAPES = [(2, 40, 40), (13, 16, 18)]
MEGABYTE = 1 << 20


def installed_codecs():
    for name, codec in IMAGE_CODEC_REGISTRY:
        try:
            codec.require_library()
        except ImportError:
            continue
        if codec.layout != "colour":
            yield name


CODECS = sorted(installed_codecs())


def compress(features, codec="raw", bits=4, quality=None, effort=None, quantizer="fixed", **others):
    """A stream of `features` (list of tensors) with the given settings."""
    image_codec = build_image_codec(codec, bits=bits, quality=quality, effort=effort)
    fields = {
        "split": "MSFC",
        "fingerprint": b"\x01\xfe\x80\x7f",
        "sizes": SIZES,
        "feature_elements": 86016,
    }
    return FeatureCodec(image_codec=image_codec, quantizer=quantizer).compress(
        features, **{**fields, **others}
    )


def as_coded(codec, x, bits=4):
    """A stream that holds the image codec's data even where packed symbols would be smaller."""
    image_codec = build_image_codec(codec, bits=bits)
    symbols = quantize_uniform(x, bits, -1, 1)
    image = tile_channels(symbols) if image_codec.layout == "tiles" else symbols.flatten(1)
    tensor = CodedTensor(
        tuple(x.shape), np.array([[-1, 1]], np.float16), image_codec.encode(image.numpy()), packed=False
    )
    return dataclasses.replace(compress([x], codec, bits), tensors=[tensor])


def ramp(*shape):
    """Features that run from -1 to 1."""
    return torch.linspace(-1, 1, int(np.prod(shape))).reshape(shape)


def same_bits(first, second):
    return first.shape == second.shape and first.numpy().tobytes() == second.numpy().tobytes()


# ---- the layout, written a second time -----------------------------------------------------------


def varint(value):
    """Unsigned LEB128 in its shortest form."""
    low, high = value % 128, value // 128
    return bytes([low]) if high == 0 else bytes([low + 128]) + varint(high)


def text(characters):
    return bytes([len(characters)]) + characters


FIELDS = {
    "magic": b"D2FC",
    "version": b"\x01",
    "flags": b"\x01",
    "bits": b"\x04",
    "quantizer": b"\x01",
    "split": text(b"MSFC"),
    "codec": text(b"raw"),
    "fingerprint": b"\x01\xfe\x80\x7f",
    "sizes": b"".join(map(varint, (192, 256, 180, 240, 480, 640))),
    "feature_elements": varint(86016),
    "count": b"\x01",
    "shape": varint(2) + varint(1) + varint(3),
    "length": varint(2 * 3),
    "ranges": struct.pack("<2e", -1.0, 1.0),
    "payload": bytes.fromhex("03 69 cf"),
}


def sealed(body):
    """`body` with a valid checksum."""
    return body + struct.pack("<I", zlib.crc32(body))


def stream_of(**fields):
    """The bytes of a small stream, some of its fields replaced, with a valid checksum."""
    assert set(fields) <= set(FIELDS)
    return sealed(b"".join({**FIELDS, **fields}.values()))


def refuse(data, match=None, peak=MEGABYTE, limits=None):
    """Asserts that neither reading nor decoding accepts `data`, and that little memory is taken."""
    tracemalloc.start()
    try:
        with pytest.raises(BitstreamError, match=match) as caught:
            stream = FeatureBitstream.from_bytes(data, **({"limits": limits} if limits else {}))
            FeatureCodec.decompress(stream)
        used = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert type(caught.value) is BitstreamError
    assert used < peak


# ---- yesterday's bytes ---------------------------------------------------------------------------

# raw, 4 bits, one range for each channel; two tensors: 2 x 1 x 3 and 1 x 2 x 2.
STORED = bytes.fromhex(
    "44324643 01 01 04 03 044d534643 03726177 01fe807f"
    "c001 8002 b401 f001 e003 8005 80a005 02"
    "020103 06  010202 04"
    "00bc 003c  0000 0047  00c0 00b8"
    "07f0af  05af"
    "d6e07cfc"
)


def test_stored_streams_stay_readable():
    """Whatever the format becomes, version 1 must be read as it was written."""
    stream = FeatureBitstream.from_bytes(STORED)
    assert (stream.split, stream.codec, stream.lossless) == ("MSFC", "raw", True)
    assert (stream.bits, stream.quantizer) == (4, "channel")
    assert stream.fingerprint == b"\x01\xfe\x80\x7f"
    assert stream.sizes == SIZES
    assert stream.feature_elements == 86016
    assert [tensor.shape for tensor in stream.tensors] == [(2, 1, 3), (1, 2, 2)]
    assert stream.tensors[0].ranges.tolist() == [[-1.0, 1.0], [0.0, 7.0]]
    assert stream.tensors[1].ranges.tolist() == [[-2.0, -0.5]]
    assert [tensor.payload.hex() for tensor in stream.tensors] == ["07f0af", "05af"]
    first, second = FeatureCodec.decompress(stream)
    expected = [[[-1, -1 + 7 * 2 / 15, 1]], [[0, 10 * 7 / 15, 7]]]
    torch.testing.assert_close(first, torch.tensor(expected))
    torch.testing.assert_close(second, torch.tensor([[[-2, -1.5], [-1, -0.5]]]))
    assert stream.to_bytes() == STORED


def test_todays_writer_writes_the_stored_bytes():
    first = torch.tensor([[[-1.0, -0.1, 1.0]], [[0.0, 4.6, 7.0]]])
    second = torch.tensor([[[-2.0, -1.5], [-1.0, -0.5]]])
    assert compress([first, second], quantizer="channel").to_bytes() == STORED


def test_the_layout_is_the_documented_one():
    """Steps of 2/15 from -1: the six values are symbols 0, 3, 6, 9, 12 and 15."""
    stream = compress([ramp(2, 1, 3)])
    assert stream.to_bytes() == stream_of()
    assert stream.header_bits == 8 * (len(stream_of()) - 4 - 3)
    assert (stream.side_info_bits, stream.payload_bits) == (32, 24)
    assert stream.total_bits == 8 * len(stream_of())
    assert stream.bpfe == stream.total_bits / 86016


# ---- round trips ---------------------------------------------------------------------------------


@st.composite
def small_features(draw):
    """Any finite float32 values."""
    elements = st.floats(width=32, allow_nan=False, allow_infinity=False) | st.floats(-1, 1, width=32)
    shape = draw(st.sampled_from(SHAPES))
    return torch.from_numpy(draw(arrays_of.arrays(np.float32, shape, elements=elements)))


@st.composite
def larger_features(draw):
    """Waves of any scale, which image codecs make smaller than packed symbols."""
    scale = draw(st.sampled_from([1e-30, 1e-6, 0.01, 0.9, 3.0, 1e4, 1e30]))
    x = ramp(*draw(st.sampled_from(LARGER_SHAPES)))
    return scale * torch.cos(draw(st.integers(0, 9)) * x + draw(st.floats(0, 3)))


@st.composite
def codings(draw):
    """Settings of the codec and features to code."""
    name = draw(st.sampled_from(CODECS))
    codec = IMAGE_CODEC_REGISTRY.get(name)
    low, high = codec.quality_range or (0, 0)
    quality = draw(st.none() | st.integers(low, high)) if codec.quality_range else None
    return {
        "features": draw(st.lists(small_features() | larger_features(), min_size=1, max_size=2)),
        "codec": name,
        "bits": draw(st.sampled_from(sorted(codec.bit_depths))),
        "quality": quality,
        "effort": draw(st.sampled_from([None, codec.effort_range[0]])) if codec.effort_range else None,
        "quantizer": draw(st.sampled_from(["fixed", "tensor", "channel"])),
    }


def expected_features(x, bits, quantizer):
    if bits == 32:
        return x
    low, high = (-1.0, 1.0) if quantizer == "fixed" else minmax_range(x, quantizer == "channel")
    return dequantize_uniform(quantize_uniform(x, bits, low, high), bits, low, high)


def assert_half_a_step_away(restored, x, tensor, bits):
    """Worked out in float64 from the ranges that were sent; values outside count as the range's end."""
    low, high = torch.from_numpy(tensor.ranges.astype(np.float64))[..., None, None].unbind(1)
    half_step = (high - low) / (2**bits - 1) / 2
    rounding = 4e-7 * torch.maximum(low.abs(), high.abs())
    error = (restored.double() - x.double().clamp(low, high)).abs()
    assert (error <= 1.02 * half_step + rounding).all()


@settings(deadline=None, derandomize=True, max_examples=500)
@given(codings())
def test_every_coding_round_trips(coding):
    stream = compress(**coding)
    data = stream.to_bytes()
    assert stream.header_bits + stream.side_info_bits + stream.payload_bits == 8 * len(data)
    assert stream.total_bits == 8 * len(data)
    received = FeatureBitstream.from_bytes(data)
    assert received.to_bytes() == data
    assert (received.codec, received.bits) == (coding["codec"], coding["bits"])
    assert received.lossless == stream.lossless
    assert received.sizes == SIZES
    restored, at_once = FeatureCodec.decompress(received), FeatureCodec.decompress(stream)
    assert len(restored) == len(coding["features"])
    for x, y, same, tensor in zip(coding["features"], restored, at_once, stream.tensors, strict=True):
        assert (y.shape, y.dtype) == (x.shape, torch.float32)
        assert same_bits(y, same)
        if coding["bits"] == 32:
            assert same_bits(x, y)
        elif stream.lossless or tensor.packed:
            # `-0.0 == 0.0`: which of the two a range's end is, is not sent.
            assert torch.equal(y, expected_features(x, coding["bits"], coding["quantizer"]))
            assert_half_a_step_away(y, x, tensor, coding["bits"])
        else:
            low, high = torch.from_numpy(tensor.ranges.astype(np.float32))[..., None, None].unbind(1)
            rounding = 4e-7 * torch.maximum(low.abs(), high.abs())
            assert ((y >= low - rounding) & (y <= high + rounding)).all()


@settings(deadline=None, derandomize=True, max_examples=200)
@given(
    split=st.text(st.characters(max_codepoint=127), max_size=40),
    fingerprint=st.binary(min_size=4, max_size=4),
    sides=st.lists(st.integers(1, 2**13), min_size=6, max_size=6),
    feature_elements=st.integers(1, 2**35 - 1),
)
def test_what_is_known_of_the_image_round_trips(split, fingerprint, sides, feature_elements):
    sizes = ImageSizes(tuple(sides[:2]), tuple(sides[2:4]), tuple(sides[4:]))
    fields = {
        "split": split,
        "fingerprint": fingerprint,
        "sizes": sizes,
        "feature_elements": feature_elements,
    }
    stream = compress([ramp(1, 2, 2)], **fields)
    data = stream.to_bytes()
    received = FeatureBitstream.from_bytes(data)
    assert stream.total_bits == 8 * len(data)
    assert {key: getattr(received, key) for key in fields} == fields


# ---- damage --------------------------------------------------------------------------------------


def representatives():
    yield "raw", compress([ramp(2, 1, 3)])
    yield "raw-16-tensor", compress([ramp(3, 3, 2), ramp(1, 1, 1)], bits=16, quantizer="tensor")
    yield "raw-32", compress([ramp(1, 2, 3)], bits=32)
    for name in CODECS:
        yield f"{name}-4", as_coded(name, ramp(3, 2, 3))
        constant = torch.full((4, 9, 9), 0.5)
        yield (
            f"{name}-6-channel",
            compress([constant, ramp(5, 2, 2)], codec=name, bits=6, quantizer="channel"),
        )


STREAMS = {name: stream.to_bytes() for name, stream in representatives()}
streams = pytest.mark.parametrize("data", STREAMS.values(), ids=STREAMS.keys())


def test_packed_symbols_and_every_image_codec_meet_the_damage():
    tensors = [
        (stream.codec, tensor.packed)
        for stream in map(FeatureBitstream.from_bytes, STREAMS.values())
        for tensor in stream.tensors
    ]
    assert set(CODECS) == {codec for codec, packed in tensors if not packed}
    assert {"png", "jpegxl", "jpegls"} <= {codec for codec, packed in tensors if packed}


@streams
def test_every_corrupt_byte_is_noticed(data):
    for position in range(len(data)):
        for mask in range(1, 256):
            damaged = bytearray(data)
            damaged[position] ^= mask
            with pytest.raises(BitstreamError):
                FeatureBitstream.from_bytes(bytes(damaged))


@streams
def test_every_cut_is_noticed(data):
    for length in range(len(data)):
        with pytest.raises(BitstreamError):
            FeatureBitstream.from_bytes(data[:length])


@streams
def test_whatever_is_cut_off_a_valid_checksum_does_not_help(data):
    for length in range(len(data) - 4):
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
        for position in range(4, len(data) - 4):
            for mask in (0x01, 0x10, 0x80, 0xFF):
                forged = bytearray(data[:-4])
                forged[position] ^= mask
                try:
                    stream = FeatureBitstream.from_bytes(sealed(bytes(forged)), limits)
                    restored = FeatureCodec.decompress(stream)
                except BitstreamError:
                    refused += 1
                else:
                    assert [x.shape for x in restored] == [tensor.shape for tensor in stream.tensors]
                    assert all(torch.isfinite(x).all() for x in restored) or stream.bits == 32
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert refused > 40
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
    "empty": (b"", "do not begin with D2FC"),
    "magic": (stream_of(magic=b"D2FB"), "do not begin with D2FC"),
    "magic alone": (b"D2FC", "cut short"),
    "magic and checksum": (sealed(b"D2FC"), "cut short"),
    "version alone": (sealed(b"D2FC\x01"), "cut short"),
    "version 0": (stream_of(version=b"\x00"), "format version 0, this program reads 1"),
    "version 2": (stream_of(version=b"\x02"), "format version 2, this program reads 1"),
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
        "67108864 packed symbols of 4 bits take 33554432 bytes, not 3",
    ),
    "the same, packed": (
        stream_of(codec=text(b"png"), shape=shape_of(64, 1024, 1024), length=varint(7)),
        "67108864 packed symbols of 4 bits take 33554432 bytes, not 3",
    ),
    "payload length too small": (stream_of(length=varint(4)), "declares 2 payload bytes but holds 3"),
    "payload length 0": (stream_of(length=b"\x00"), "declares 0 payload bytes but holds 3"),
    "payload length too large": (stream_of(length=varint(8)), "declares 4 payload bytes but holds 3"),
    "payload length huge": (stream_of(length=LARGEST), "declares 17179869183 payload bytes but holds 3"),
    "payload missing": (stream_of(payload=b""), "declares 3 payload bytes but holds 0"),
    "payload and length wrong alike": (
        stream_of(payload=b"\x03\x69", length=varint(4)),
        "6 packed symbols of 4 bits take 3 bytes, not 2",
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
        f"image side of {side} px; 1 to 32768",
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
    (restored,) = FeatureCodec.decompress(FeatureBitstream.from_bytes(stream_of()))
    torch.testing.assert_close(restored, ramp(2, 1, 3))


def test_the_largest_accepted_values_are_accepted():
    FeatureBitstream.from_bytes(
        stream_of(sizes=3 * (varint(2**15) + varint(2**11)), feature_elements=LARGEST)
    )
    FeatureBitstream.from_bytes(stream_of(shape=shape_of(64, 1024, 1024)))
    count = stream_of(
        count=b"\x10",
        shape=15 * (shape_of(1, 1, 1) + varint(0)) + shape_of(2, 1, 3),
        ranges=16 * FIELDS["ranges"],
    )
    assert len(FeatureBitstream.from_bytes(count).tensors) == 16
    equal = struct.pack("<2e", 0.5, 0.5)
    (restored,) = FeatureCodec.decompress(FeatureBitstream.from_bytes(stream_of(ranges=equal)))
    assert torch.equal(restored, torch.full((2, 1, 3), 0.5))


def test_limits_can_be_chosen():
    data = compress([ramp(2, 1, 3), ramp(1, 2, 2)]).to_bytes()
    exact = {"max_elements": 10, "max_image_side": 640, "max_tensors": 2}
    assert FeatureBitstream.from_bytes(data, DecodeLimits(**exact)).to_bytes() == data
    for key, message in [
        ("max_elements", "1 to 9 elements"),
        ("max_image_side", "1 to 639"),
        ("max_tensors", "1 to 1 are"),
    ]:
        refuse(data, message, limits=DecodeLimits(**{**exact, key: exact[key] - 1}))


@pytest.mark.parametrize("codec", [name for name in CODECS if name != "raw"])
def test_a_small_payload_that_promises_a_huge_image_gets_no_memory(codec):
    """`raw` promises nothing: the length of its payload is the number of its symbols."""
    stream = as_coded(codec, torch.zeros(1, 1024, 2048))
    small = CodedTensor((1, 8, 8), stream.tensors[0].ranges, stream.tensors[0].payload, packed=False)
    refuse(dataclasses.replace(stream, tensors=[small]).to_bytes(), codec)


def test_bytes_like_objects_are_read():
    for data in (bytearray(STORED), memoryview(STORED)):
        assert FeatureBitstream.from_bytes(data).to_bytes() == STORED
