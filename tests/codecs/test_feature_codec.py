import dataclasses
import warnings

import numpy as np
import pytest
import torch

from d2_featcomp.codecs import (
    IMAGE_CODEC_REGISTRY,
    BitstreamError,
    CodedTensor,
    FeatureBitstream,
    FeatureCodec,
    ImageSizes,
    QuantizedFeatureCodec,
    build_image_codec,
    compress_stream,
    decompress_stream,
)
from d2_featcomp.codecs.images import hevc

SIZES = ImageSizes((800, 1344), (800, 1333), (480, 640))
SHAPE = (8, 25, 42)


def codec_of(name="raw", bits=4, quality=None, **settings):
    return QuantizedFeatureCodec(
        image_codec=build_image_codec(name, bits=bits, quality=quality), **settings
    )


def compress(codec, features, **others):
    fields = {
        "split": "MSFC",
        "fingerprint": b"\x01\x02\x03\x04",
        "sizes": SIZES,
        "feature_elements": 1000,
    }
    return compress_stream(features, codec, **{**fields, **others})


def sent(codec, features):
    """`features` on the other side, and the stream that brought them."""
    stream = compress(codec, features)
    received = FeatureBitstream.from_bytes(stream.to_bytes()).described(stream.description)
    return decompress_stream(received, codec), received


def installed(name):
    try:
        IMAGE_CODEC_REGISTRY.get(name).require_library()
    except ImportError:
        return False
    return True


def case(name):
    """A codec as a parameter; the test is skipped where its library is not installed."""
    return pytest.param(
        name, marks=pytest.mark.skipif(not installed(name), reason=f"no library of {name}")
    )


CODECS = [case(name) for name, codec in IMAGE_CODEC_REGISTRY if codec.layout != "colour"]
LOSSLESS = [case(name) for name, codec in IMAGE_CODEC_REGISTRY if codec.default_quality is None]


def noise(shape=SHAPE, seed=0):
    return 2 * torch.rand(shape, generator=torch.Generator().manual_seed(seed)) - 1


def waves(shape=SHAPE):
    x = torch.linspace(0, 12, shape[1] * shape[2]).reshape(1, *shape[1:])
    return torch.sin(x + torch.arange(shape[0]).reshape(-1, 1, 1))


def depths(name):
    return [bits for bits in IMAGE_CODEC_REGISTRY.get(name).bit_depths if bits <= 16]


# ---- rates ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", CODECS)
def test_no_stream_is_larger_than_raw(name):
    for bits in depths(name):
        for features in ([noise()], [waves()], [noise((3, 1, 1)), waves((2, 40, 40))]):
            stream = compress(codec_of(name, bits), features)
            raw = compress(codec_of("raw", bits), features)
            for y, tensor, plain in zip(features, stream.tensors, raw.tensors, strict=True):
                assert len(plain.payload) == (y.numel() * bits + 7) // 8
                assert len(tensor.payload) <= len(plain.payload)
            assert len(stream.to_bytes()) <= len(raw.to_bytes())


@pytest.mark.parametrize("name", ["png", "jpegls", "jpegxl"])
def test_noise_is_sent_as_packed_symbols(name):
    """Six-bit noise cannot be compressed; each codec adds bytes of its own."""
    codec, x = codec_of(name, 6), noise()
    (restored,), stream = sent(codec, [x])
    (tensor,), (plain,) = stream.tensors, compress(codec_of("raw", 6), [x]).tensors
    assert tensor.fixed_length and not plain.fixed_length
    assert tensor.payload == plain.payload
    assert stream.codec == name
    assert (restored - x).abs().max() <= 1 / 63 + 1e-6


@pytest.mark.parametrize("name", LOSSLESS)
@pytest.mark.parametrize("shape", [(1, 500, 3), (1, 5000, 1), (1, 192, 96), (1, 1, 5000), (4, 250, 250)])
def test_noise_of_any_shape_is_sent(name, shape):
    """The libraries' own estimates of their buffers are too small for some of it."""
    for bits in {8, depths(name)[-1]}:
        (restored,), _ = sent(codec_of(name, bits), [noise(shape)])
        assert (restored - noise(shape)).abs().max() <= 1 / (2**bits - 1) + 1e-6


@pytest.mark.parametrize("name", ["png", "jpegls", "jpegxl"])
def test_waves_are_sent_by_the_image_codec(name):
    (tensor,) = compress(codec_of(name, 4), [waves((32, 25, 42))]).tensors
    assert not tensor.fixed_length
    assert len(tensor.payload) < 0.8 * 32 * 25 * 42 / 2


