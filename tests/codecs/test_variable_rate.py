"""The codec "variable_rate": step sizes and entropy model that follow the rate."""

import copy
import io
import itertools

import numpy as np
import pytest
import torch
from entropy_models import random_model, smooth_maps

from d2_featcomp.codecs import BitstreamError, CodedTensor, VariableRateFeatureCodec
from d2_featcomp.codecs.entropy import ContextModel, IntegerModel, interpolate, interpolate_integers
from d2_featcomp.engine import setup_config


def build(bits=4, channels=(3,), **settings):
    torch.manual_seed(0)
    return VariableRateFeatureCodec(channels=channels, bits=bits, **settings)


def latents(channels=3, seed=0, size=(12, 16)):
    """(C, H, W) in [-1, 1], whose neighbours are alike."""
    return smooth_maps(1, channels, 8, size, seed)[0] / 255 * 2 - 1


def fit(codec, iterations=100, count=40):
    """Fits a codec of one latent to smooth maps of random rates."""
    optimizer = torch.optim.Adam(codec.context_models.parameters(), 0.02)
    ys = smooth_maps(count, 3, 8) / 255 * 2 - 1
    codec.train()
    for iteration in range(iterations):
        _, _, terms = codec.quantize([ys[iteration * 4 % count :][:4]])
        optimizer.zero_grad()
        terms["entropy"].backward()
        optimizer.step()
    return codec.eval()


@pytest.fixture(scope="module")
def fitted():
    return fit(build())


@pytest.mark.parametrize("quantizer", ["fixed", "tensor", "channel"])
@pytest.mark.parametrize("bits", [2, 4, 8])
def test_the_decoder_gets_what_evaluation_quantizes(quantizer, bits):
    codec = build(bits, (3, 5), quantizer=quantizer).eval()
    ys = [latents(3, seed=1) * 0.9, latents(5, seed=2, size=(5, 3)) * 0.7]
    shapes = [y.shape for y in ys]
    other = copy.deepcopy(codec)  # the cloud's, which knows no rate but the stream's
    for rate in (0.0, 0.4, 1.0):
        codec.rate = rate
        tensors = codec.compress(ys)
        y_hats, steps, rate_terms = codec.quantize([y[None] for y in ys])
        assert rate_terms == {}
        for y, y_hat, step, found in zip(
            ys, y_hats, steps, other.decompress(tensors, shapes), strict=True
        ):
            assert torch.equal(y_hat[0], found)
            assert ((y - found).abs() <= step[0] / 2 * 1.001).all()
        for step, found in zip(steps, other.step_sizes(tensors, shapes), strict=True):
            assert torch.equal(step[0], found)


def test_step_sizes_are_those_of_the_rate():
    """By hand: n = 3, so that symbols -3..3 reach the range at the smallest step size, 1/3."""
    codec = build(3, (2,), rates=3).eval()
    relative = torch.tensor([[3.0, 6.0], [2.0, 2.0], [1.5, 1.25]])
    with torch.no_grad():
        codec.step_models[0].excess.copy_((relative - 1).log())
    codec.train().eval()
    y = torch.tensor([[[-1.0, -0.4, 0.0, 0.2, 0.9]], [[-1.0, -0.4, 0.0, 0.2, 0.9]]])
    for rate, steps in {0.0: (1.0, 2.0), 1.0: (0.5, 5 / 12)}.items():
        codec.rate = rate
        (y_hat,), (step,), _ = codec.quantize([y[None]])
        assert step.flatten().tolist() == pytest.approx(steps, rel=1e-3)
        for channel, size in enumerate(steps):
            wanted = [size * round(value / size) for value in y[channel, 0].tolist()]
            assert y_hat[0, channel, 0].tolist() == pytest.approx(wanted, abs=1e-3)
    codec.rate = 0.25  # code 64 of 255, of two intervals: a little above half of the first
    (_,), (step,), _ = codec.quantize([y[None]])
    share = 64 * 2 / 255
    wanted = [(3 + share * (2 - 3)) / 3, (6 + share * (2 - 6)) / 3]
    assert step.flatten().tolist() == pytest.approx(wanted, rel=1e-3)


@pytest.mark.parametrize(("split", "ordered"), [("MSFC", True), ("PyramidSplit", False)])
def test_first_step_sizes(networks, split, ordered):
    """They fall along the rates; channels that no reduction has put in order begin alike."""
    from detectron2.modeling import build_model

    settings = {"MODEL.FEATCOMP.CODEC.NAME": "variable_rate", "MODEL.FEATCOMP.SPLIT": split}
    cfg = setup_config(networks.MSFC, networks.listed({**networks.TINY, **settings}))
    for steps in build_model(cfg).feature_codec.step_models:
        found = steps().detach()
        assert (found[:-1] > found[1:]).all()
        change = found.diff(dim=1)
        assert (change > 0).all() if ordered else (change == 0).all()


