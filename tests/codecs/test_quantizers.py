"""Quantizers that later versions of FCTM brought: by mean and deviation, and without narrow channels."""

import random

import numpy as np
import pytest
import torch

from d2_featcomp.codecs import (
    IMAGE_CODEC_REGISTRY,
    QUANTIZER_REGISTRY,
    BitstreamError,
    CodedTensor,
    FeatureBitstream,
    ImageSizes,
    LearnedFeatureCodec,
    QuantizedFeatureCodec,
    VariableRateFeatureCodec,
    build_image_codec,
    build_quantizer,
    compress_stream,
    decompress_stream,
)
from d2_featcomp.codecs.constant_channels import read_constant_channels, write_constant_channels
from d2_featcomp.codecs.quantizers import DeviationRange, NarrowChannels
from d2_featcomp.engine import setup_config
from d2_featcomp.modeling import build_feature_split
from d2_featcomp.ops import deviation_range, find_narrow_channels

GRAY = [name for name, codec in IMAGE_CODEC_REGISTRY if codec.layout != "colour"]
NEW = pytest.mark.parametrize("quantizer", ["deviation", "narrow"])


def latent(channels=6, height=8, width=12, seed=0):
    """Channels of unlike ranges; the second is constant, the third nearly."""
    y = torch.randn(channels, height, width, generator=torch.Generator().manual_seed(seed))
    y[1] = 0.7
    y[2] = 0.3 + y[2] / 1000
    return y


def codec_of(quantizer, bits=8, name="raw", quality=None, **settings):
    image_codec = build_image_codec(name, bits=bits, quality=quality)
    return QuantizedFeatureCodec(image_codec=image_codec, quantizer=quantizer, **settings)


def compress(codec, y):
    size = (64, 96)
    return compress_stream(
        [y],
        codec,
        split="MSFC",
        fingerprint=b"1234",
        sizes=ImageSizes(size, size, size),
        feature_elements=1,
    )


def through_bytes(codec, y):
    stream = compress(codec, y)
    read = FeatureBitstream.from_bytes(stream.to_bytes()).described(stream.description)
    assert read.to_bytes() == stream.to_bytes()
    return decompress_stream(read, codec)[0]


# ---- ranges ----------------------------------------------------------------------------------------


def test_the_range_by_mean_and_deviation():
    y = torch.tensor([1.0, 3.0, 5.0, 7.0]).reshape(1, 2, 2)  # mean 4, variance 5
    low, high = deviation_range(y, 2.0)
    assert low.shape == high.shape == (1, 1, 1) and low.dtype == torch.float32
    half = 2 * 5**0.5
    assert low.item() == pytest.approx(4 - half, abs=2e-3) and low.item() <= 4 - half
    assert high.item() == pytest.approx(4 + half, abs=5e-3) and high.item() >= 4 + half
    assert low.item() == float(np.float16(low.item()))
    for value in (0.25, 0.1, -1e6):
        low, high = deviation_range(torch.full((2, 3, 4), value), 3.0)
        assert low <= max(value, -65504) <= high and high - low <= 1e-3 * abs(value)


def test_the_same_range_in_any_order():
    y = latent(64, 24, 32)
    shuffled = y.flatten()[torch.randperm(y.numel(), generator=torch.Generator().manual_seed(1))]
    for one, other in zip(
        deviation_range(y, 4.0), deviation_range(shuffled.reshape(y.shape), 4.0), strict=True
    ):
        assert torch.equal(one, other)


def test_values_far_from_the_mean_are_clipped():
    y = torch.randn(4, 50, 50, generator=torch.Generator().manual_seed(0))
    y[0, 0, 0] = 1000.0  # whose range would leave the others three symbols
    restored = through_bytes(codec_of("deviation"), y)
    low, high = deviation_range(y, 4.0)
    torch.testing.assert_close(restored[0, 0, 0], high[0, 0, 0])
    others = torch.ones_like(y, dtype=torch.bool)
    others[0, 0, 0] = False
    assert (restored - y)[others].abs().max() <= (high - low).item() / 255 / 2 + 1e-5
    assert (through_bytes(codec_of("tensor"), y) - y)[others].abs().max() > 1


def test_gradients_of_the_range_by_mean_and_deviation():
    y = latent()[None].double().requires_grad_()
    low, high = build_quantizer("deviation").find_batch_range(y)
    torch.testing.assert_close(low.flatten(), (y.mean() - 4 * y.std(unbiased=False)).reshape(1))
    torch.testing.assert_close(high.flatten(), (y.mean() + 4 * y.std(unbiased=False)).reshape(1))
    (high - low).sum().backward()
    assert y.grad.abs().max() > 0
    constant = torch.ones(1, 2, 3, 4, requires_grad=True)
    build_quantizer("deviation").find_batch_range(constant)[1].sum().backward()
    assert constant.grad.isfinite().all()


# ---- narrow channels -------------------------------------------------------------------------------


