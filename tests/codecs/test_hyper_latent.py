"""Entropy models with a hyper-latent, with and without context."""

import numpy as np
import pytest
import torch
from entropy_models import fit, random_model, smooth_maps

from d2_featcomp.codecs import BitstreamError
from d2_featcomp.codecs.entropy import ContextModel, IntegerModel
from d2_featcomp.codecs.entropy.integer_layers import ACTIVATION_MAX, EXACT

WITH = {"hyper": 2}
ALONE = {"hyper": 2, "context": False}


@pytest.mark.parametrize("settings", [WITH, ALONE], ids=["with context", "alone"])
@pytest.mark.parametrize(("channels", "bits"), [(1, 2), (3, 4), (5, 7)])
@pytest.mark.parametrize("size", [(1, 1), (4, 8), (5, 2), (9, 7)])
def test_symbols_come_back(settings, channels, bits, size):
    model = random_model(channels, bits, seed=bits, **settings).integer_model()
    symbols = np.random.default_rng(bits).integers(0, 2**bits, (channels, *size)).astype(np.uint8)
    payload = model.encode(symbols)
    assert np.array_equal(model.decode(payload, symbols.shape), symbols)
    assert len(payload) <= model.count_bits(symbols) / 8 + 4


@pytest.mark.parametrize("settings", [WITH, ALONE], ids=["with context", "alone"])
def test_without_pytorch_the_bytes_are_the_same(settings):
    model, symbols = random_model(3, 4, 2, **settings), smooth_maps(1, 3, 4)[0].numpy()
    payload = model.integer_model().encode(symbols)
    data = model.integer_model().to_bytes()
    for dtype in ("float32", "float64"):
        assert IntegerModel.from_bytes(data, dtype).encode(symbols) == payload
        assert model.integer_model(dtype).encode(symbols) == payload


def test_each_rate_has_a_model_of_its_own():
    model, symbols = random_model(3, 4, rates=3, **WITH), smooth_maps(1, 3, 4)[0].numpy()
    with torch.no_grad():
        model.hyper_latent.second_bias[2] += 3
        model.hyper_latent.model.head_bias[0] += torch.randn(model.hyper_latent.model.head_bias[0].shape)
    model.update()
    models = [model.integer_model().at_rate(code) for code in (0, 127, 255)]
    payloads = [each.encode(symbols) for each in models]
    assert len(set(payloads)) == 3
    for each, payload in zip(models, payloads, strict=True):
        assert np.array_equal(each.decode(payload, symbols.shape), symbols)


def test_the_hyper_latent_is_made_alike_in_floats_and_integers():
    """Of the same rounded weights: what training sees is what is coded."""
    model = random_model(3, 4, hyper=3)
    symbols = smooth_maps(1, 3, 4, (9, 14))
    odd = 2 * symbols[0].numpy().astype(np.float32) - 15
    integers = model.integer_model().hyper_analysis.compute(odd, 4)
    with torch.no_grad():
        floats, _ = model.hyper_latent((2 * symbols - 15) / 8.0)
    enlarged = integers.repeat(4, axis=1).repeat(4, axis=2)[:, :9, :14]
    assert integers.shape == (3, 3, 4) and len(np.unique(integers)) > 3
    difference = np.abs((2 * enlarged - 15) / 8 - floats[0].numpy())
    assert (difference > 0).mean() < 0.1 and difference.max() <= 0.25  # one symbol, near a border


def test_every_sum_stays_exact():
    model = random_model(4, 6, **WITH)
    hyper, symbol = model.hyper_latent, 2**6 - 1
    first = hyper.integer_first_weight.double().abs().flatten(1).sum(1) * symbol
    second = hyper.integer_second_weight.double().abs().flatten(1).sum(1) * ACTIVATION_MAX
    before = model.integer_before_weight.double().abs().sum((2, 3))
    before = before[:, :2].sum(1) * 15 + before[:, 2:].sum(1) * symbol
    sums = [
        first + hyper.integer_first_bias.abs(),
        second + hyper.integer_second_bias.abs(),
        before + model.integer_before_bias.abs(),
    ]
    assert all((total < EXACT).all() for total in sums)
    assert min(float(total.max()) for total in sums) > EXACT / 64  # or precision is thrown away