def test_entropy_models_start_from_what_latents_are():
    """Each rate has its own step sizes, and so its own symbols."""
    deviations = torch.tensor([0.3, 0.05, 0.01])
    torch.manual_seed(1)
    y = 0.1 + deviations[:, None, None] * torch.randn(3, 24, 24)
    sizes = []
    for known in (False, True):
        codec = build(bits=6, ordered=False)
        if known:
            codec.start_from_moments([(torch.full((3,), 0.1), deviations)])
        codec.eval()
        sizes.append([])
        for rate in (0.0, 0.5, 1.0):
            codec.rate = rate
            sizes[-1].append(len(codec.compress([y])[0].payload))
            ((y_hat,), _, _), (decoded,) = (
                codec.quantize([y[None]]),
                codec.decompress(codec.compress([y]), [y.shape]),
            )
            assert torch.equal(y_hat[0], decoded)
    unknown, known = sizes
    assert known[0] < known[1] < known[2]
    assert all(2 * after < before for before, after in zip(unknown, known, strict=True))


def test_measured_ranges_leave_entropy_models_as_they_are():
    codec = build(quantizer="tensor")
    before = copy.deepcopy(codec.state_dict())
    codec.start_from_moments([(torch.zeros(3), torch.ones(3))])
    assert all(torch.equal(value, before[name]) for name, value in codec.state_dict().items())


def test_bits_are_estimated_only_where_they_have_a_gradient():
    codec = build().train()
    y = latents()[None]
    assert set(codec.quantize([y])[2]) == {"entropy"}
    with torch.no_grad():
        assert codec.quantize([y])[2] == {}


def test_bytes_and_errors_follow_the_rate(fitted):
    sizes, errors = [], []
    for rate in np.linspace(0, 1, 9):
        fitted.rate = rate
        ys = [latents(seed=seed) for seed in range(100, 110)]
        coded = [fitted.compress([y]) for y in ys]
        sizes.append(sum(len(tensor.payload) for (tensor,) in coded))
        found = [fitted.decompress(c, [y.shape])[0] for c, y in zip(coded, ys, strict=True)]
        errors.append(sum(float((a - b).square().mean()) for a, b in zip(found, ys, strict=True)))
    for values in (sizes, errors[::-1]):
        assert all(after > 0.98 * before for before, after in itertools.pairwise(values))
    assert sizes[-1] > 2 * sizes[0] and errors[0] > 3 * errors[-1]


def test_the_model_knows_the_rate(fitted):
    """Symbols are coded in fewer bytes by the model of their own rate than by those of others."""
    symbols = {
        rate: [fitted.find_symbols_at(latents(seed=seed), 0, rate) for seed in range(100, 106)]
        for rate in (0.0, 0.5, 1.0)
    }
    for rate, maps in symbols.items():
        sizes = {
            other: sum(len(fitted.encode_symbols(found, 0, other)) for found in maps)
            for other in symbols
        }
        assert min(sizes, key=sizes.get) == rate


def test_bytes_are_those_of_the_estimate(fitted):
    model = fitted.context_models[0]
    for rate in (0.0, 0.3, 1.0):
        code = round(rate * 255)
        maps = [fitted.find_symbols_at(latents(seed=seed), 0, rate) for seed in range(100, 110)]
        exact = torch.full((1,), code / 255)
        with torch.no_grad():
            bits = sum(float(model(found[None].float(), rate=exact)) for found in maps)
        sizes = [len(fitted.encode_symbols(found, 0, rate)) for found in maps]
        assert sum(sizes) <= 1.01 * bits / 8 + 4 * len(maps)
        integer = model.integer_model().at_rate(code)
        assert sum(integer.count_bits(found.numpy()) for found in maps) == pytest.approx(bits, rel=0.01)


def test_interpolation_in_integers():
    points = np.array([[0, 1000], [255, -1000], [510, 0]])
    assert [interpolate_integers(points, code).tolist() for code in (0, 255)] == [[0, 1000], [510, 0]]
    assert interpolate_integers(points, 51).tolist() == [102, 200]  # two fifths of the first interval
    assert interpolate_integers(points, 204).tolist() == [408, -400]
    floats = interpolate(torch.tensor(points).float(), torch.tensor([0.0, 0.2, 0.8, 1.0]))
    assert floats.tolist() == [[0, 1000], [102, 200], [408, -400], [510, 0]]