def test_narrow_channels_are_found():
    y = torch.zeros(3, 1, 2)
    y[0, 0] = torch.tensor([0.0, 10.0])
    y[1, 0] = torch.tensor([2.0, 3.0])
    y[2, 0] = torch.tensor([5.0, 6.1])
    narrow, middle = find_narrow_channels(y, 0.105)
    assert narrow.flatten().tolist() == [False, True, False]
    torch.testing.assert_close(middle.flatten(), torch.tensor([5.0, 2.5, 5.55]))
    assert not find_narrow_channels(y, 0.0)[0].any()


def test_narrow_channels_are_not_coded_but_filled():
    y = latent()
    codec = codec_of("narrow")
    (tensor,) = codec.compress([y])
    assert list(tensor.strings) == ["c", "y"]
    assert tensor.strings["c"][0] == 0b10011100 and len(tensor.strings["c"]) == 1 + 2
    assert len(tensor.strings["y"]) == 4 * 8 * 12
    restored, step = codec.decompress([tensor], [y.shape])[0], codec.step_sizes([tensor], [y.shape])[0]
    for channel in (1, 2):
        assert (restored[channel] == restored[channel, 0, 0]).all()
        middle = (y[channel].amin() + y[channel].amax()) / 2
        assert (restored[channel, 0, 0] - middle).abs() <= step.item() / 2 + 1e-6
    plain = codec_of("tensor")
    (expected,) = plain.decompress(plain.compress([y]), [y.shape])
    for channel in (0, 3, 4, 5):
        assert torch.equal(restored[channel], expected[channel])


@pytest.mark.parametrize("bits", [2, 3, 10, 16])
def test_constant_channels_are_written_and_read(bits):
    rng = np.random.default_rng(0)
    for channels in (1, 7, 8, 9, 64):
        symbols = rng.integers(0, 2**bits, (channels, 3, 4)).astype(np.uint8 if bits <= 8 else np.uint16)
        symbols[::2] = symbols[::2, :1, :1]
        coded, data = write_constant_channels(symbols, bits)
        assert coded.tolist() == [channel % 2 == 1 for channel in range(channels)]
        constant = (channels + 1) // 2
        assert len(data) == (channels + 7) // 8 + (constant * bits + 7) // 8
        again, values = read_constant_channels(data, channels, bits)
        assert np.array_equal(again, coded) and np.array_equal(values, symbols[::2, 0, 0])
        for damaged in (data[:-1], data + b"\0", b""):
            with pytest.raises(BitstreamError):
                read_constant_channels(damaged, channels, bits)


def test_bits_beyond_the_last_channel_are_refused():
    with pytest.raises(BitstreamError, match="another form"):
        read_constant_channels(b"\xff", 6, 4)
    with pytest.raises(BitstreamError, match="another form"):
        read_constant_channels(b"\x00\x11\x11\x11\x1f", 7, 4)


@pytest.mark.parametrize("shape", [(1, 1, 1), (3, 1, 1), (2, 3, 4)])
@pytest.mark.parametrize("name", GRAY)
def test_a_latent_of_constant_channels(shape, name):
    y = torch.arange(1.0, 1 + shape[0])[:, None, None].expand(shape) / 4
    codec = codec_of("narrow", name=name)
    (tensor,) = codec.compress([y])
    assert tensor.strings["y"] == b"" and not tensor.fixed_length
    torch.testing.assert_close(through_bytes(codec, y), y, atol=0.5 / 255, rtol=0)
    for strings, fixed_length in (({"y": b"\0"}, False), ({"y": b""}, True)):
        damaged = CodedTensor({**tensor.strings, **strings}, tensor.ranges, fixed_length)
        with pytest.raises(BitstreamError, match="all constant"):
            codec.decompress([damaged], [shape])


# ---- both ------------------------------------------------------------------------------------------


@NEW
@pytest.mark.parametrize("name", GRAY)
def test_every_image_codec(name, quantizer):
    y = latent()
    for bits in (2, 8, 10):
        if bits not in IMAGE_CODEC_REGISTRY.get(name).bit_depths:
            continue
        codec = codec_of(quantizer, bits, name).eval()
        if codec.lossless:
            assert torch.equal(through_bytes(codec, y), codec.quantize([y[None]])[0][0][0])
        else:
            (wanted,), _, _ = codec.quantize([y[None]])
            assert (through_bytes(codec, y) - wanted[0]).abs().mean() < 0.2


@NEW
def test_hevc_of_ten_bits_by_its_qp(quantizer):
    y = torch.randn(32, 6, 8, generator=torch.Generator().manual_seed(0))
    y[3] = 0.5
    errors, sizes = [], []
    for qp in (10, 30, 50):
        codec = codec_of(quantizer, 10, "hevc", qp)
        errors.append((through_bytes(codec, y) - y).square().mean())
        sizes.append(len(compress(codec, y).to_bytes()))
    assert sizes == sorted(sizes, reverse=True) and errors == sorted(errors)


