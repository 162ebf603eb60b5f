import numpy as np
import pytest
import torch

from d2_featcomp.ops import (
    BIT_DEPTHS,
    FLOAT_BITS,
    add_quantization_noise,
    check_bits,
    dequantize_by_table,
    dequantize_uniform,
    minmax_range,
    quantize_minmax,
    quantize_ste,
    quantize_uniform,
)

DEPTHS = list(range(2, 17))


def seeded(*shape, scale=1.0, seed=0):
    return scale * torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def test_the_papers_bit_depths_are_there():
    assert list(BIT_DEPTHS) == DEPTHS
    assert FLOAT_BITS == 32
    assert [check_bits(bits) for bits in (*DEPTHS, 32)] == [*DEPTHS, 32]
    assert type(check_bits(4.0)) is int


@pytest.mark.parametrize("bits", [-4, 0, 1, 17, 24, 31, 33, 64, 2.5, True])
def test_other_bit_depths_are_refused(bits):
    x = torch.zeros(1, 2, 2)
    for call in (
        lambda: check_bits(bits),
        lambda: quantize_uniform(x, bits, -1, 1),
        lambda: dequantize_uniform(x, bits, -1, 1),
        lambda: add_quantization_noise(x, bits, -1, 1),
        lambda: quantize_ste(x, bits, -1, 1),
    ):
        with pytest.raises(ValueError, match="bit depth"):
            call()


def test_hand_worked_symbols_with_a_step_of_one():
    x = torch.tensor([-9.0, -0.1, 0.0, 0.4, 0.6, 1.4, 1.6, 2.4, 2.6, 3.0, 3.1, 3e38])
    symbols = quantize_uniform(x, 2, 0.0, 3.0)
    assert symbols.tolist() == [0, 0, 0, 0, 1, 1, 2, 2, 3, 3, 3, 3]
    assert symbols.dtype == torch.uint8
    restored = dequantize_uniform(symbols, 2, 0.0, 3.0)
    assert restored.tolist() == [0, 0, 0, 0, 1, 1, 2, 2, 3, 3, 3, 3]
    assert restored.dtype == torch.float32


def test_hand_worked_symbols_in_the_range_of_tanh():
    """n = 4 on [-1, 1]: the step is 2/15, so 0.1 is 8.25 steps from the lower end."""
    x = torch.tensor([-1.0, -0.95, -0.9, 0.1, 0.95, 1.0])
    symbols = quantize_uniform(x, 4, -1, 1)
    assert symbols.tolist() == [0, 0, 1, 8, 15, 15]
    expected = torch.tensor([-1.0, -1.0, -13 / 15, 1 / 15, 1.0, 1.0])
    torch.testing.assert_close(dequantize_uniform(symbols, 4, -1, 1), expected, rtol=0, atol=1e-7)


@pytest.mark.parametrize("bits", DEPTHS)
@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("size", [5, 2**17])  # fewer than the values of a table, and more
def test_a_table_gives_the_same_bits(bits, channels, size):
    generator = torch.Generator().manual_seed(bits)
    low = -torch.rand(channels, 1, 1, generator=generator) * 9
    high = torch.rand(channels, 1, 1, generator=generator) * 3
    symbols = torch.randint(2**bits, (3, 1, size), generator=generator, dtype=torch.int32)
    symbols[:, 0, :2] = torch.tensor([0, 2**bits - 1])
    if bits <= 8:
        symbols = symbols.to(torch.uint8)
    found = dequantize_by_table(symbols, bits, low, high)
    expected = dequantize_uniform(symbols, bits, low, high)
    assert found.dtype == torch.float32 and found.numpy().tobytes() == expected.numpy().tobytes()


@pytest.mark.gpu
@pytest.mark.parametrize("bits", DEPTHS)
@pytest.mark.parametrize("size", [5, 2**17])
def test_a_gpu_dequantizes_to_the_same_bits(device, bits, size):
    generator = torch.Generator().manual_seed(bits)
    low, high = -torch.rand(3, 1, 1, generator=generator), torch.rand(3, 1, 1, generator=generator)
    symbols = torch.randint(2**bits, (3, 1, size), generator=generator, dtype=torch.int32)
    found = dequantize_by_table(symbols.to(device), bits, low.to(device), high.to(device))
    assert found.device.type == device.type
    assert torch.equal(found.cpu(), dequantize_uniform(symbols, bits, low, high))