@pytest.mark.parametrize(("channels", "bits", "group"), [(2, 2, 0), (5, 4, 2), (3, 8, 0)])
def test_every_rate_is_exact(channels, bits, group):
    model = ContextModel(channels, bits, group, rates=3)
    with torch.no_grad():
        for weight in model.parameters():
            weight.add_(torch.randn(weight.shape, generator=torch.Generator().manual_seed(1)) * 0.5)
    model.update()
    symbols = np.random.default_rng(bits).integers(0, 2**bits, (channels, 5, 4))
    data = model.integer_model().to_bytes()
    for code in (0, 1, 100, 255):
        payloads = set()
        for dtype in ("float32", "float64"):
            for integer in (model.integer_model(dtype), IntegerModel.from_bytes(data, dtype)):
                assert integer.rates == 3
                payloads.add(integer.at_rate(code).encode(symbols))
        (payload,) = payloads
        assert np.array_equal(
            model.integer_model().at_rate(code).decode(payload, symbols.shape), symbols
        )


def test_a_model_of_one_rate_has_the_weights_it_had():
    assert {tuple(weight.shape) for weight in random_model(3, 4).parameters()} == {
        *((60, 3, 5, 5), (60,), (60, 20, 5, 5), (240, 1, 5, 5), (4, 60)),
        *((4, 60, 20), (4, 48, 20), (4, 48)),
    }


# ---- training --------------------------------------------------------------------------------------


def test_an_exponent_draws_high_rates_more_often():
    y = latents(2, seed=3)[None].repeat(64, 1, 1, 1)
    drawn = {}
    for exponent in (1.0, 0.5):
        torch.manual_seed(0)
        codec = build(4, (2,), rate_exponent=exponent).train()
        codec.quantize([y])
        drawn[exponent] = codec._drawn
    torch.testing.assert_close(drawn[0.5], drawn[1.0].sqrt())
    assert (drawn[1.0] > 0.5).sum() == 32 and (drawn[0.5] > 0.5).sum() == 48


def test_gradients_are_those_of_bytes_and_of_rounding():
    codec = build(4, (2,), rate_weight=0.01, rate_weight_ratio=100.0).train()
    torch.nn.init.normal_(codec.context_models[0].head_bias)
    y = (latents(2, seed=3)[None].repeat(4, 1, 1, 1) * 0.9).requires_grad_()
    (y_hat,), (step,), terms = codec.quantize([y])
    rate = codec._drawn
    assert ((rate * 4).floor().sort().values == torch.arange(4)).all()  # one in each quarter
    relative = interpolate(codec.step_models[0](), rate)[..., None, None]
    torch.testing.assert_close(step, (relative / 7).detach())
    torch.testing.assert_close(y_hat, (y / step).round() * step, atol=1e-5, rtol=1e-5)

    # Of the rate term: lambda times the bytes of an image, lambda that of its own rate.
    found = torch.autograd.grad(terms["entropy"], [y, codec.step_models[0].excess], retain_graph=True)
    bits = torch.stack(
        [
            codec.context_models[0]((y[i] / (relative[i] / 7) + 8)[None], rate=rate[i : i + 1])
            for i in range(4)
        ]
    )
    cost = (0.01 * 100 ** (1 - rate) * bits / 8).mean()
    wanted = torch.autograd.grad(cost, [y, codec.step_models[0].excess], retain_graph=True)
    for one, other in zip(found, wanted, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-3, atol=1e-7)

    # Of the decoder: straight through to y; to a step size, the rounding errors in units of it.
    found = torch.autograd.grad(y_hat.sum(), [y, codec.step_models[0].excess], retain_graph=True)
    torch.testing.assert_close(found[0], torch.ones_like(y))
    errors = ((y / step).round() - y / step).detach()
    (wanted,) = torch.autograd.grad((errors * relative / 7).sum(), codec.step_models[0].excess)
    torch.testing.assert_close(found[1], wanted, atol=1e-3, rtol=1e-3)


def test_the_gradient_of_a_step_size_where_values_are_clipped():
    """Larger steps move the ends of the range outwards, and what is clipped to them with these."""
    codec = build(4, (1,), quantizer="deviation").train()
    excess, y = codec.step_models[0].excess, latents(1, seed=3)[None] * 0.1
    y[0, 0, 0, 0] = 5.0

    def restore():
        torch.manual_seed(0)
        ((y_hat,), _, _) = codec.quantize([y])
        return y_hat[0, 0, 0, 0]

    before = restore()
    (found,) = torch.autograd.grad(before, excess)
    with torch.no_grad():
        excess += 1e-3
    assert before < 4.9 and found.sum() > 0
    assert found.sum().item() == pytest.approx((restore() - before).item() / 1e-3, rel=0.02)


@pytest.mark.parametrize("bits", [4, 8])
def test_all_step_sizes_are_trained(bits):
    (model,) = build(bits, (8,)).step_models
    (found,) = torch.autograd.grad(model().sum(), model.excess)
    assert (found > 0).all() and model().max() < 405


