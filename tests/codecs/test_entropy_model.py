import copy
import math
import os
import subprocess
import sys
import zlib
from pathlib import Path

import numpy as np
import pytest
import torch
from entropy_models import fit, random_model, smooth_maps

from d2_featcomp.codecs import BitstreamError
from d2_featcomp.codecs.entropy import ContextModel, IntegerModel
from d2_featcomp.codecs.entropy import integer_weights as weights_module
from d2_featcomp.codecs.entropy.frequencies import MixtureFrequencies, SoftmaxFrequencies
from d2_featcomp.codecs.entropy.integer_layers import ACTIVATION_MAX, EXACT
from d2_featcomp.codecs.entropy.range_coder import RangeDecoder, RangeEncoder
from d2_featcomp.codecs.entropy.tables import exponential_table, logistic_table, reciprocal_table

STREAMS = 2000  # coded in one process, decoded in others


@pytest.fixture(scope="module", params=[(3, 2), (4, 6)], ids=["softmax", "mixture"])
def fitted(request):
    """A fitted model, the bits while it was fitted, and maps that it did not see."""
    channels, bits = request.param
    torch.manual_seed(0)
    model = ContextModel(channels, bits, group=2)
    found = fit(model, smooth_maps(40, channels, bits))
    return model, found, smooth_maps(20, channels, bits, seed=1)


@pytest.mark.parametrize("bits", range(2, 9))
@pytest.mark.parametrize(
    ("channels", "group", "size"),
    [(1, 0, (1, 1)), (5, 0, (4, 7)), (3, 2, (1, 6)), (7, 3, (5, 2)), (16, 0, (3, 3))],
)
def test_symbols_come_back(bits, channels, group, size):
    model = random_model(channels, bits, group, seed=bits).integer_model()
    symbols = np.random.default_rng(bits).integers(0, 2**bits, (channels, *size))
    payload = model.encode(symbols)
    assert np.array_equal(model.decode(payload, symbols.shape), symbols)
    assert len(payload) <= model.count_bits(symbols) / 8 + 4


@pytest.mark.parametrize("value", [0, 1, 63])
def test_extreme_maps_come_back(value):
    model = random_model(3, 6).integer_model()
    symbols = np.full((3, 9, 8), value)
    assert np.array_equal(model.decode(model.encode(symbols), symbols.shape), symbols)


def test_fitted_models_know_their_maps(fitted):
    model, bits, maps = fitted
    assert 0.8 * model.bits < bits[0] < 1.2 * model.bits  # nothing is known at first
    integer = model.integer_model()
    found = sum(integer.count_bits(symbols.numpy()) for symbols in maps) / maps.numel()
    assert found < 0.8 * bits[0]


@pytest.mark.parametrize("bits", [3, 6])
def test_a_start_from_moments_knows_the_distributions(bits):
    """Of each channel and rate; it needs hardly more than the best model that knows nothing else."""
    torch.manual_seed(0)
    model, highest = ContextModel(3, bits, rates=2), 2**bits - 1
    untrained = copy.deepcopy(model)
    deviations = torch.tensor([[0.2, 1.0, 0.2], [1.0, 3.0, 0.5]])
    means = torch.tensor([[highest / 2 + 0.5, 2.0, highest / 2], [highest / 2, highest - 3.0, 1.0]])
    model.start_from_moments(means, deviations)
    integer = model.integer_model()
    for point in range(2):
        noise = torch.distributions.Laplace(0, 1).sample((8, 3, 16, 16)) / math.sqrt(2)
        drawn = means[point, :, None, None] + deviations[point, :, None, None] * noise
        maps = drawn.round().clamp(0, highest).long()
        least = 0
        for channel in maps.transpose(0, 1):
            counts = channel.flatten().bincount(minlength=2**bits).double()
            least -= (counts * (counts / counts.sum()).clamp(min=1e-12).log2()).sum()
        found = [integer.at_rate(255 * point).count_bits(symbols.numpy()) for symbols in maps]
        assert sum(found) < 1.25 * least
        rate = torch.full((len(maps),), float(point))
        assert 1.4 * sum(found) < float(untrained(maps.float(), rate=rate).detach())


def test_bytes_are_those_of_the_cross_entropy(fitted):
    model, _, maps = fitted
    integer = model.integer_model()
    entropy = sum(float(model(symbols[None].float()).detach()) for symbols in maps) / 8
    lengths = [len(integer.encode(symbols.numpy())) for symbols in maps]
    assert sum(lengths) <= 1.01 * entropy + 4 * len(maps)
    for length, symbols in zip(lengths, maps, strict=True):
        own = integer.count_bits(symbols.numpy()) / 8
        assert own - 1 <= length <= own + 4


