"""Format 2 of the bitstream, which is written today."""

import contextlib
import copy
import dataclasses
import pickle
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
    ImageSizes,
    QuantizedFeatureCodec,
    build_image_codec,
    compress_stream,
    decompress_stream,
    read_step_sizes,
)
from d2_featcomp.ops import dequantize_uniform, minmax_range, quantize_uniform, tile_channels

SIZES = ImageSizes((192, 256), (180, 240), (480, 640))
FINGERPRINT = b"\x01\xfe\x80\x7f"
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


def codec_of(name="raw", bits=4, quantizer="fixed", **more):
    return QuantizedFeatureCodec(
        image_codec=build_image_codec(name, bits=bits, **more), quantizer=quantizer
    )


def compress(ys, codec=None, **others):
    fields = {"split": "MSFC", "fingerprint": FINGERPRINT, "sizes": SIZES, "feature_elements": 86016}
    return compress_stream(ys, codec or codec_of(), **{**fields, **others})


def ramp(*shape):
    """Latents that run from -1 to 1."""
    return torch.linspace(-1, 1, int(np.prod(shape))).reshape(shape)


def sealed(body):
    """`body` with a valid checksum."""
    return body + struct.pack("<I", zlib.crc32(body))


# ---- the layout, written a second time -----------------------------------------------------------


def varint(value):
    """Unsigned LEB128 in its shortest form."""
    low, high = value % 128, value // 128
    return bytes([low]) if high == 0 else bytes([low + 128]) + varint(high)


def size(height, width):
    return varint(height) + varint(width)


def text(characters):
    return bytes([len(characters)]) + characters


FIELDS = {
    "magic": b"D2",
    "version": b"\x02",
    "flags": b"\x0d",  # to multiples of 2^5, original follows
    "fingerprint": FINGERPRINT,
    "resized": size(180, 240),
    "padded": b"",
    "original": size(480, 640),
    "table": b"",
    "ranges": b"",
    "payload": bytes.fromhex("03 69 cf"),
}


def stream_of(**fields):
    """The bytes of a small stream, some of its fields replaced, with a valid checksum."""
    assert set(fields) <= set(FIELDS)
    return sealed(b"".join({**FIELDS, **fields}.values()))


def test_the_layout_is_the_documented_one():
    """Steps of 2/15 from -1: the six values are symbols 0, 3, 6, 9, 12 and 15."""
    stream = compress([ramp(2, 1, 3)])
    assert stream.to_bytes() == stream_of()
    assert (stream.header_bits, stream.side_info_bits, stream.payload_bits) == (8 * 20, 0, 24)
    assert stream.total_bits == 8 * len(stream_of()) == 8 * 23
    assert stream.bpfe == 8 * 23 / 86016
    assert stream.packed_bits == 24
    read = FeatureBitstream.from_bytes(stream_of())
    assert read == stream and read.description is None
    assert read.sizes == SIZES and read.fingerprint == FINGERPRINT and read.version == 2
    torch.testing.assert_close(
        decompress_stream(read.described(stream.description), codec_of())[0], ramp(2, 1, 3)
    )


TABLE = (
    b"\x02"  # tensors
    + (b"\x05" + text(b"") + varint(3) + text(b"z") + varint(1) + varint(2))  # 2 strings, fixed-length
    + (b"\x02" + text(b"hyper") + varint(0) + varint(0))
)
RANGES = struct.pack("<4e", -1.0, 1.0, 0.0, 7.0)


def test_the_layout_of_the_table():
    first = CodedTensor({"z": b"Z", "y": b"yyy"}, np.array([[-1, 1], [0, 7]]), fixed_length=True)
    stream = FeatureBitstream(FINGERPRINT, SIZES, [first, CodedTensor({"hyper": b""})])
    data = stream_of(flags=b"\x1d", table=TABLE, ranges=RANGES, payload=b"yyyZ")
    assert stream.to_bytes() == data
    assert stream.side_info_bits == 4 * 16 and stream.payload_bits == 4 * 8
    read = FeatureBitstream.from_bytes(data)
    assert read.tensors == stream.tensors and list(read.tensors[0].strings) == ["y", "z"]
    assert read.tensors[0].payload == b"yyyZ" and read.tensors[1].ranges is None


