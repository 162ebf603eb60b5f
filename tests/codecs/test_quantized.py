"""The quantization surrogates, rate terms and evaluation of :class:`QuantizedFeatureCodec`."""

import pytest
import torch

from d2_featcomp.codecs import (
    FEATURE_CODEC_REGISTRY,
    IMAGE_CODEC_REGISTRY,
    FeatureCodec,
    QuantizedFeatureCodec,
    build_feature_codec,
    build_image_codec,
    build_quantizer,
)
from d2_featcomp.ops import compressibility_loss


def codec_of(quantizer="fixed", bits=2, name="raw", **settings):
    image_codec = build_image_codec(name, bits=bits)
    return QuantizedFeatureCodec(image_codec=image_codec, quantizer=quantizer, **settings)


def latent(seed=0, shape=(2, 3, 5, 4)):
    """Images and channels of different scales."""
    y = 2 * torch.rand(shape, generator=torch.Generator().manual_seed(seed)) - 1
    scale = torch.arange(1.0, 1 + shape[0] * shape[1]).reshape(*shape[:2], 1, 1) / 8
    return (y * scale).requires_grad_()


def ends(y, quantizer):
    """(low, high) of the range of each image, worked out by hand."""
    if quantizer == "fixed":
        return torch.full((len(y), 1, 1, 1), -1.0), torch.full((len(y), 1, 1, 1), 1.0)
    if quantizer == "deviation":
        flat = y.detach().flatten(1).double()
        mean, half = (
            part.float()[:, None, None, None] for part in (flat.mean(1), 4 * flat.std(1, correction=0))
        )
        return mean - half, mean + half
    flat = y.detach().flatten(2 if quantizer == "channel" else 1)
    shape = (len(y), -1, 1, 1)
    return flat.min(-1)[0].reshape(shape), flat.max(-1)[0].reshape(shape)


QUANTIZERS = pytest.mark.parametrize("quantizer", ["fixed", "tensor", "channel", "deviation", "narrow"])


@QUANTIZERS
def test_nothing_stands_in_for_quantization(quantizer):
    y = latent()
    (y_hat,), (step,), terms = codec_of(quantizer).quantize([y])
    low, high = ends(y, quantizer)
    assert y_hat is y and terms == {}
    torch.testing.assert_close(step, (high - low) / 3)
    assert not step.requires_grad


@QUANTIZERS
def test_noise_is_one_step_wide(quantizer):
    y = latent(shape=(2, 3, 50, 40))
    (y_hat,), (step,), _ = codec_of(quantizer, train_quantization="noise").quantize([y])
    noise = (y_hat - y).detach() / step
    assert noise.abs().max() <= 0.5 + 1e-5
    assert noise.flatten(2).std(-1) == pytest.approx(12**-0.5, rel=0.05)
    y_hat.sum().backward()
    if quantizer == "fixed":
        assert torch.equal(y.grad, torch.ones_like(y))
    else:  # a wider range makes larger errors
        assert not torch.equal(y.grad, torch.ones_like(y))


@QUANTIZERS
def test_rounding_gives_what_the_decoder_will_see(quantizer):
    y = latent()
    codec = codec_of(quantizer, train_quantization="ste")
    (y_hat,), (step,), _ = codec.quantize([y])
    (again,), (eval_step,), _ = codec.eval().quantize([y])
    assert torch.equal(y_hat, again) and torch.equal(step, eval_step)
    for image, restored, sizes in zip(y.detach(), y_hat, step, strict=True):
        tensors = codec.compress([image])
        assert torch.equal(codec.decompress(tensors, [image.shape])[0], restored)
        assert torch.equal(codec.step_sizes(tensors, [image.shape])[0], sizes)
    y_hat.sum().backward()
    inside = (y.abs() <= 1) if quantizer == "fixed" else torch.ones_like(y, dtype=torch.bool)
    assert torch.equal(y.grad, inside.float())


def test_rounding_by_hand():
    y = torch.tensor([[[[-0.9, -0.5, 0.5, 0.9, 4.0]]]])
    (y_hat,), (step,), _ = codec_of(train_quantization="ste").quantize([y])
    torch.testing.assert_close(y_hat.flatten(), torch.tensor([-1, -1 / 3, 1 / 3, 1, 1]))
    torch.testing.assert_close(step, torch.full((1, 1, 1, 1), 2 / 3))