def test_integers_lose_little(fitted):
    model, _, maps = fitted
    with torch.no_grad():
        floats = float(model(maps.float()))
    integers = sum(model.integer_model().count_bits(symbols.numpy()) for symbols in maps)
    assert integers == pytest.approx(floats, rel=0.01)


def test_every_sum_stays_exact(fitted):
    """Bounds by the integers alone, as large as inputs can be."""
    model = fitted[0]
    symbol = 2**model.bits - 1

    def reach(name, largest, of=None):
        weight = getattr(model, f"integer_{name}_weight").double().abs()
        weight = weight if of is None else weight.chunk(4)[of]
        return weight.flatten(-1 if weight.dim() == 3 else 1).sum(-1) * largest

    middle = reach("middle", ACTIVATION_MAX)
    sums = [reach("before", symbol) + model.integer_before_bias.abs()]
    for phase in range(4):
        sums.append(middle + reach("own", symbol, phase) + model.integer_own_bias[phase].abs())
    for name in ("hidden", "head"):
        sums.append(reach(name, ACTIVATION_MAX) + getattr(model, f"integer_{name}_bias").abs())
    assert all((total < EXACT).all() for total in sums)
    assert max(float(total.max()) for total in sums) > EXACT / 8  # or precision is thrown away


@pytest.mark.parametrize("factor", [1e-6, 1e6])
def test_weights_of_any_size_are_coded_with(factor):
    model = random_model(4, 3, 2)
    with torch.no_grad():
        for weight in model.parameters():
            weight.mul_(factor)
    model.update()
    symbols = smooth_maps(1, 4, 3)[0].numpy()
    payloads = [model.integer_model(dtype).encode(symbols) for dtype in ("float32", "float64")]
    assert payloads[0] == payloads[1]
    assert np.array_equal(model.integer_model().decode(payloads[0], symbols.shape), symbols)


def test_sums_that_are_not_exact_are_refused():
    weights = [(torch.full((1, 100), 0.5, dtype=torch.float64), 5, ACTIVATION_MAX)]
    shift = weights_module.largest_shift(weights, torch.zeros(1))
    weights_module.as_integers(weights, torch.zeros(1), shift)
    with pytest.raises(ValueError, match="too large to be computed exactly"):
        weights_module.as_integers(weights, torch.zeros(1), shift + 2)


def test_weights_that_are_not_finite_are_refused():
    model = random_model(2, 2)
    with torch.no_grad():
        model.head_bias[0, 0] = math.nan
    with pytest.raises(ValueError, match="infinite or NaN"):
        model.update()