def test_header_side_information_and_checksum_of_msfc_take_20_bytes():
    sizes = ImageSizes((800, 1344), (800, 1333), (480, 640))
    stream = compress([ramp(64, 25, 42)], codec_of("jpegxl"), sizes=sizes)
    assert stream.header_bits + stream.side_info_bits <= 8 * 20
    assert len(stream.to_bytes()) == 20 + stream.payload_bits // 8


@pytest.mark.parametrize(
    ("padded", "resized", "code", "field"),
    [
        ((60, 90), (60, 90), 0, b""),
        ((60, 92), (60, 90), 2, b""),
        ((64, 96), (60, 90), 3, b""),  # multiples of 32, too; of 8 is the smallest that fits
        ((64, 96), (33, 90), 5, b""),
        ((128, 128), (60, 90), 7, b""),
        ((60, 91), (60, 90), 1, size(60, 91)),
        ((256, 256), (60, 90), 1, size(256, 256)),
    ],
)
def test_padding(padded, resized, code, field):
    stream = FeatureBitstream(
        FINGERPRINT, ImageSizes(padded, resized, resized), [CodedTensor({"y": b""})]
    )
    parts = {"resized": size(*resized), "padded": field, "original": b"", "payload": b""}
    assert stream.to_bytes() == stream_of(flags=bytes([code]), **parts)
    assert FeatureBitstream.from_bytes(stream.to_bytes()).sizes == stream.sizes


# ---- comparing -----------------------------------------------------------------------------------


def test_streams_are_equal_if_and_only_if_their_bytes_are():
    stream, same = compress([ramp(2, 1, 3)]), FeatureBitstream.from_bytes(stream_of())
    assert stream == same and hash(stream) == hash(same) and len({stream, same}) == 1
    (tensor,) = stream.tensors
    others = [
        dataclasses.replace(stream, fingerprint=b"else"),
        dataclasses.replace(stream, sizes=ImageSizes((192, 256), (180, 240), (481, 640))),
        dataclasses.replace(stream, tensors=[dataclasses.replace(tensor, fixed_length=True)]),
        dataclasses.replace(stream, tensors=[dataclasses.replace(tensor, ranges=[[0, 1]])]),
        dataclasses.replace(stream, tensors=[CodedTensor({"y": b"else"})]),
        dataclasses.replace(stream, tensors=[CodedTensor({"z": tensor.payload})]),
    ]
    assert len({stream, *others}) == 1 + len(others)
    assert stream != stream.to_bytes()


def test_coded_tensors_are_equal_if_they_send_the_same():
    tensor = CodedTensor({"b": b"1", "a": b"2"}, np.array([[0.0, 1.0]]))
    same = CodedTensor({"a": b"2", "b": b"1"}, torch.tensor([[0.0, 1.0]]).numpy())
    assert tensor == same and hash(tensor) == hash(same)
    # Where the parts of the payload end counts, too, and -0 is sent as another float16 than 0.
    for other in [
        CodedTensor({"a": b"21", "b": b""}, [[0, 1]]),
        CodedTensor({"a": b"2", "b": b"1"}, [[-0.0, 1]]),
        CodedTensor({"a": b"2", "b": b"1"}),
    ]:
        assert tensor != other and len({tensor, other}) == 2


def test_streams_can_be_copied_and_pickled():
    stream = compress([ramp(2, 1, 3)], codec_of(quantizer="channel"))
    for again in (copy.deepcopy(stream), pickle.loads(pickle.dumps(stream))):
        assert again == stream and again.description == stream.description