@pytest.mark.parametrize("rate", [0.0, 1.0])
def test_a_constant_channel_is_of_the_middle_symbol(rate):
    """Training counts from there; else a symbol would be coded that the entropy model hardly expects."""
    codec = build(6, (3,), quantizer="channel", rate=rate).eval()
    y = latents(3)
    y[1] = 0.25
    seen = []
    codec._code_symbols = lambda symbols, *rest: seen.append(symbols) or CodedTensor({"y": b""})
    codec.compress([y])
    assert (seen[0][1] == 32).all() and (seen[0][0] != seen[0][0, 0, 0]).any()
    assert (codec.find_symbols_at(y, 0, rate)[1] == 32).all()
    (y_hat,), _, _ = codec.quantize([y[None]])
    assert (y_hat[0, 1] == 0.25).all()


def test_without_a_rate_weight_latents_are_left_alone():
    codec = build(3).train()
    y = (latents()[None] * 0.9).requires_grad_()
    _, _, terms = codec.quantize([y])
    assert torch.autograd.grad(terms["entropy"], y, allow_unused=True, retain_graph=True) == (None,)
    terms["entropy"].backward()
    assert codec.context_models[0].head_bias.grad.abs().sum() > 0


def test_checkpoints_carry_what_was_trained(fitted):
    fitted.rate = 0.6
    y = latents(seed=5)
    file = io.BytesIO()
    torch.save(fitted.state_dict(), file)
    file.seek(0)
    other = build(rate=0.6)
    assert other.compress([y]) != fitted.compress([y])
    other.load_state_dict(torch.load(file, weights_only=True))
    assert other.eval().compress([y]) == fitted.compress([y])
    assert sum(v.numel() for v in other.state_dict().values()) == sum(
        v.numel() for v in build().state_dict().values()
    )
    integers = other.integer_step_sizes()[0].copy()
    with torch.no_grad():
        other.step_models[0].excess.add_(0.5)
    other.train().eval()
    assert (other.integer_step_sizes()[0] > integers).all()


# ---- errors ----------------------------------------------------------------------------------------


def test_damaged_tensors_are_refused(fitted):
    y = latents()
    fitted.rate = 1.0
    (tensor,) = fitted.compress([y])
    for payload in (b"", tensor.payload + b"\0", tensor.payload[:1] + b"\xff" * 5000):
        with pytest.raises(BitstreamError):
            fitted.decompress([CodedTensor({"y": payload})], [y.shape])
    noise = torch.rand(3, 12, 16, generator=torch.Generator().manual_seed(0)) * 2 - 1
    (tensor,) = fitted.compress([noise])
    assert tensor.fixed_length and len(tensor.payload) == 1 + 3 * 12 * 16 // 2
    (decoded,) = fitted.decompress([tensor], [noise.shape])
    (step,) = fitted.step_sizes([tensor], [noise.shape])
    assert ((decoded - noise).abs() <= step / 2 * 1.001).all()
    with pytest.raises(BitstreamError):
        fitted.decompress([CodedTensor({"y": tensor.payload[:-1]}, None, True)], [noise.shape])


@pytest.mark.parametrize(
    ("overrides", "words"),
    [
        (["MODEL.FEATCOMP.CODEC.RATE", 1.2], "CODEC.RATE is 1.2"),
        (["MODEL.FEATCOMP.CODEC.LEARNED.RATE_POINTS", 1], "RATE_POINTS is 1"),
        (["MODEL.FEATCOMP.TRAIN.RATE_WEIGHT_RATIO", 0.5], "RATE_WEIGHT_RATIO is 0.5"),
        (["MODEL.FEATCOMP.TRAIN.RATE_EXPONENT", 0.0], "RATE_EXPONENT is 0.0: it must be above 0"),
        (["MODEL.FEATCOMP.TRAIN.RATE_EXPONENT", "1e999"], "RATE_EXPONENT is inf"),
        (["MODEL.FEATCOMP.TRAIN.RATE_WEIGHT_RATIO", "1e999"], "RATE_WEIGHT_RATIO is inf"),
        (["MODEL.FEATCOMP.TRAIN.RATE_WEIGHT", "1e999"], "RATE_WEIGHT is inf"),
        (["MODEL.FEATCOMP.COMPRESSIBILITY.WEIGHT", "1e999"], "COMPRESSIBILITY.WEIGHT is inf"),
        (["MODEL.FEATCOMP.CODEC.TARGET_KB", "1e999"], "TARGET_KB is inf"),
        (["MODEL.FEATCOMP.CODEC.BITS", 9], "'variable_rate' codes symbols of 2 to 8 bits"),
    ],
)
def test_wrong_settings_are_told(networks, overrides, words):
    from detectron2.modeling import build_model

    cfg = setup_config(
        networks.MSFC,
        networks.listed({**networks.TINY, "MODEL.FEATCOMP.CODEC.NAME": "variable_rate"})
        + [str(part) for part in overrides],
    )
    with pytest.raises(ValueError, match=words):
        build_model(cfg)