def test_tables_are_the_same_everywhere():
    """If one of these changes, no bitstream of before can be read."""
    found = [zlib.crc32(t().astype("<i8").tobytes()) for t in TABLES]
    assert found == [TABLE_SUMS[t.__name__] for t in TABLES]
    assert [float(t()[0]) for t in TABLES] == [65536, 2, 82270]
    logistic = logistic_table()
    assert (np.diff(logistic) >= 0).all() and logistic[len(logistic) // 2] == 2**23
    arguments = np.arange(-1023, 1024) / 64
    np.testing.assert_allclose(logistic / 2**24, 1 / (1 + np.exp(-arguments)), atol=2**-24)


TABLES = (exponential_table, logistic_table, reciprocal_table)
TABLE_SUMS = {"exponential_table": 226696469, "logistic_table": 458612145, "reciprocal_table": 305742049}


def test_frequencies_are_positive_and_add_up():
    random = np.random.default_rng(0)
    outputs = random.integers(-600, 600, (3, 16, 5)).astype(float)
    frequencies = SoftmaxFrequencies(outputs).of_digit(0, None)
    assert frequencies.shape == (15, 16) and (frequencies >= 1).all()
    mixture = MixtureFrequencies(random.integers(-500, 5000, (3, 9, 5)).astype(float), 8)
    upper = mixture.of_digit(0, None)
    assert upper.shape == (15, 16) and (upper >= 1).all()
    for digit in range(16):  # the lower digits share what the upper one has
        lower = mixture.of_digit(1, np.full(15, digit))
        assert (lower >= 1).all()
        assert np.array_equal(lower.sum(axis=1), upper[:, digit])


@pytest.mark.parametrize(
    ("bits", "sums"),
    [(5, [2181141198, 1221569680, 4174583635]), (8, [213435505, 3529283295, 3046857605])],
)
def test_frequencies_of_a_mixture_are_the_same_everywhere(bits, sums):
    """As the tables: if they change, no bitstream of before can be read."""
    outputs = np.arange(2 * 9 * 40).reshape(2, 9, 40) * 7919 % 1201 - 600.0
    outputs[:, 3:6] = outputs[:, 3:6] * 2 ** (bits - 5) + 2 ** (bits + 3)  # means, some of them outside
    outputs[:, 6:] = outputs[:, 6:] // 16 + 30  # scales: -8 to 66, of which 0 to 63 are known
    mixture = MixtureFrequencies(outputs, bits)
    found = [mixture.of_digit(0, None)]
    found += [mixture.of_digit(1, np.full(80, digit)) for digit in range(2 ** (bits - bits // 2))]
    assert [zlib.crc32(np.ascontiguousarray(part, "<i8").tobytes()) for part in found[:3]] == sums
    for digit, lower in enumerate(found[1:]):
        assert np.array_equal(lower.sum(axis=1), found[0][:, digit])


def test_between_two_symbols_bits_are_the_mean():
    model = random_model(1, 3)
    bits = [float(model(torch.full((1, 1, 1, 1), float(k))).detach()) for k in (2, 3)]
    between = torch.full((1, 1, 1, 1), 2.25, requires_grad=True)
    found = model(between)
    assert float(found.detach()) == pytest.approx(0.75 * bits[0] + 0.25 * bits[1], rel=1e-5)
    (gradient,) = torch.autograd.grad(found, between)
    assert float(gradient) == pytest.approx(bits[1] - bits[0], rel=1e-4)


@pytest.mark.parametrize("bits", [5, 6])
@pytest.mark.parametrize(
    "phase",
    [
        [[-5.0, 6.0, -9.0], [-1.0, 1.0, -1.2], [-3.0, -5.0, -1.2]],
        [[-15.8, -9.1, 9.4], [2.4, 0.5, -0.1], [-1.6, -6.0, 5.8]],
    ],
    ids=["narrow and elsewhere", "wider than the widest"],
)
def test_a_mixture_that_expects_something_else_comes_back(bits, phase):
    """Where a symbol has the least probability there is, 2^-20, there must be a gradient, and where a
    scale is beyond the last of the tables: in one of four phases a map of one symbol is not expected,
    as of a channel that became constant."""
    torch.manual_seed(0)
    model = ContextModel(1, bits)
    with torch.no_grad():  # logits, means and logarithms of scales of the components
        model.head_bias.view(4, 3, 3)[0] = torch.tensor(phase)
    positions = torch.full((1, 1, 8, 8), 2.0 ** (bits - 1))
    optimizer = torch.optim.Adam(model.parameters(), 0.015)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, 300)
    for _ in range(300):
        optimizer.zero_grad()
        model(positions).backward()
        optimizer.step()
        schedule.step()
    assert float(model(positions).detach()) / 64 < 0.1


def test_what_is_outside_of_a_mask_does_not_count():
    model = random_model(3, 2, 2)
    small, large = smooth_maps(1, 3, 2, (5, 6))[0], smooth_maps(1, 3, 2, (8, 9))[0]
    batch = torch.full((2, 3, 8, 9), 3.0)
    batch[0, :, :5, :6], batch[1] = small, large
    mask = torch.zeros(2, 1, 8, 9, dtype=torch.bool)
    mask[0, :, :5, :6] = mask[1] = True
    with torch.no_grad():
        apart = float(model(small[None].float()) + model(large[None].float()))
        assert float(model(batch, mask)) == pytest.approx(apart, rel=1e-5)


def test_checkpoints_keep_their_size_and_give_the_same_bytes():
    model, maps = ContextModel(3, 2), smooth_maps(8, 3, 2)
    before = {name: value.shape for name, value in model.state_dict().items()}
    fit(model, maps, iterations=5)
    state = copy.deepcopy(model.state_dict())
    assert {name: value.shape for name, value in state.items()} == before
    payload = model.integer_model().encode(maps[0].numpy())
    again = ContextModel(3, 2)
    assert again.integer_model().encode(maps[0].numpy()) != payload
    again.load_state_dict(state)
    assert again.integer_model().encode(maps[0].numpy()) == payload
    # The integers of a checkpoint are used as they are, whatever other machines would round to.
    state["integer_head_bias"][:] += 1000 * torch.arange(4)[:, None]
    again.load_state_dict(state)
    again.update()
    assert torch.equal(again.integer_head_bias, state["integer_head_bias"])


def test_integers_follow_the_weights():
    model, symbols = random_model(2, 2), smooth_maps(1, 2, 2)[0].numpy()
    payload = model.integer_model().encode(symbols)
    with torch.no_grad():
        model.own_bias.add_(0.5)
    assert model.integer_model().encode(symbols) == payload
    model.update()
    assert model.integer_model().encode(symbols) != payload


def test_without_pytorch_the_bytes_are_the_same():
    model, symbols = random_model(5, 4, 2), smooth_maps(1, 5, 4)[0].numpy()
    payload = model.integer_model().encode(symbols)
    data = model.integer_model().to_bytes()
    for dtype in ("float32", "float64"):
        assert IntegerModel.from_bytes(data, dtype).encode(symbols) == payload


# ---- range coder -----------------------------------------------------------------------------------


def test_payloads_have_no_byte_too_many():
    """No shorter payload gives the same symbols."""
    random = np.random.default_rng(3)
    for length in (0, 1, 2, 5, 40, 300):
        frequencies = random.integers(1, 1000, (length, 5)) ** 2
        symbols = random.integers(0, 5, length)
        encoder = RangeEncoder()
        encoder.code(frequencies, symbols)
        payload = encoder.finish()
        for cut in range(max(0, len(payload) - 3), len(payload)):
            for shorter in {payload[:cut], _increased(payload[:cut])}:
                decoder = RangeDecoder(shorter)
                try:
                    found = decoder.code(frequencies)
                except BitstreamError:
                    continue
                assert not np.array_equal(found, symbols)


def _increased(data):
    value = int.from_bytes(data, "big") + 1
    return value.to_bytes(len(data), "big") if data and value < 256 ** len(data) else data


@pytest.mark.parametrize(("channels", "bits"), [(3, 2), (2, 7)])
def test_damage_is_refused(channels, bits):
    model = random_model(channels, bits, scale=1.0).integer_model()
    symbols = smooth_maps(1, channels, bits)[0].numpy()
    payload, shape = model.encode(symbols), symbols.shape
    assert np.array_equal(model.decode(payload, shape), symbols)
    for forged in (payload + b"\0", payload + b"\0\1", b"\xff" * 2000):
        with pytest.raises(BitstreamError, match="payload is damaged"):
            model.decode(forged, shape)
    random = np.random.default_rng(0)
    for trial in range(120):
        forged = bytearray(payload[: len(payload) - trial % 3])
        forged[random.integers(len(forged))] ^= 1 << random.integers(8)
        try:
            found = model.decode(bytes(forged), shape)
        except BitstreamError:
            continue
        # Any payload that is decoded is the one that its symbols are coded to.
        assert model.encode(found) == bytes(forged)
        assert ((found >= 0) & (found < 2**bits)).all()


# ---- the same symbols everywhere ---------------------------------------------------------------------

PROGRAM = Path(__file__).with_name("entropy_models.py")
MACHINES = {
    "SSE4.1, one thread": (
        {"ONEDNN_MAX_CPU_ISA": "SSE41", "OPENBLAS_CORETYPE": "Nehalem"},
        1,
        "float32",
    ),
    "AVX2, two threads": ({"ONEDNN_MAX_CPU_ISA": "AVX2", "OPENBLAS_CORETYPE": "Haswell"}, 2, "float32"),
    "float64, two threads": ({"ONEDNN_MAX_CPU_ISA": "AVX512_CORE"}, 2, "float64"),
}


def run_elsewhere(action, path, machine, *part):
    variables, threads, dtype = MACHINES[machine]
    root = Path(__file__).parents[2]
    count = dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"), str(threads))
    done = subprocess.run(
        [sys.executable, str(PROGRAM), action, str(path), str(STREAMS), dtype, *map(str, part)],
        env={**os.environ, **variables, **count, "PYTHONPATH": str(root)},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


@pytest.fixture(scope="module")
def streams(tmp_path_factory):
    """Payloads of one kind of machine; the other kinds decode them."""
    path = tmp_path_factory.mktemp("streams") / "payloads"
    run_elsewhere("encode", path, "SSE4.1, one thread")
    return path


@pytest.mark.parametrize("machine", list(MACHINES)[1:])
def test_symbols_are_the_same_everywhere(streams, machine):
    """Each of the other machines decodes its share: all models and sizes, and together all streams."""
    others = list(MACHINES)[1:]
    found = run_elsewhere("decode", streams, machine, others.index(machine), len(others))
    assert found == f"{STREAMS // len(others)} 0"