@pytest.mark.parametrize("bits", DEPTHS)
@pytest.mark.parametrize("low, high", [(-1.0, 1.0), (0.0, 0.0625), (-65504.0, 65504.0), (-3.0, -1.5)])
def test_every_symbol_comes_back(bits, low, high):
    symbols = torch.arange(2**bits, dtype=torch.int32).reshape(2, -1, 2)
    values = dequantize_uniform(symbols, bits, low, high)
    exact = low + symbols.double() * (high - low) / (2**bits - 1)
    torch.testing.assert_close(values.double(), exact, rtol=0, atol=2e-7 * max(abs(low), abs(high)))
    again = quantize_uniform(values, bits, low, high)
    assert again.dtype == (torch.uint8 if bits <= 8 else torch.int32)
    assert torch.equal(again.int(), symbols)


@pytest.mark.parametrize("bits", DEPTHS)
def test_the_ends_of_the_range_and_what_lies_beyond(bits):
    x = torch.tensor([-1e30, -1.0, 1.0, 1e30])
    top = 2**bits - 1
    assert quantize_uniform(x, bits, -1.0, 1.0).tolist() == [0, 0, top, top]


@pytest.mark.parametrize("shape", [(1, 1, 1), (3, 5, 7), (8, 1, 3)])
@pytest.mark.parametrize("bits", DEPTHS)
def test_the_error_is_at_most_half_a_step(bits, shape):
    x = seeded(*shape).tanh()
    restored = dequantize_uniform(quantize_uniform(x, bits, -1, 1), bits, -1, 1)
    half_step = 1 / (2**bits - 1)
    assert (restored.double() - x.double()).abs().max() <= half_step + 2e-7


@pytest.mark.parametrize("per_channel", [False, True])
@pytest.mark.parametrize("bits", DEPTHS)
def test_the_error_is_at_most_half_a_step_of_the_features_own_range(bits, per_channel):
    x = seeded(6, 5, 3) * torch.tensor([1e-3, 0.1, 1.0, 5.0, 60.0, 900.0]).reshape(6, 1, 1)
    low, high = minmax_range(x, per_channel)
    restored = dequantize_uniform(quantize_uniform(x, bits, low, high), bits, low, high)
    half_step = (high - low).double() / (2**bits - 1) / 2
    rounding = 4e-7 * torch.maximum(low.abs(), high.abs())
    assert ((restored.double() - x.double()).abs() <= half_step * 1.02 + rounding).all()


def test_each_channel_has_a_range_of_its_own():
    x = torch.tensor([[[0.0, 1.0, 3.0]], [[-4.0, 2.0, 8.0]]])
    low, high = minmax_range(x, per_channel=True)
    symbols = quantize_uniform(x, 2, low, high)
    assert symbols.tolist() == [[[0, 1, 3]], [[0, 2, 3]]]  # 6 is 1.5 steps of 4 from -4: to even
    assert dequantize_uniform(symbols, 2, low, high).tolist() == [[[0, 1, 3]], [[-4, 4, 8]]]


def test_32_bits_send_the_floats_as_they_are():
    x = torch.tensor([0.1, -0.0, 3.4e38, 1e-45, float("inf"), float("nan")])
    sent = quantize_uniform(x, 32, -1, 1)
    assert sent.dtype == torch.float32
    assert sent.numpy().tobytes() == x.numpy().tobytes()
    assert dequantize_uniform(sent, 32, -1, 1).numpy().tobytes() == x.numpy().tobytes()
    assert quantize_uniform(x.half(), 32, -1, 1).dtype == torch.float32


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_other_float_types_are_quantized_as_float32(dtype):
    x = torch.tensor([-1.0, -0.25, 0.25, 1.0], dtype=dtype)
    assert quantize_uniform(x, 3, -1, 1).tolist() == [0, 3, 4, 7]  # 2.625 and 4.375 steps


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
def test_nan_and_infinity_are_refused(value):
    x = torch.tensor([[[0.0, value, 1.0]]])
    for call in (
        lambda: quantize_uniform(x, 8, -1, 1),
        lambda: quantize_ste(x, 8, -1, 1),
        lambda: minmax_range(x, True),
        lambda: minmax_range(x, False),
    ):
        with pytest.raises(ValueError, match="NaN or infinite"):
            call()


def test_hand_worked_ranges():
    """The neighbours of 0.1 in float16 are 1638 * 2^-14 and 1639 * 2^-14."""
    x = torch.tensor([[[0.1, 0.1]], [[-2.0, 0.1]], [[-0.1, 0.5]]])
    below, above = 1638 / 16384, 1639 / 16384
    low, high = minmax_range(x, per_channel=True)
    assert low.shape == high.shape == (3, 1, 1)
    assert low.flatten().tolist() == [below, -2.0, -above]
    assert high.flatten().tolist() == [above, above, 0.5]
    low, high = minmax_range(x, per_channel=False)
    assert low.shape == high.shape == (1, 1, 1)
    assert (low.item(), high.item()) == (-2.0, 0.5)
    assert low.dtype == high.dtype == torch.float32