def test_each_image_of_a_batch_gets_one_of_the_bit_depths():
    torch.manual_seed(0)
    y = latent(shape=(60, 2, 4, 4))
    codec = codec_of("channel", bits=8, train_quantization="ste", train_bits=(2, 3, 32))
    (y_hat,), (step,), _ = codec.quantize([y])
    low, high = ends(y, "channel")
    steps = ((high - low) / step).squeeze().round()  # 3, 7, or infinite
    kinds = (
        steps.isinf().any(1).int() * 32 + (steps == 3).all(1).int() * 2 + (steps == 7).all(1).int() * 3
    )
    assert set(kinds.tolist()) == {2, 3, 32}
    assert torch.equal(y_hat[kinds == 32], y[kinds == 32])
    error = ((y_hat - y).abs() / step)[kinds != 32]
    assert error.max() <= 0.51 and error.max() > 0.3


def test_half_precision_is_quantized_in_float32():
    y = latent().detach()
    for kind in ("none", "noise", "ste"):
        codec = codec_of("tensor", bits=12, train_quantization=kind)
        assert codec.quantize([y.half()])[0][0].dtype == torch.float32
    assert codec.eval().quantize([y.half()])[0][0].dtype == torch.float32


@QUANTIZERS
def test_floats_are_not_quantized(quantizer):
    y = latent()
    for kind in ("none", "noise", "ste"):
        codec = codec_of(quantizer, bits=32, train_quantization=kind)
        for module in (codec, codec.eval()):
            (y_hat,), (step,), _ = module.quantize([y])
            assert torch.equal(y_hat, y) and torch.count_nonzero(step) == 0


@QUANTIZERS
@pytest.mark.parametrize("units", ["features", "steps"])
def test_the_rate_term_is_the_compressibility_of_the_latents(quantizer, units):
    ys = [latent(), latent(1, (2, 1, 7, 6))]
    codec = codec_of(quantizer, train_quantization="noise", compressibility_units=units)
    _, terms = codec(ys)
    in_units = ys
    if units == "steps":
        in_units = [y / ((high - low) / 3) for y in ys for low, high in [ends(y, quantizer)]]
    losses, sizes = [compressibility_loss(y) for y in in_units], [y.numel() for y in ys]
    expected = sum(a * b for a, b in zip(losses, sizes, strict=True)) / sum(sizes)
    assert set(terms) == {"compressibility"}
    torch.testing.assert_close(terms["compressibility"], expected)
    terms["compressibility"].backward()
    if units == "steps" and quantizer != "fixed":  # the scale of the latents makes no difference
        assert sum((y * y.grad).sum() for y in ys).abs() < 1e-5
    assert codec.eval()(ys)[1] == {}


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"train_quantization": "dither"}, "TRAIN_QUANTIZATION is 'dither': choose one of 'none'"),
        ({"compressibility_units": "bits"}, "COMPRESSIBILITY.UNITS is 'bits': choose one of 'features'"),
        ({"train_bits": (4, 1)}, "bit depth 1"),
    ],
)
def test_unknown_settings_are_named(settings, message):
    with pytest.raises(ValueError, match=message):
        codec_of(**settings)


def test_the_description_tells_all_that_decoding_depends_on():
    codecs = [
        codec_of(),
        codec_of(bits=3),
        codec_of("tensor"),
        codec_of("channel"),
        codec_of(value_range=(0, 6)),
        codec_of(build_quantizer("fixed", (0, 2))),
        codec_of(name="png"),
        QuantizedFeatureCodec(image_codec=build_image_codec("jpegxl", bits=2)),
        QuantizedFeatureCodec(image_codec=build_image_codec("jpegxl", bits=2, quality=1)),
    ]
    assert len({codec.describe() for codec in codecs}) == len(codecs)
    assert codec_of(train_quantization="noise").describe() == codec_of().describe()
    own = codec_of(build_quantizer("fixed", (0, 6)))
    assert own.describe() == codec_of(value_range=(0, 6)).describe() and own.value_range == (0, 6)
    effort = QuantizedFeatureCodec(image_codec=build_image_codec("png", bits=2, effort=9))
    assert effort.describe() == codec_of(name="png").describe()
    assert isinstance(codecs[0], FeatureCodec) and not codecs[0].state_dict()