def test_what_the_network_knows_is_asked_of_it():
    stream = FeatureBitstream.from_bytes(stream_of())
    names = ("split", "codec", "lossless", "bits", "quantizer", "feature_elements", "shapes")
    for name in (*names, "bpfe", "packed_bits"):
        with pytest.raises(
            ValueError, match="does not say what it holds: the network that reads it does"
        ):
            getattr(stream, name)
    for decode in (decompress_stream, read_step_sizes):
        with pytest.raises(ValueError, match="does not say what it holds"):
            decode(stream, codec_of())
        with pytest.raises(ValueError, match="decoded by the codec of its network"):
            decode(compress([ramp(2, 1, 3)]))
    assert stream.total_bits == 8 * 23
    described = stream.described(compress([ramp(2, 1, 3)]).description)
    assert (described.split, described.codec, described.bits) == ("MSFC", "raw", 4)
    assert (described.quantizer, described.lossless, described.shapes) == ("fixed", True, ((2, 1, 3),))


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: CodedTensor({}), "needs strings"),
        (lambda: CodedTensor({"z": b""}, None, True), "fixed-length ones a 'y'"),
        (lambda: CodedTensor({"": b""}), "string name ''"),
        (lambda: CodedTensor({"\xe9": b""}), "string name"),
        (lambda: CodedTensor({"n" * 256: b""}), "string name"),
        (lambda: FeatureBitstream(b"abc", SIZES, []), "a fingerprint has 4 bytes, not 3"),
        (lambda: FeatureBitstream(FINGERPRINT, SIZES, [], version=3), "format version 3 is unknown"),
        (
            lambda: FeatureBitstream(
                FINGERPRINT, ImageSizes((2**35, 1), (2**35, 1), (1, 1)), []
            ).to_bytes(),
            "cannot hold the number 34359738368",
        ),
    ],
)
def test_what_cannot_be_sent_is_refused_when_it_is_made(make, message):
    with pytest.raises(ValueError, match=message):
        make()


# ---- round trips ---------------------------------------------------------------------------------

SHAPES = [(1, 1, 1), (3, 1, 1), (1, 5, 3), (5, 3, 7), (8, 4, 4), (2, 1, 9)]
LARGER_SHAPES = [(2, 40, 40), (13, 16, 18)]


@st.composite
def small_latents(draw):
    """Any finite float32 values."""
    elements = st.floats(width=32, allow_nan=False, allow_infinity=False) | st.floats(-1, 1, width=32)
    shape = draw(st.sampled_from(SHAPES))
    return torch.from_numpy(draw(arrays_of.arrays(np.float32, shape, elements=elements)))


@st.composite
def larger_latents(draw):
    """Waves of any scale, which image codecs make smaller than fixed-length symbols."""
    scale = draw(st.sampled_from([1e-30, 1e-6, 0.01, 0.9, 3.0, 1e4, 1e30]))
    x = ramp(*draw(st.sampled_from(LARGER_SHAPES)))
    return scale * torch.cos(draw(st.integers(0, 9)) * x + draw(st.floats(0, 3)))


@st.composite
def codings(draw):
    """A codec, and latents to code."""
    name = draw(st.sampled_from(CODECS))
    codec = IMAGE_CODEC_REGISTRY.get(name)
    low, high = codec.quality_range or (0, 0)
    quality = draw(st.none() | st.integers(low, high)) if codec.quality_range else None
    effort = draw(st.sampled_from([None, codec.effort_range[0]])) if codec.effort_range else None
    bits, quantizer = (
        draw(st.sampled_from(sorted(codec.bit_depths))),
        st.sampled_from(["fixed", "tensor", "channel"]),
    )
    ys = draw(st.lists(small_latents() | larger_latents(), min_size=1, max_size=2))
    return ys, codec_of(name, bits, draw(quantizer), quality=quality, effort=effort)


def expected_latent(y, bits, quantizer):
    if bits == 32:
        return y
    low, high = (-1.0, 1.0) if quantizer == "fixed" else minmax_range(y, quantizer == "channel")
    return dequantize_uniform(quantize_uniform(y, bits, low, high), bits, low, high)