@pytest.mark.parametrize("scale", [1e-30, 1e-7, 1e-3, 1.0, 77.7, 1e4])
def test_ranges_hold_every_value_and_are_the_tightest_that_do(scale):
    x = seeded(40, 3, 3, scale=scale).clamp(-65504, 65504)
    x[0], x[1], x[2] = 0.25 * scale, -0.25 * scale, 0.0
    low, high = (end.flatten().numpy() for end in minmax_range(x, per_channel=True))
    least, most = x.amin((1, 2)).numpy(), x.amax((1, 2)).numpy()
    assert (low <= least).all() and (high >= most).all()
    low16, high16 = low.astype(np.float16), high.astype(np.float16)
    assert (low16 == low).all() and (high16 == high).all()
    infinity = np.float16(np.inf)
    assert (np.nextafter(low16, infinity).astype(np.float32) > least).all()
    assert (np.nextafter(high16, -infinity).astype(np.float32) < most).all()


def test_ranges_are_clipped_to_float16():
    x = torch.tensor([[[-1e6, 1e38]], [[65505.0, 7e4]], [[-1e-10, 1e-10]]])
    low, high = minmax_range(x, per_channel=True)
    assert low.flatten().tolist() == [-65504.0, 65504.0, -(2.0**-24)]
    assert high.flatten().tolist() == [65504.0, 65504.0, 2.0**-24]
    assert quantize_uniform(x, 4, low, high).tolist() == [[[0, 15]], [[0, 0]], [[7, 8]]]


@pytest.mark.parametrize("per_channel", [False, True])
@pytest.mark.parametrize("shape", [(1, 1, 1), (5, 1, 1), (3, 5, 7)])
@pytest.mark.parametrize("bits", DEPTHS)
def test_constant_features_are_exact(bits, shape, per_channel):
    """0.375 is a float16 value: both ends of the range are the same, every symbol is 0."""
    x = torch.full(shape, 0.375)
    low, high = minmax_range(x, per_channel)
    symbols = quantize_uniform(x, bits, low, high)
    assert not symbols.any()
    assert torch.equal(dequantize_uniform(symbols, bits, low, high), x)


def test_a_constant_channel_beside_a_varying_one():
    x = torch.tensor([[[-2.0, -2.0]], [[0.0, 3.0]], [[0.0, 0.0]]])
    low, high = minmax_range(x, per_channel=True)
    symbols = quantize_uniform(x, 8, low, high)
    assert symbols.tolist() == [[[0, 0]], [[0, 255]], [[0, 0]]]
    assert torch.equal(dequantize_uniform(symbols, 8, low, high), x)


@pytest.mark.parametrize("bits", DEPTHS)
def test_one_pixel_maps_with_their_own_range_are_exact(bits):
    x = torch.tensor([1.5, -7.0, 0.0, 1024.0]).reshape(4, 1, 1)
    low, high = minmax_range(x, per_channel=True)
    assert torch.equal(dequantize_uniform(quantize_uniform(x, bits, low, high), bits, low, high), x)


def test_noise_is_one_step_wide_and_centred():
    x = torch.full((100, 100), 0.3)
    noise = add_quantization_noise(x, 3, -1.0, 6.0, torch.Generator().manual_seed(1)) - x  # step 1
    assert noise.min() >= -0.5 - 1e-6 and noise.max() <= 0.5 + 1e-6
    assert noise.min() < -0.49 and noise.max() > 0.49
    assert abs(noise.mean()) < 0.015  # five standard deviations: 5 * sqrt(1/12) / 100
    assert abs(noise.var() - 1 / 12) < 0.005


def test_noise_follows_the_range_of_each_channel():
    low, high = torch.zeros(2, 1, 1), torch.tensor([3.0, 300.0]).reshape(2, 1, 1)
    noise = add_quantization_noise(
        torch.zeros(2, 40, 40), 2, low, high, torch.Generator().manual_seed(2)
    )
    assert 0.45 < noise[0].abs().max() <= 0.5
    assert 45 < noise[1].abs().max() <= 50


def test_noise_is_reproducible_from_its_seed():
    x = seeded(3, 4, 5)
    first, same, other = (
        add_quantization_noise(x, 4, -1, 1, torch.Generator().manual_seed(seed)) for seed in (3, 3, 4)
    )
    assert torch.equal(first, same)
    assert not torch.equal(first, other)


def test_noise_keeps_the_type_and_passes_the_gradient():
    x = torch.zeros(2, 3, dtype=torch.float16, requires_grad=True)
    noisy = add_quantization_noise(x, 2, -1, 1)
    assert noisy.dtype == torch.float16
    (noisy * torch.arange(6.0).reshape(2, 3)).sum().backward()
    assert x.grad.tolist() == [[0, 1, 2], [3, 4, 5]]