@NEW
def test_side_information_is_counted(quantizer):
    stream = compress(codec_of(quantizer), latent())
    assert stream.side_info_bits == 32
    payload = 6 * 8 * 12 if quantizer == "deviation" else 1 + 2 + 4 * 8 * 12
    assert stream.payload_bits == 8 * payload
    assert stream.total_bits == 8 * len(stream.to_bytes())


@NEW
def test_training_rounds_to_what_is_decoded(quantizer):
    y = latent()
    codec = codec_of(quantizer, 4, train_quantization="ste")
    batch = torch.stack([y, 3 * y]).requires_grad_()
    (y_hat,), (step,), _ = codec.quantize([batch])
    (again,), (eval_step,), _ = codec.eval().quantize([batch])
    torch.testing.assert_close(y_hat, again)
    assert torch.equal(step, eval_step)
    y_hat.sum().backward()
    low, high = codec.find_range(y)
    inside = (y >= low) & (y <= high)
    assert torch.equal(batch.grad[0], inside.float())


@NEW
def test_floats_are_coded_as_ever(quantizer):
    codec = codec_of(quantizer, 32)
    assert codec.quantizer == "none" and torch.equal(through_bytes(codec, latent()), latent())
    assert codec.describe() == codec_of("tensor", 32).describe()


@NEW
@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf")])
def test_nan_and_infinity_are_refused(quantizer, value):
    y = latent()
    y[0, 0, 0] = value
    with pytest.raises(ValueError, match="NaN or infinite"):
        codec_of(quantizer).compress([y])


@NEW
@pytest.mark.parametrize("name", ["raw", "jpegxl", "hevc"])
def test_damage_is_refused_or_decoded(quantizer, name):
    y, codec, rng = latent(), codec_of(quantizer, 8, name), random.Random(0)
    (tensor,) = codec.compress([y])
    for _ in range(200):
        strings = {key: bytearray(data) for key, data in tensor.strings.items()}
        data = strings[rng.choice([*strings])]
        for _ in range(rng.randrange(1, 4)):
            if data:
                data[rng.randrange(len(data))] = rng.randrange(256)
        if rng.random() < 0.3:
            del data[rng.randrange(1 + len(data)) :]
        damaged = CodedTensor(strings, tensor.ranges, rng.random() < 0.2)
        try:
            (restored,) = codec.decompress([damaged], [y.shape])
        except BitstreamError:
            continue
        assert restored.shape == y.shape and restored.isfinite().all()


@NEW
def test_strings_and_ranges_of_another_quantizer_are_refused(quantizer):
    y = latent()
    others = {"deviation": "narrow", "narrow": "deviation"}
    for other in (others[quantizer], "fixed"):
        with pytest.raises(BitstreamError):
            codec_of(quantizer).decompress(codec_of(other).compress([y]), [y.shape])


def test_learned_codecs():
    y = latent(4)
    for kind in (LearnedFeatureCodec, VariableRateFeatureCodec):
        codec = kind(channels=[4], bits=4, quantizer="deviation")
        _, _, terms = codec.quantize([y[None]])
        assert terms["entropy"].isfinite()
        codec.eval()
        assert torch.equal(through_bytes(codec, y), codec.quantize([y[None]])[0][0][0])
        with pytest.raises(ValueError, match="QUANTIZER narrow leaves channels out"):
            kind(channels=[4], bits=4, quantizer="narrow")


# ---- settings --------------------------------------------------------------------------------------


def test_settings_are_read():
    codec = setup_config(
        "", ["MODEL.FEATCOMP.CODEC.DEVIATIONS", "2.5", "MODEL.FEATCOMP.CODEC.NARROW", "0.25"]
    ).MODEL.FEATCOMP.CODEC
    assert build_quantizer("deviation", codec=codec).deviations == 2.5
    assert build_quantizer("narrow", codec=codec).narrow == 0.25
    defaults = setup_config("").MODEL.FEATCOMP.CODEC
    assert DeviationRange().deviations == defaults.DEVIATIONS
    assert NarrowChannels().narrow == defaults.NARROW


@pytest.mark.parametrize("deviations", [0, -1, float("nan"), float("inf")])
def test_deviations_out_of_range(deviations):
    with pytest.raises(ValueError, match=r"DEVIATIONS is .* must be positive"):
        DeviationRange(deviations)


@pytest.mark.parametrize("share", [-0.1, 1.1, float("nan")])
def test_a_share_out_of_range(share):
    with pytest.raises(ValueError, match=r"NARROW is .* between 0 and 1"):
        NarrowChannels(share)


def test_where_they_make_no_sense():
    with pytest.raises(ValueError, match="narrow leaves channels out, but codec 'jpeg420'"):
        codec_of("narrow", name="jpeg420")
    cfg = setup_config("configs/quick/mtl_R34.yaml", ["MODEL.FEATCOMP.CODEC.QUANTIZER", "deviation"])
    with pytest.raises(ValueError, match="QLayer quantizes each tensor"):
        build_feature_split(cfg, None)


def test_every_quantizer_is_described_by_its_name():
    described = {codec_of(name).describe() for name, _ in QUANTIZER_REGISTRY}
    assert len(described) == 5