@settings(deadline=None, derandomize=True, max_examples=400)
@given(codings())
def test_every_coding_round_trips(coding):
    ys, codec = coding
    stream = compress(ys, codec)
    data = stream.to_bytes()
    assert stream.header_bits + stream.side_info_bits + stream.payload_bits == 8 * len(data)
    received = FeatureBitstream.from_bytes(data)
    assert received == stream and received.to_bytes() == data and received.sizes == SIZES
    restored = decompress_stream(received.described(stream.description), codec)
    steps = codec.step_sizes(received.tensors, stream.shapes)
    assert len(restored) == len(ys)
    codec.eval()
    seen, eval_steps, terms = codec.quantize([y[None] for y in ys])
    assert terms == {}
    for y, y_hat, step, tensor, same, eval_step in zip(
        ys, restored, steps, stream.tensors, seen, eval_steps, strict=True
    ):
        assert (y_hat.shape, y_hat.dtype) == (y.shape, torch.float32)
        assert torch.equal(step, eval_step[0])
        if codec.lossless or tensor.fixed_length:
            # `-0.0 == 0.0`: which of the two a range's end is, is not sent.
            assert torch.equal(y_hat, expected_latent(y, codec.bits, codec.quantizer))
            assert torch.equal(y_hat, same[0])
        if tensor.ranges is not None:
            # Half a step, worked out in float64 from the ranges that were sent.
            low, high = torch.from_numpy(tensor.ranges.astype(np.float64))[..., None, None].unbind(1)
            exact = (high - low) / (2**codec.bits - 1)
            assert torch.allclose(step.double(), exact, rtol=1e-6)
            rounding = 4e-7 * torch.maximum(low.abs(), high.abs())
            assert ((y_hat >= low - rounding) & (y_hat <= high + rounding)).all()
            if codec.lossless or tensor.fixed_length:
                error = (y_hat.double() - y.double().clamp(low, high)).abs()
                assert (error <= 0.51 * exact + rounding).all()


names = st.text(st.characters(min_codepoint=32, max_codepoint=126), min_size=1, max_size=9)
halves = st.floats(-60000, 60000, width=16)


@st.composite
def coded_tensors(draw):
    strings = draw(
        st.dictionaries(names | st.just("y"), st.binary(max_size=200), min_size=1, max_size=3)
    )
    pairs = draw(st.lists(st.tuples(halves, halves).map(sorted), max_size=3))
    return CodedTensor(strings, np.array(pairs), draw(st.booleans()) and "y" in strings)


@settings(deadline=None, derandomize=True, max_examples=300)
@given(
    tensors=st.lists(coded_tensors(), min_size=1, max_size=4),
    fingerprint=st.binary(min_size=4, max_size=4),
    sides=st.tuples(*[st.integers(1, 2000)] * 2),
    more=st.tuples(*[st.integers(0, 200)] * 2) | st.just((0, 0)),
    zoom=st.sampled_from([1, 1.5, 2]),
)
def test_whatever_a_codec_writes_round_trips(tensors, fingerprint, sides, more, zoom):
    padded = tuple(side + extra for side, extra in zip(sides, more, strict=True))
    original = tuple(int(side * zoom) for side in sides)
    sizes = ImageSizes(padded, sides, original)
    stream = FeatureBitstream(fingerprint, sizes, tensors)
    received = FeatureBitstream.from_bytes(stream.to_bytes())
    assert received == stream and received.tensors == stream.tensors
    assert (received.sizes, received.fingerprint) == (sizes, fingerprint)
    assert received.total_bits == 8 * len(stream.to_bytes())


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
        for mask in generator.sample(range(1, 256), 16):
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
        for mask in (0x01, 0x10, 0x80, 0xFF):
            changed = bytes([data[position] ^ mask])
            forged.append(sealed(data[:position] + changed + data[position + 1 : -4]))
    tracemalloc.start()
    try:
        for candidate in forged:
            try:
                restored = decode(candidate, stream, codec, limits)
            except BitstreamError:
                refused += 1
            else:
                assert tuple(tuple(y.shape) for y in restored) == stream.shapes
                assert all(torch.isfinite(y).all() for y in restored)
                assert FeatureBitstream.from_bytes(candidate).to_bytes() == candidate
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert refused > 20
    assert peak < 8 * MEGABYTE


@settings(deadline=None, derandomize=True, max_examples=500)
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
        r"67108864 pixels \(padded\); at most 8388608 are accepted \(DecodeLimits.max_image_pixels\)",
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
