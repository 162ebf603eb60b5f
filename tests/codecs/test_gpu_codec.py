"""A GPU sends and decodes the same bits as a CPU."""

import pytest
import torch

from d2_featcomp.codecs import (
    FeatureBitstream,
    FeatureCodec,
    ImageSizes,
    LearnedFeatureCodec,
    VariableRateFeatureCodec,
    build_image_codec,
)
from d2_featcomp.ops import (
    compressibility_loss,
    dequantize_uniform,
    find_narrow_channels,
    quantize_minmax,
    quantize_uniform,
    tile_channels,
    untile_channels,
)

pytestmark = pytest.mark.gpu

BITS = (2, 3, 4, 5, 6, 7, 8, 12, 16)
QUANTIZERS = ("fixed", "tensor", "channel")
CPU = torch.device("cpu")


def features(channels=16, height=24, width=20):
    """Channels of very unlike ranges, among them a constant one, one far outside [-1, 1] and one whose
    values lie on the borders between symbols; (C, H, W) float32."""
    x = torch.randn(channels, height, width, generator=torch.Generator().manual_seed(0))
    x *= torch.logspace(-3, 1, channels)[:, None, None]
    x[3] = 0.25
    x[5] = torch.linspace(-1, 1, height * width).reshape(height, width)
    return x


def compress(codec, x):
    size = (8 * x.shape[1], 8 * x.shape[2])
    return codec.compress(
        [x],
        split="MSFC",
        fingerprint=b"\1\2\3\4",
        sizes=ImageSizes(padded=size, resized=size, original=size),
        feature_elements=x.numel(),
    )


def decode(codec, stream, x, where):
    return codec.decompress(stream.tensors, [tuple(x.shape)], where)


def quantize(x, bits, quantizer):
    """(symbols, low, high)."""
    if quantizer == "fixed":
        return quantize_uniform(x, bits, -1.0, 1.0), -1.0, 1.0
    return quantize_minmax(x, bits, per_channel=quantizer == "channel")


@pytest.mark.parametrize("quantizer", QUANTIZERS)
@pytest.mark.parametrize("bits", BITS)
def test_symbols_of_equal_features_are_equal(device, bits, quantizer):
    x = features()
    found, expected = (quantize(each, bits, quantizer) for each in (x.to(device), x))
    assert found[0].dtype == expected[0].dtype and found[0].device.type == device.type
    assert torch.equal(found[0].cpu(), expected[0])
    assert expected[0].unique().numel() > min(2**bits, 64) // 2  # it is not all one symbol
    for end, wanted in zip(found[1:], expected[1:], strict=True):
        assert torch.equal(torch.as_tensor(end).cpu(), torch.as_tensor(wanted))


@pytest.mark.parametrize("quantizer", QUANTIZERS)
@pytest.mark.parametrize("bits", BITS)
def test_every_symbol_is_restored_to_the_same_value(device, bits, quantizer):
    symbols = torch.arange(2**bits, dtype=torch.int32).reshape(1, -1, 4)
    symbols = symbols.repeat(16, 1, 1).to(torch.uint8 if bits <= 8 else torch.int32)
    _, low, high = quantize(features(), bits, quantizer)
    expected = dequantize_uniform(symbols, bits, low, high)
    ends = (torch.as_tensor(end).to(device) if quantizer != "fixed" else end for end in (low, high))
    found = dequantize_uniform(symbols.to(device), bits, *ends)
    assert found.dtype == torch.float32 and torch.equal(found.cpu(), expected)


@pytest.mark.parametrize("name", ["raw", "png", "jpegxl"])
@pytest.mark.parametrize("quantizer", [*QUANTIZERS, "deviation", "narrow"])
@pytest.mark.parametrize("bits", BITS)
def test_bitstreams_and_what_is_decoded_are_the_same_bits(device, bits, quantizer, name):
    codec = FeatureCodec(image_codec=build_image_codec(name, bits=bits), quantizer=quantizer)
    x = features()
    sent, expected = (compress(codec, each).to_bytes() for each in (x.to(device), x))
    assert sent == expected
    stream = FeatureBitstream.from_bytes(sent)
    (found,), (wanted,) = decode(codec, stream, x, device), decode(codec, stream, x, CPU)
    assert found.device.type == device.type and torch.equal(found.cpu(), wanted)
    steps = (codec.step_sizes(stream.tensors, [tuple(x.shape)], each) for each in (device, CPU))
    (step,), (wanted_step,) = steps
    assert torch.equal(step.cpu(), wanted_step)
    # The error of a value inside the range is half a step, and the rounding of floats.
    inside = torch.ones_like(x, dtype=torch.bool)
    if quantizer in ("fixed", "deviation"):
        low, high = codec.find_range(x)
        inside = (x >= low) & (x <= high)
    elif quantizer == "narrow":
        inside = ~find_narrow_channels(x, 0.05)[0].expand_as(x)
    bound = (wanted_step / 2 + 2e-6 * x.abs().amax()).expand_as(x)
    assert ((found.cpu() - x).abs() <= bound)[inside].all()