@pytest.mark.parametrize("surplus, packed", [(-1, False), (0, False), (1, True)])
def test_one_byte_decides(monkeypatch, surplus, packed):
    """90 symbols of four bits are 45 bytes."""
    codec = codec_of("png", 4)
    monkeypatch.setattr(codec.image_codec, "_encode", lambda samples: bytes(45 + surplus))
    (tensor,) = compress(codec, [noise((2, 5, 9))]).tensors
    assert tensor.fixed_length == packed
    assert len(tensor.payload) == min(45, 45 + surplus)


def test_each_tensor_of_a_stream_takes_the_smaller_form():
    restored, stream = sent(codec_of("jpegxl", 4), [noise(), waves((32, 25, 42)), noise((1, 1, 1))])
    assert [tensor.fixed_length for tensor in stream.tensors] == [True, False, True]
    assert [tuple(x.shape) for x in restored] == [SHAPE, (32, 25, 42), (1, 1, 1)]


def test_the_msfc_papers_rate():
    """C' = 64, n = 4: 64 * 4 bits for each 256 * (64 + 16 + 4 + 1 + 1/4) elements, 0.0117."""
    height, width = 24, 40
    pyramid = 256 * sum(height * 32 // stride * (width * 32 // stride) for stride in (4, 8, 16, 32, 64))
    stream = compress(codec_of("raw", 4), [noise((64, height, width))], feature_elements=pyramid)
    assert stream.payload_bits == 64 * 4 * height * width
    assert round(stream.payload_bits / pyramid, 4) == 0.0117
    assert stream.side_info_bits == 0
    assert stream.header_bits == 8 * 20
    assert stream.bpfe == 8 * len(stream.to_bytes()) / pyramid


@pytest.mark.parametrize("name", CODECS)
def test_a_header_of_one_tensor_is_at_most_20_bytes(name):
    sizes = ImageSizes((1344, 1344), (1333, 1333), (4000, 6000))
    stream = compress(codec_of(name, 4), [noise((64, 42, 42))], sizes=sizes, feature_elements=38_535_168)
    assert stream.header_bits <= 8 * 20
    assert stream.header_bits == 8 * len(stream.to_bytes()) - stream.side_info_bits - stream.payload_bits


@pytest.mark.parametrize("quantizer, ranges", [("fixed", 0), ("tensor", 2), ("channel", 5 + 3)])
def test_side_information_is_32_bits_for_each_range(quantizer, ranges):
    stream = compress(codec_of("raw", 4, quantizer=quantizer), [noise((5, 3, 3)), noise((3, 2, 2))])
    assert stream.side_info_bits == 32 * ranges
    assert compress(codec_of("raw", 32, quantizer=quantizer), [noise((5, 3, 3))]).side_info_bits == 0


# ---- what comes out ------------------------------------------------------------------------------


@pytest.mark.parametrize("quantizer", ["fixed", "tensor", "channel"])
@pytest.mark.parametrize("name", LOSSLESS)
def test_lossless_codecs_decode_to_the_same_features_as_raw(name, quantizer):
    features = [noise(), waves(), noise((5, 3, 7)), waves((1, 1, 1)), torch.full((3, 20, 20), 0.25)]
    for bits in depths(name):
        restored, stream = sent(codec_of(name, bits, quantizer=quantizer), features)
        expected, _ = sent(codec_of("raw", bits, quantizer=quantizer), features)
        assert stream.lossless
        assert all(torch.equal(x, y) for x, y in zip(restored, expected, strict=True))


@pytest.mark.parametrize("name, quality", [("jpeg", 95), ("jpegxl", 0.5), ("avif", 90), ("hevc", 10)])
def test_lossy_codecs_come_close_to_the_features(name, quality):
    if not installed(name):
        pytest.skip(f"no library of {name}")
    x = waves((32, 25, 42))
    (restored,), stream = sent(codec_of(name, 8, quality), [x])
    assert not stream.lossless
    assert not stream.tensors[0].fixed_length
    assert 0 < (restored - x).abs().mean() < 0.04


def test_hand_worked_features():
    """Two bits on [-1, 1]: -1, -1/3, 1/3 and 1; the symbols 0 1 2 3 3 are 00 01 10 11 11."""
    x = torch.tensor([-0.9, -0.5, 0.5, 0.9, 4.0]).reshape(1, 1, 5)
    (restored,), stream = sent(codec_of("raw", 2), [x])
    assert stream.tensors[0].payload == bytes([0b00011011, 0b11000000])
    assert stream.tensors[0].ranges is None
    expected = torch.tensor([-1, -1 / 3, 1 / 3, 1, 1]).reshape(1, 1, 5)
    torch.testing.assert_close(restored, expected)


def test_the_fixed_range_can_be_chosen():
    x = torch.tensor([-1.0, 0.0, 2.0, 6.0, 9.0]).reshape(5, 1, 1)
    (restored,), stream = sent(codec_of("raw", 2, value_range=(0, 6)), [x])
    assert stream.tensors[0].ranges is None
    assert restored.flatten().tolist() == [0, 0, 2, 6, 6]


def test_each_channel_is_restored_on_its_own_range():
    x = torch.tensor([[[0.0, 1.0, 3.0]], [[-4.0, 0.0, 8.0]], [[0.5, 0.5, 0.5]]])
    (restored,), stream = sent(codec_of("png", 2, quantizer="channel"), [x])
    assert stream.tensors[0].ranges.tolist() == [[0, 3], [-4, 8], [0.5, 0.5]]
    assert restored.tolist() == [[[0, 1, 3]], [[-4, 0, 8]], [[0.5, 0.5, 0.5]]]
    (restored,), stream = sent(codec_of("png", 2, quantizer="tensor"), [x])
    assert stream.tensors[0].ranges.tolist() == [[-4, 8]]
    assert restored.tolist() == [[[0, 0, 4]], [[-4, 0, 8]], [[0, 0, 0]]]


@pytest.mark.parametrize("quantizer", ["fixed", "tensor", "channel"])
def test_32_bits_send_exact_floats(quantizer):
    bits = np.random.default_rng(0).integers(0, 2**32, (2, 3, 50), dtype=np.uint32)
    bits[np.isnan(bits.view(np.float32)) | np.isinf(bits.view(np.float32))] = 1  # subnormals stay
    y = torch.from_numpy(bits.view(np.float32))
    codec = codec_of("raw", 32, quantizer=quantizer)
    (restored,), stream = sent(codec, [y])
    assert np.array_equal(restored.numpy().view(np.uint32), bits)
    assert stream.quantizer == "none"
    assert stream.payload_bits == 32 * y.numel()
    assert torch.equal(codec.step_sizes(stream.tensors, [y.shape])[0], torch.zeros(1, 1, 1))


@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf")])
def test_32_bits_carry_finite_values_alone(value):
    y = noise((2, 3, 4))
    y[1, 2, 3] = value
    codec = codec_of("raw", 32)
    with pytest.raises(ValueError, match="NaN or infinite"):
        codec.compress([y])
    forged = CodedTensor({"y": y.numpy().astype("<f4").tobytes()})
    with pytest.raises(BitstreamError, match="NaN or infinite"):
        codec.decompress([forged], [y.shape])


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
@pytest.mark.parametrize("bits", [8, 32])
def test_other_float_types_are_sent_as_float32(bits, dtype):
    x = noise((2, 3, 5)).to(dtype)
    (restored,), _ = sent(codec_of("raw", bits), [x])
    (expected,), _ = sent(codec_of("raw", bits), [x.float()])
    assert restored.dtype == torch.float32
    assert torch.equal(restored, expected)


@pytest.mark.parametrize("name", CODECS)
@pytest.mark.parametrize("shape", [(1, 20, 30), (2, 1, 40), (5, 12, 9)])
def test_memory_layout_and_gradients_do_not_matter(name, shape):
    x = waves(shape)
    same = x.permute(2, 1, 0).contiguous().permute(2, 1, 0).requires_grad_()
    assert not same.is_contiguous()
    for bits in (4, 32) if name == "raw" else (4,):
        stream, expected = (compress(codec_of(name, bits), [features]) for features in (same, x))
        assert stream.to_bytes() == expected.to_bytes()


def test_no_features_are_no_tensors():
    assert codec_of().compress([]) == []
    assert codec_of().decompress([], []) == []
    assert codec_of().quantize([]) == ([], [], {})


# ---- errors --------------------------------------------------------------------------------------


@pytest.mark.parametrize("quantizer", ["fixed", "tensor", "channel"])
@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf")])
def test_nan_and_infinity_are_not_quantized(quantizer, value):
    x = noise((2, 3, 4))
    x[1, 2, 3] = value
    with pytest.raises(ValueError, match="NaN or infinite"):
        compress(codec_of("raw", 8, quantizer=quantizer), [x])


@pytest.mark.parametrize("quantizer", ["none", "Fixed", "", None, "per_channel"])
def test_an_unknown_quantizer_is_refused(quantizer):
    with pytest.raises(ValueError, match="choose one of channel, deviation, fixed, narrow, tensor"):
        codec_of(quantizer=quantizer)


@pytest.mark.parametrize(
    "value_range",
    [
        (1, 1),
        (1, -1),
        (0.1, 1),  # no float16 value
        (0, 1e-9),
        (-1, 1e6),
        (-70000, 70000),
        (float("nan"), 1),
        (-1, float("nan")),
        (float("-inf"), float("inf")),
        (0, float("inf")),
    ],
)
def test_a_range_that_cannot_be_sent_is_refused(value_range):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        with pytest.raises(ValueError, match="must be two float16 values, the first smaller"):
            codec_of(value_range=value_range)


@pytest.mark.parametrize("value_range", [(-1, 1), (0, 65504), (-65504, 65504), (-0.5, 2**-24)])
def test_ranges_of_float16_values_are_accepted(value_range):
    (restored,), _ = sent(
        codec_of("raw", 16, value_range=value_range), [torch.tensor([[list(value_range)]])]
    )
    assert restored.flatten().tolist() == list(value_range)


def test_settings_that_the_decoder_does_not_know_are_refused():
    """Format 1 declares its settings itself."""
    stream = dataclasses.replace(compress(codec_of("png", 4), [waves()]), version=1)
    for field, value, message in [
        ("codec", "flif", "unknown image codec 'flif': choose one of .*jpegxl"),
        ("codec", "PNG", "unknown image codec 'PNG'"),
        ("bits", 32, "'png' carries no 32 bits"),
        ("bits", 17, "'png' carries no 17 bits"),
    ]:
        description = dataclasses.replace(stream.description, **{field: value})
        with pytest.raises(BitstreamError, match=message):
            decompress_stream(stream.described(description))


def test_payloads_of_another_codec_are_refused():
    shapes = [(32, 25, 42)]
    tensors = codec_of("png", 4).compress([waves(shapes[0])])
    for other in ("raw", "jpegls", "jpegxl", "jpeg", "avif"):
        with pytest.raises(BitstreamError, match=other if other != "raw" else "fixed-length symbols"):
            codec_of(other, 4).decompress(tensors, shapes)


@pytest.mark.parametrize(
    ("quantizer", "bits", "tensors", "message"),
    [
        ("fixed", 8, [], "holds 0 tensors; 1 are expected"),
        ("fixed", 8, 2 * [CodedTensor({"y": b"123456"})], "holds 2 tensors; 1 are expected"),
        ("fixed", 8, [CodedTensor({"z": b"123456"})], r"holds strings \['z'\]"),
        ("fixed", 8, [CodedTensor({"y": b"123456", "z": b""})], r"holds strings \['y', 'z'\]"),
        ("fixed", 8, [CodedTensor({"y": b"123456"}, [[0, 1]])], "holds 1 quantizer ranges .* 0 are"),
        ("tensor", 8, [CodedTensor({"y": b"123456"})], "holds 0 quantizer ranges .* 1 are"),
        ("tensor", 8, [CodedTensor({"y": b"123456"}, [[0, 1]] * 2)], "holds 2 quantizer ranges"),
        ("channel", 8, [CodedTensor({"y": b"123456"}, [[0, 1]])], "holds 1 quantizer ranges .* 2 are"),
        ("fixed", 8, [CodedTensor({"y": b"12345"})], "symbols of 8 bits take 6 bytes, not 5"),
        ("fixed", 8, [CodedTensor({"y": b"1234567"}, None, True)], "take 6 bytes, not 7"),
        ("fixed", 32, [CodedTensor({"y": bytes(24)}, [[0, 1]])], "holds 1 quantizer ranges .* 0 are"),
        ("fixed", 32, [CodedTensor({"y": bytes(24)}, None, True)], "at 32 bits does not write"),
        ("fixed", 32, [CodedTensor({"y": bytes(23)})], "6 float32 features take 24 bytes, not 23"),
    ],
)
def test_tensors_that_the_codec_does_not_write_are_refused(quantizer, bits, tensors, message):
    codec = codec_of("raw", bits, quantizer=quantizer)
    with pytest.raises(BitstreamError, match=message):
        codec.decompress(tensors, [(2, 1, 3)])
    if "take" not in message:  # which the payload alone tells
        with pytest.raises(BitstreamError, match=message):
            codec.step_sizes(tensors, [(2, 1, 3)])


@pytest.mark.parametrize("name", [case("hevc")])
def test_a_missing_library_is_named_where_it_is_missing(monkeypatch, name):
    """The bytes are sound: this is no BitstreamError."""
    codec, y = codec_of(name, 4), torch.zeros(2, 40, 40)
    (tensor,) = codec.compress([y])
    assert not tensor.fixed_length
    monkeypatch.setattr(hevc, "av", None)
    with pytest.raises(ImportError, match=r"pip install 'd2_featcomp\[hevc\]'"):
        codec.decompress([tensor], [y.shape])


def test_the_name_of_old_still_builds_the_quantized_codec():
    """And its `compress` still makes whole streams."""
    codec = FeatureCodec(image_codec=build_image_codec("png", bits=8), quantizer="tensor")
    assert type(codec) is QuantizedFeatureCodec and codec.quantizer == "tensor"
    fields = {"split": "MSFC", "fingerprint": bytes(4), "sizes": SIZES, "feature_elements": 9}
    assert codec.compress([waves()], **fields) == compress_stream([waves()], codec, **fields)
    with pytest.raises(TypeError, match="abstract"):
        FeatureCodec()
