import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from d2_featcomp.ops import (
    charbonnier_loss,
    consolidate,
    dequantize_uniform,
    minmax_range,
    quantize_uniform,
)


def test_charbonnier_by_hand():
    predicted, target = torch.tensor([0.0, 3.0]), torch.tensor([0.0, -1.0])
    expected = (1e-3 + math.sqrt(16 + 1e-6)) / 2
    assert charbonnier_loss(predicted, target).item() == pytest.approx(expected)
    assert charbonnier_loss(predicted, predicted, eps=0.5).item() == pytest.approx(0.5)
    double = charbonnier_loss(predicted.double(), target.double())
    assert double.dtype == torch.float64 and double.item() == pytest.approx(expected, rel=1e-12)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_charbonnier_of_mixed_precision_is_that_of_float32(dtype):
    """The square of 300 is beyond float16; a mean of 1000 in bfloat16 has three digits."""
    generator = torch.Generator().manual_seed(0)
    target = torch.randn(1000, generator=generator).to(dtype)
    predicted = target + 0.05
    predicted[0] = 300
    found = charbonnier_loss(predicted, target)
    assert found.dtype == torch.float32
    assert torch.equal(found, charbonnier_loss(predicted.float(), target.float()))


def literal(predicted, symbol, bits, low, high):
    """Eq. 6, one value: Q without clipping, and the boundary of the received bin nearest to it."""
    step = (high - low) / (2**bits - 1)
    if step == 0:
        return low
    position = (predicted - low) / step
    if symbol - 0.5 <= position <= symbol + 0.5:
        return predicted
    boundaries = (low + (symbol - 0.5) * step, low + (symbol + 0.5) * step)
    return min(boundaries, key=lambda b: abs(b - predicted))


@given(st.integers(2, 8), st.integers(0, 2**32 - 1))
def test_consolidation_is_eq_6(bits, seed):
    generator = torch.Generator().manual_seed(seed)
    z = torch.randn(3, 4, 5, generator=generator) * torch.tensor([0.1, 1.0, 30.0])[:, None, None]
    low, high = minmax_range(z, per_channel=True)
    symbols = quantize_uniform(z, bits, low, high)
    received = dequantize_uniform(symbols, bits, low, high)
    step = (high - low) / (2**bits - 1)
    predicted = received + torch.randn(z.shape, generator=generator) * step
    found = consolidate(predicted, received, step)
    for index in torch.cartesian_prod(*map(torch.arange, z.shape)).tolist():
        c, i, j = index
        expected = literal(
            predicted[c, i, j].item(),
            int(symbols[c, i, j]),
            bits,
            low[c].item(),
            high[c].item(),
        )
        # Of values near 0 what float32 leaves of the range's ends.
        rounding = 1e-5 * step[c].item() + 2e-6 * (high[c] - low[c]).item()
        assert found[c, i, j].item() == pytest.approx(expected, rel=1e-5, abs=rounding)


def test_the_largest_and_the_smallest_value_fall_in_the_last_and_first_bin():
    z = torch.tensor([-2.0, -1.9, 0.3, 4.9, 5.0]).reshape(1, 1, 5)
    low, high = minmax_range(z, per_channel=True)
    symbols = quantize_uniform(z, 3, low, high)
    assert symbols.flatten().tolist() == [0, 0, 2, 7, 7]
    received = dequantize_uniform(symbols, 3, low, high)
    assert (received[0, 0, 0], received[0, 0, 4]) == (-2, 5)
    # Predictions beyond the range come back to the outer edge of the outermost bins.
    found = consolidate(torch.full_like(z, 100.0), received, 1.0)
    assert found.flatten().tolist() == [-1.5, -1.5, 0.5, 5.5, 5.5]
    found = consolidate(torch.full_like(z, -100.0), received, 1.0)
    assert found.flatten().tolist() == [-2.5, -2.5, -0.5, 4.5, 4.5]


def test_predictions_stay_within_the_range_that_is_known():
    """Range [-2, 5], steps of 1: below -2 and above 5 nothing was quantized."""
    received = torch.tensor([[-2.0, -1.0, 4.0, 5.0]])
    low, high = torch.tensor([[-2.0]]), torch.tensor([[5.0]])
    far = torch.full_like(received, 100.0)
    assert consolidate(far, received, 1.0, low, high).tolist() == [[-1.5, -0.5, 4.5, 5.0]]
    assert consolidate(-far, received, 1.0, low, high).tolist() == [[-2.0, -1.5, 3.5, 4.5]]
    assert consolidate(-far, received, 1.0, low=-2.0).tolist() == [[-2.0, -1.5, 3.5, 4.5]]
    assert consolidate(far, received, 1.0, high=5.0).tolist() == [[-1.5, -0.5, 4.5, 5.0]]
    inside = torch.tensor([[-1.9, -1.1, 4.2, 4.8]])
    assert torch.equal(consolidate(inside, received, 1.0, low, high), inside)
    # A constant channel: its range is one value.
    constant = torch.full((1, 2), 0.25)
    found = consolidate(torch.tensor([[-9.0, 9.0]]), constant, torch.zeros(1), constant, constant)
    assert torch.equal(found, constant)


def test_a_prediction_in_the_bin_stays_and_floats_are_taken_as_received():
    predicted, received = torch.tensor([0.4, -0.4, 0.6]), torch.zeros(3)
    torch.testing.assert_close(consolidate(predicted, received, 1.0), torch.tensor([0.4, -0.4, 0.5]))
    assert torch.equal(consolidate(predicted, received, torch.zeros(1)), received)
