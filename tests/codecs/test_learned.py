"""The codec "learned": settings, rate term, bytes."""

import sys

import pytest
import torch
from entropy_models import fit, smooth_maps

from d2_featcomp.codecs import BitstreamError, CodedTensor, LearnedFeatureCodec, build_feature_codec
from d2_featcomp.engine import setup_config


def build(bits=2, channels=(3,), **settings):
    torch.manual_seed(0)
    return LearnedFeatureCodec(channels=channels, bits=bits, **settings)


def latents(bits, channels=3, seed=0, size=(12, 16)):
    """One latent in [-1, 1], (C, H, W), whose symbols are those of `smooth_maps`."""
    return smooth_maps(1, channels, bits, size, seed)[0] / (2**bits - 1) * 2 - 1


@pytest.mark.parametrize("quantizer", ["fixed", "tensor", "channel"])
@pytest.mark.parametrize("bits", [2, 4, 6, 8])
def test_the_decoder_gets_what_evaluation_quantizes(quantizer, bits):
    codec = build(bits, (3, 5), quantizer=quantizer).eval()
    ys = [latents(bits, 3, seed=1) * 0.9, latents(bits, 5, seed=2, size=(5, 3)) * 0.7]
    tensors = codec.compress(ys)
    shapes = [y.shape for y in ys]
    y_hats, steps, rate_terms = codec.quantize([y[None] for y in ys])
    assert rate_terms == {}
    for y_hat, decoded in zip(y_hats, codec.decompress(tensors, shapes), strict=True):
        assert torch.equal(y_hat[0], decoded)
    for own, found in zip(steps, codec.step_sizes(tensors, shapes), strict=True):
        assert torch.equal(own[0], found)
    assert (codec.name, codec.bits, codec.lossless, codec.quantizer) == (
        "learned",
        bits,
        True,
        quantizer,
    )


def test_fitted_it_sends_fewer_bytes_than_any_image_codec():
    from d2_featcomp.codecs import QuantizedFeatureCodec, build_image_codec

    codec = build(3, (3,))
    fit(codec.context_models[0], smooth_maps(60, 3, 3), iterations=100)
    ys = [latents(3, seed=seed) for seed in range(100, 110)]
    ours = sum(len(codec.compress([y])[0].payload) for y in ys)
    for name in ("jpegxl", "jpegls", "png"):
        other = QuantizedFeatureCodec(image_codec=build_image_codec(name, bits=3))
        assert ours < 0.8 * sum(len(other.compress([y])[0].payload) for y in ys)


def test_where_fixed_length_is_smaller_it_is_sent():
    codec = build(4, (2,)).eval()
    maps = torch.zeros(8, 2, 6, 6, dtype=torch.long)
    fit(codec.context_models[0], maps, iterations=60, rate=0.05)  # expects nothing but zeros
    noise = torch.rand(2, 6, 6, generator=torch.Generator().manual_seed(0)) * 2 - 1
    (tensor,) = codec.compress([noise])
    assert tensor.fixed_length and len(tensor.payload) == 2 * 36 // 2
    (decoded,) = codec.decompress([tensor], [noise.shape])
    assert (decoded - noise).abs().max() <= 1 / 15 + 1e-6
    (tensor,) = codec.compress([torch.full((2, 6, 6), -1.0)])
    assert not tensor.fixed_length and len(tensor.payload) <= 1


def test_damaged_tensors_are_refused():
    codec = build(4).eval()
    y = latents(4)
    (tensor,) = codec.compress([y])
    for payload in (tensor.payload + b"\0", b"\xff" * 5000):
        with pytest.raises(BitstreamError):
            codec.decompress([CodedTensor({"y": payload})], [y.shape])
    with pytest.raises(BitstreamError, match="'learned' at 4 bits"):
        codec.decompress([CodedTensor({"z": tensor.payload})], [y.shape])
    with pytest.raises(BitstreamError, match="2 are expected"):
        codec.decompress([tensor], [y.shape, y.shape])


# ---- training --------------------------------------------------------------------------------------


def test_the_rate_term_is_bits_of_a_symbol_and_its_gradient_bytes_of_an_image():
    codec = build(3, (3, 2), rate_weight=0.25).train()
    for model in codec.context_models:
        torch.nn.init.normal_(model.head_bias)
    ys = [latents(3, channels, seed=channels)[None].repeat(2, 1, 1, 1) for channels in (3, 2)]
    ys = [(y * 0.9).requires_grad_() for y in ys]
    _, _, rate_terms = codec.quantize(ys)
    symbols = sum(y.numel() for y in ys)
    bits = sum(
        model(((y + 1) / 2 * 7).detach()) for model, y in zip(codec.context_models, ys, strict=True)
    )
    assert rate_terms["entropy"].item() == pytest.approx(bits.item() / symbols, rel=1e-5)
    assert float(codec.estimated_bytes) == pytest.approx(bits.item() / 8 / 2, rel=1e-5)
    found = torch.autograd.grad(rate_terms["entropy"], ys, retain_graph=True)
    total = sum(model((y + 1) / 2 * 7) for model, y in zip(codec.context_models, ys, strict=True))
    wanted = torch.autograd.grad(0.25 * total / 8 / 2, ys)
    for one, other in zip(found, wanted, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-3, atol=1e-7)


