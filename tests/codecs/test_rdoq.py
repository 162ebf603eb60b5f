"""Rate-distortion optimized quantization: which symbols are chosen, and what it saves."""

import math

import numpy as np
import pytest
import torch
from entropy_models import fit, random_model, smooth_maps

from d2_featcomp.codecs import LearnedFeatureCodec, VariableRateFeatureCodec
from d2_featcomp.codecs.array_codecs import LearnedArrayCodec
from d2_featcomp.codecs.entropy import ContextModel

KINDS = [
    (3, 2, {}),
    (4, 4, {"group": 2}),
    (5, 6, {}),
    (2, 5, {"hyper": 2}),
    (3, 3, {"hyper": 1, "context": False}),
]


def positions_of(channels, bits, size=(9, 14), seed=0):
    """(C, H, W) float32 in 0..2^n - 1, both ends among them."""
    highest = 2**bits - 1
    found = np.random.default_rng(seed).uniform(-1, highest + 1, (channels, *size))
    return np.clip(found, 0, highest).astype(np.float32)


@pytest.mark.parametrize(("channels", "bits", "settings"), KINDS)
def test_zero_weight_rounds_to_the_nearest(channels, bits, settings):
    model = random_model(channels, bits, **settings).integer_model()
    positions = positions_of(channels, bits)
    symbols, payload = model.encode_positions(positions, 0.0)
    assert np.array_equal(symbols, np.rint(positions))
    assert payload == model.encode(symbols)


@pytest.mark.parametrize(("channels", "bits", "settings"), KINDS)
def test_the_decoder_gets_what_was_chosen(channels, bits, settings):
    model = random_model(channels, bits, **settings).integer_model()
    positions = positions_of(channels, bits)
    symbols, payload = model.encode_positions(positions, 2.0)
    assert not np.array_equal(symbols, np.rint(positions))
    assert np.abs(symbols - positions).max() <= 1
    assert np.array_equal(model.choose_symbols(positions, 2.0), symbols)
    assert np.array_equal(model.decode(payload, symbols.shape), symbols)


def test_each_symbol_is_the_cheaper_of_two():
    """A map of one position and one channel, whose probabilities depend on nothing."""
    model = random_model(1, 3).integer_model()
    bits = [model.count_bits(np.full((1, 1, 1), symbol)) for symbol in range(8)]
    for weight in (0.5, 1.0, 4.0):
        for position in np.linspace(0, 7, 71, dtype=np.float32):
            lower = min(math.floor(position), 6)
            costs = {
                symbol: (position - symbol) ** 2 + weight * math.log(2) / 6 * bits[symbol]
                for symbol in (lower, lower + 1)
            }
            found = model.choose_symbols(np.full((1, 1, 1), position), weight).item()
            assert costs[found] == min(costs.values())


@pytest.mark.parametrize("settings", [{}, {"hyper": 2}])
def test_a_fitted_model_saves_more_than_it_loses(settings):
    torch.manual_seed(0)
    model = ContextModel(3, 4, group=2, **settings)
    fit(model, smooth_maps(40, 3, 4))
    integer, random = model.integer_model(), np.random.default_rng(0)
    bits, errors = {0.0: 0.0, 1.0: 0.0, 3.0: 0.0}, {0.0: 0.0, 1.0: 0.0, 3.0: 0.0}
    for maps in smooth_maps(10, 3, 4, seed=1).numpy():
        positions = np.clip(maps + random.uniform(-0.5, 0.5, maps.shape), 0, 15).astype(np.float32)
        for weight in bits:
            symbols = integer.choose_symbols(positions, weight)
            bits[weight] += integer.count_bits(symbols)
            errors[weight] += ((symbols - positions) ** 2).sum()
    assert bits[3.0] < bits[1.0] < bits[0.0]
    assert errors[0.0] < errors[1.0] < errors[3.0]
    for weight in (1.0, 3.0):
        price = weight * math.log(2) / 6
        assert errors[weight] + price * bits[weight] < errors[0.0] + price * bits[0.0]


@pytest.mark.parametrize("kind", [LearnedFeatureCodec, VariableRateFeatureCodec])
@pytest.mark.parametrize("quantizer", ["fixed", "tensor", "channel"])
def test_codecs_quantize_what_they_code(kind, quantizer):
    torch.manual_seed(0)
    codec = kind(channels=(3, 5), bits=4, quantizer=quantizer, rdoq=1.0)
    plain = kind(channels=(3, 5), bits=4, quantizer=quantizer)
    noisy = [parameter.data.add_(0.2 * torch.randn(parameter.shape)) for parameter in codec.parameters()]
    assert noisy
    codec.train().eval()
    plain.load_state_dict(codec.state_dict())
    assert plain.eval().describe() == codec.describe()  # decoders need not know
    generator = torch.Generator().manual_seed(1)
    ys = [torch.rand(shape, generator=generator) * 2 - 1 for shape in [(3, 12, 16), (5, 5, 3)]]
    y_hats, _, _ = codec.quantize([y[None] for y in ys])
    found = plain.decompress(codec.compress(ys), [y.shape for y in ys])
    assert all(torch.equal(y_hat[0], y) for y_hat, y in zip(y_hats, found, strict=True))
    nearest, _, _ = plain.quantize([y[None] for y in ys])
    assert not torch.equal(nearest[0], y_hats[0])


@pytest.mark.parametrize("value", [-1.0, float("nan")])
def test_negative_weights_are_refused(value):
    with pytest.raises(ValueError, match="RDOQ is"):
        LearnedFeatureCodec(channels=(3,), bits=4, rdoq=value)
    with pytest.raises(ValueError, match="RDOQ is"):
        LearnedArrayCodec(models=[], rdoq=value, name="learned", bits=4, quantizer=None)