@pytest.mark.parametrize(("name", "bits", "options"), [("jpeg", 8, {"quality": 60}), ("raw", 32, {})])
def test_lossy_codecs_and_floats_too(device, name, bits, options):
    image_codec = build_image_codec(name, bits=bits, **options)
    codec = FeatureCodec(image_codec=image_codec, quantizer="tensor")
    x = features()
    sent, expected = (compress(codec, each).to_bytes() for each in (x.to(device), x))
    assert sent == expected
    stream = FeatureBitstream.from_bytes(sent)
    (found,), (wanted,) = decode(codec, stream, x, device), decode(codec, stream, x, CPU)
    assert torch.equal(found.cpu(), wanted)
    assert torch.equal(wanted, x) == (bits == 32)


def test_the_order_of_the_channels_in_memory_does_not_matter(device):
    """A fused network's features have their channels last."""
    codec = FeatureCodec(image_codec=build_image_codec("raw", bits=6), quantizer="channel")
    x = features()[None]
    last = x.to(device).to(memory_format=torch.channels_last)
    assert compress(codec, last[0]).to_bytes() == compress(codec, x[0]).to_bytes()
    tiles = tile_channels(last[0])
    assert torch.equal(tiles.cpu(), tile_channels(x[0]))
    assert torch.equal(untile_channels(tiles, 16).cpu(), x[0])


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
@pytest.mark.parametrize("quantizer", QUANTIZERS)
def test_features_that_are_not_finite_are_refused(device, quantizer, value):
    codec = FeatureCodec(image_codec=build_image_codec("raw", bits=4), quantizer=quantizer)
    x = features().to(device)
    x[2, 3, 4] = value
    with pytest.raises(ValueError, match="NaN or infinite"):
        compress(codec, x)


@pytest.mark.parametrize("shape", [(2, 6, 8, 16), (3, 5, 7, 9)])
def test_the_compressibility_loss_and_its_gradient_are_close(device, shape, exact_float32):
    x = torch.randn(shape, generator=torch.Generator().manual_seed(1))
    found = []
    for each in (x.to(device), x.double()):
        each = each.requires_grad_()
        loss = compressibility_loss(each)
        loss.backward()
        found.append((loss.detach().cpu().double(), each.grad.cpu().double()))
    (loss, gradient), (wanted, wanted_gradient) = found
    torch.testing.assert_close(loss, wanted, rtol=1e-5, atol=0)
    # The sign of a coefficient near 0 may differ.
    assert (gradient - wanted_gradient).norm() <= 1e-2 * wanted_gradient.norm()


@pytest.mark.parametrize(
    ("bits", "quantizer"), [(2, "fixed"), (4, "fixed"), (6, "channel"), (8, "tensor")]
)
@pytest.mark.parametrize("kind", [LearnedFeatureCodec, VariableRateFeatureCodec])
def test_learned_codecs_send_and_decode_the_same(device, kind, bits, quantizer):
    torch.manual_seed(0)
    codec = kind(channels=[16], bits=bits, quantizer=quantizer)
    optimizer = torch.optim.Adam(codec.parameters(), 0.01)
    codec.to(device).train()
    x = features()
    for _ in range(10):  # trained there, so that its integers are made there, too
        _, _, rate_terms = codec.quantize([x[None].to(device)])
        optimizer.zero_grad()
        rate_terms["entropy"].backward()
        optimizer.step()
    codec.eval()
    there = codec.compress([x.to(device)])
    (decoded,) = codec.decompress(there, [x.shape], device)
    other = kind(channels=[16], bits=bits, quantizer=quantizer).eval()
    other.load_state_dict(codec.state_dict())
    assert other.compress([x]) == there
    (expected,) = other.decompress(there, [x.shape])
    assert torch.equal(decoded.cpu(), expected)
    assert not there[0].fixed_length