# ---- from a config -------------------------------------------------------------------------------


class Split:
    """What a codec asks of a split."""

    codec_defaults = {
        "quantizer": "channel",
        "value_range": (0.0, 6.0),
        "train_quantization": "ste",
        "colour": False,
    }

    @classmethod
    def read_codec_defaults(cls, cfg):
        return cls.codec_defaults


@pytest.fixture
def config():
    from d2_featcomp.engine import setup_config

    def make(**overrides):
        named = {f"MODEL.FEATCOMP.{key.replace('__', '.')}": value for key, value in overrides.items()}
        return setup_config(
            "configs/msfc_R50.yaml", [part for item in named.items() for part in map(str, item)]
        )

    return make


def test_a_config_and_the_splits_defaults(config):
    codec = build_feature_codec(config(TRAIN_QUANTIZATION="''", CODEC__NAME="png", CODEC__BITS=6), Split)
    assert (codec.name, codec.bits, codec.quantizer) == ("png", 6, "channel")
    assert (codec.value_range, codec.train_quantization) == ((0.0, 6.0), "ste")
    assert codec.train_bits == () and codec.compressibility_units is None
    codec = build_feature_codec(
        config(
            CODEC__QUANTIZER="tensor",
            TRAIN_QUANTIZATION="noise",
            COMPRESSIBILITY__WEIGHT=0.1,
            COMPRESSIBILITY__UNITS="steps",
        ),
        Split,
    )
    assert (codec.quantizer, codec.train_quantization, codec.train_bits) == ("tensor", "noise", ())
    assert codec.compressibility_units == "steps"
    codec = build_feature_codec(config(TRAIN_QUANTIZATION="ste", BAF__TRAIN_BITS=(2, 5)), Split)
    assert (codec.train_quantization, codec.train_bits) == ("ste", (2, 5))


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        ({"CODEC__NAME": "jpegxs"}, r"unknown codec 'jpegxs' \(MODEL.FEATCOMP.CODEC.NAME\)"),
        ({"CODEC__NAME": "jpeg420", "CODEC__BITS": 8}, "codes colour images, not features"),
        ({"CODEC__BITS": 17}, "17 bits"),
        ({"COMPRESSIBILITY__WEIGHT": -1.0}, "WEIGHT is -1.0: it must be positive, or 0"),
        ({"BAF__TRAIN_BITS": (4, 1)}, "MODEL.FEATCOMP.BAF.TRAIN_BITS: bit depth 1"),
        (
            {"BAF__TRAIN_BITS": (4, 5), "TRAIN_QUANTIZATION": "noise"},
            "TRAIN_BITS has no effect with TRAIN_QUANTIZATION 'noise'",
        ),
    ],
)
def test_settings_out_of_range_are_refused(config, overrides, message):
    with pytest.raises(ValueError, match=message) as caught:
        build_feature_codec(config(**overrides), Split)
    if "jpegxs" in message:
        assert all(name in str(caught.value) for name, _ in IMAGE_CODEC_REGISTRY)
        assert all(name in str(caught.value) for name, _ in FEATURE_CODEC_REGISTRY)


@pytest.mark.parametrize("name", ["png", "variable_rate"])
def test_a_default_of_a_split_that_is_not_known_is_refused(config, name):
    """It would be ignored, and the rate another than was meant."""

    class Misspelt(Split):
        codec_defaults = {"quantiser": "fixed", "value_range": (-1.0, 1.0)}

    message = "codec_defaults of Misspelt have an unknown key 'quantiser': did you mean 'quantizer'"
    for feature_split in (Misspelt, Misspelt()):
        with pytest.raises(ValueError, match=message):
            build_feature_codec(config(CODEC__NAME=name, TRAIN_QUANTIZATION="''"), feature_split)