@pytest.mark.parametrize("settings", [WITH, ALONE], ids=["with context", "alone"])
def test_what_is_outside_of_a_mask_does_not_count(settings):
    model = random_model(3, 2, **settings)
    small, large = smooth_maps(1, 3, 2, (5, 6))[0], smooth_maps(1, 3, 2, (11, 9))[0]
    batch = torch.full((2, 3, 11, 9), 3.0)
    batch[0, :, :5, :6], batch[1] = small, large
    mask = torch.zeros(2, 1, 11, 9, dtype=torch.bool)
    mask[0, :, :5, :6] = mask[1] = True
    with torch.no_grad():
        apart = float(model(small[None].float()) + model(large[None].float()))
        assert float(model(batch, mask)) == pytest.approx(apart, rel=1e-5)


def test_it_learns_how_much_channels_vary():
    """Maps are flat or noisy as a whole; without context only a hyper-latent tells which."""
    generator = torch.Generator().manual_seed(0)
    spread = torch.tensor([0.3, 3.0]).repeat(24)[:, None, None, None]
    maps = (7.5 + spread * torch.randn(48, 6, 8, 8, generator=generator)).round().clamp(0, 15).long()
    torch.manual_seed(0)
    model = ContextModel(6, 4, hidden=16, **ALONE)
    fit(model, maps[:40], iterations=60, rate=0.02)
    # What a fixed distribution of symbols needs.
    shares = torch.bincount(maps.flatten(), minlength=16) / maps.numel()
    fixed = -(shares[shares > 0] * shares[shares > 0].log2()).sum()
    integer = model.integer_model()
    found = sum(integer.count_bits(symbols.numpy()) for symbols in maps[40:]) / maps[40:].numel()
    assert found < 0.9 * fixed


def test_damage_is_refused():
    model = random_model(2, 4, scale=1.0, **WITH).integer_model()
    symbols = smooth_maps(1, 2, 4)[0].numpy()
    payload = model.encode(symbols)
    for forged in (payload + b"\0", payload + b"\0\1", b"\xff" * 2000):
        with pytest.raises(BitstreamError, match="payload is damaged"):
            model.decode(forged, symbols.shape)
    random = np.random.default_rng(0)
    for trial in range(200):
        forged = bytearray(payload[: len(payload) - trial % 3])
        forged[random.integers(len(forged))] ^= 1 << random.integers(8)
        try:
            found = model.decode(bytes(forged), symbols.shape)
        except BitstreamError:
            continue
        assert ((found >= 0) & (found < 16)).all()


def test_checkpoints_hold_the_hyper_latent():
    model, symbols = random_model(3, 2, **WITH), smooth_maps(1, 3, 2)[0].numpy()
    payload = model.integer_model().encode(symbols)
    again = ContextModel(3, 2, **WITH)
    assert again.integer_model().encode(symbols) != payload
    again.load_state_dict(model.state_dict())
    assert again.integer_model().encode(symbols) == payload
    with torch.no_grad():
        again.hyper_latent.second_bias += 2
    again.update()
    assert again.integer_model().encode(symbols) != payload


def test_no_weight_is_without_a_use():
    """What has no gradient stops training on several GPUs."""
    model = ContextModel(3, 4, **ALONE)
    model(smooth_maps(2, 3, 4).float()).backward()
    assert all(weight.numel() and weight.grad is not None for weight in model.parameters())


def test_no_context_needs_a_hyper_latent():
    with pytest.raises(ValueError, match=r"CODEC\.LEARNED\.HYPER"):
        ContextModel(3, 2, context=False)