def test_without_a_rate_weight_latents_are_left_alone():
    codec = build(3).train()
    y = (latents(3)[None] * 0.9).requires_grad_()
    _, _, rate_terms = codec.quantize([y])
    assert torch.autograd.grad(rate_terms["entropy"], y, allow_unused=True) == (None,)
    rate_terms["entropy"].backward()
    assert codec.context_models[0].head_bias.grad.abs().sum() > 0


def test_lowering_the_rate_lowers_the_bytes():
    codec = build(4, (2,), rate_weight=0.01, train_quantization="ste").train()
    fit(codec.context_models[0], smooth_maps(40, 2, 4), iterations=60)
    target = torch.atanh(latents(4, 2).clamp(-0.95, 0.95))[None]
    free = target.clone().requires_grad_()
    optimizer = torch.optim.Adam([free], 0.05)
    first = None
    for _ in range(30):
        y = torch.tanh(free)
        (y_hat,), _, rate_terms = codec.quantize([y])
        loss = (y_hat - torch.tanh(target)).square().sum() * 0.001 + rate_terms["entropy"]
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        first = float(codec.estimated_bytes) if first is None else first
    codec.eval()
    before, after = (len(codec.compress([torch.tanh(v[0])])[0].payload) for v in (target, free.detach()))
    assert after < 0.9 * before


def test_evaluation_codes_with_the_weights_of_now():
    codec = build(2)
    y = latents(2)
    payload = codec.eval().compress([y])[0].payload
    codec.train()
    fit(codec.context_models[0], smooth_maps(20, 3, 2), iterations=20)
    assert codec.eval().compress([y])[0].payload != payload
    codec.train()
    with torch.no_grad():
        codec.context_models[0].head_bias.normal_()
    before = codec.context_models[0].integer_head_bias.clone()
    assert not torch.equal(codec.eval().context_models[0].integer_head_bias, before)


# ---- settings --------------------------------------------------------------------------------------


def from_config(*overrides, config="configs/msfc_R50.yaml", channels=4):
    class Split:
        codec_defaults = {"quantizer": "fixed"}

        def read_codec_defaults(self, cfg):
            return self.codec_defaults

        def reduced_shapes(self, size):
            return [(channels, 2, 2)]

    cfg = setup_config(config, ["MODEL.FEATCOMP.CODEC.NAME", "learned", *overrides])
    return build_feature_codec(cfg, Split())


def test_settings_are_read():
    codec = from_config(
        "MODEL.FEATCOMP.CODEC.BITS", "3", "MODEL.FEATCOMP.TRAIN.RATE_WEIGHT", "0.5",
        "MODEL.FEATCOMP.CODEC.LEARNED.GROUP", "2", "MODEL.FEATCOMP.CODEC.LEARNED.HIDDEN", "7",
    )  # fmt: skip
    assert (codec.bits, codec.rate_weight, codec.train_quantization) == (3, 0.5, "ste")
    (model,) = codec.context_models
    assert (model.channels, model.bits, model.group, model.hidden) == (4, 3, 2, 7)
    assert codec.has_weights and "learned" in codec.describe()


@pytest.mark.parametrize(
    ("overrides", "words"),
    [
        (["MODEL.FEATCOMP.CODEC.BITS", "9"], "2 to 8 bits, not 9"),
        (["MODEL.FEATCOMP.CODEC.BITS", "32"], "2 to 8 bits, not 32"),
        (["MODEL.FEATCOMP.TRAIN.RATE_WEIGHT", "-0.1"], "must be positive"),
        (["MODEL.FEATCOMP.BAF.TRAIN_BITS", "(2, 4)"], "learns one bit depth"),
        (["MODEL.FEATCOMP.CODEC.QUALITY", "50"], "takes no CODEC.QUALITY"),
        (["MODEL.FEATCOMP.CODEC.EFFORT", "7"], "takes no CODEC.EFFORT"),
        (["MODEL.FEATCOMP.CODEC.LEARNED.GROUP", "-1"], "LEARNED.GROUP"),
    ],
)
def test_wrong_settings_are_told(overrides, words):
    with pytest.raises(ValueError, match=words):
        from_config(*overrides)


def test_a_missing_library_is_told(monkeypatch):
    monkeypatch.setitem(sys.modules, "constriction", None)
    with pytest.raises(ImportError, match="pip install constriction"):
        build()