def test_32_bits_add_no_noise():
    x = seeded(2, 3, 4)
    assert torch.equal(add_quantization_noise(x, 32, -1, 1), x)
    assert torch.equal(quantize_ste(x, 32, -1, 1), x)


@pytest.mark.parametrize("bits", DEPTHS)
def test_straight_through_values_are_the_restored_ones(bits):
    x = seeded(3, 5, 7, scale=0.8)
    expected = dequantize_uniform(quantize_uniform(x, bits, -1, 1), bits, -1, 1)
    torch.testing.assert_close(quantize_ste(x, bits, -1, 1), expected, rtol=0, atol=2e-7)


def test_the_straight_through_gradient_is_one_inside_and_zero_outside():
    x = torch.tensor([-1e30, -1.01, -0.99, -0.3, 0.1, 0.6, 0.99, 1.01, 1e30], requires_grad=True)
    restored = quantize_ste(x, 2, -1, 1)
    third = 1 / 3
    expected = torch.tensor([-1.0, -1.0, -1.0, -third, third, third, 1.0, 1.0, 1.0])
    torch.testing.assert_close(restored.detach(), expected, rtol=0, atol=2e-7)
    (restored * torch.arange(1.0, 10.0)).sum().backward()
    assert x.grad.tolist() == [0, 0, 3, 4, 5, 6, 7, 0, 0]


@pytest.mark.parametrize("low_is_tensor", [False, True])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
def test_straight_through_takes_ranges_of_channels_and_keeps_the_type(dtype, low_is_tensor):
    x = torch.tensor([[[0.2, 2.0]], [[2.0, -1.0]]], dtype=dtype, requires_grad=True)
    high = torch.tensor([1.0, 3.0]).reshape(2, 1, 1)
    restored = quantize_ste(x, 2, torch.zeros(2, 1, 1) if low_is_tensor else 0.0, high)
    assert restored.dtype == dtype
    expected = torch.tensor([[[1 / 3, 1.0]], [[2.0, 0.0]]], dtype=dtype)
    torch.testing.assert_close(restored.detach(), expected, rtol=0, atol=2e-3)
    restored.sum().backward()
    assert x.grad.tolist() == [[[1, 0]], [[1, 0]]]


@pytest.mark.parametrize("bits", [*DEPTHS, FLOAT_BITS])
@pytest.mark.parametrize("per_channel", [False, True])
def test_quantizing_in_its_own_range_is_both_in_one(bits, per_channel):
    x = seeded(5, 7, 9)
    x[1] = 3.0  # an empty range
    x[2] *= 1e5  # beyond float16
    symbols, low, high = quantize_minmax(x, bits, per_channel)
    expected = minmax_range(x, per_channel)
    assert torch.equal(low, expected[0]) and torch.equal(high, expected[1])
    wanted = quantize_uniform(x, bits, *expected)
    assert symbols.dtype == wanted.dtype and torch.equal(symbols, wanted)
    for wrong in (float("nan"), float("inf"), -float("inf")):
        x[4, 6, 8] = wrong
        with pytest.raises(ValueError, match="NaN or infinite"):
            quantize_minmax(x, bits, per_channel)


@pytest.mark.parametrize("bits", DEPTHS)
def test_every_symbol_comes_out_as_an_integer(bits):
    symbols = torch.arange(2**bits)
    x = dequantize_uniform(symbols, bits, -1.0, 1.0)
    assert torch.equal(quantize_uniform(x, bits, -1.0, 1.0).long(), symbols)


def test_every_symbol_of_an_empty_range_is_0_however_far_away():
    x = torch.tensor([3.4e38, 1.0, -3e38])
    for bits in (4, 16):
        assert quantize_uniform(x, bits, -3e38, -3e38).tolist() == [0, 0, 0]


def test_a_sum_that_overflows_is_not_taken_for_an_infinity():
    x = torch.full((2, 4, 4), 3e38)
    assert quantize_uniform(x, 4, -1.0, 1.0).unique().tolist() == [15]


def test_ranges_do_not_depend_on_the_default_device():
    x = seeded(3, 4, 5)
    expected = minmax_range(x, True)
    with torch.device("meta"):
        found = minmax_range(x, True)
    assert all(map(torch.equal, found, expected))


@pytest.mark.filterwarnings("error")
def test_features_that_want_gradients_are_quantized_without_a_warning():
    x = seeded(3, 4, 5).requires_grad_()
    assert torch.equal(quantize_minmax(x, 4, True)[0], quantize_minmax(x.detach(), 4, True)[0])
    assert torch.equal(quantize_uniform(x, 4, -1.0, 1.0), quantize_uniform(x.detach(), 4, -1.0, 1.0))
