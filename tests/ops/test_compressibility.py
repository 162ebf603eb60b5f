"""The loss against a literal float64 reading of eq. 1-5."""

import math

import numpy as np
import pytest
import torch

from d2_featcomp.ops import compressibility_loss


def difference_matrix(size):
    matrix = np.zeros((size, size))
    for i in range(size):
        matrix[i, i] = 1
        if i + 1 < size:
            matrix[i, i + 1] = -1
    return matrix


def dct(signal):
    """Orthonormal DCT-II of a vector, by its definition."""
    size = len(signal)
    out = np.zeros(size)
    for k in range(size):
        scale = math.sqrt((1 if k == 0 else 2) / size)
        out[k] = scale * sum(
            signal[j] * math.cos(math.pi * (2 * j + 1) * k / (2 * size)) for j in range(size)
        )
    return out


def literal(features):
    total = 0.0
    for image in features:
        image_sum = 0.0
        channels, height, width = image.shape
        for channel in image:
            across = channel @ difference_matrix(width)
            down = (channel.T @ difference_matrix(height)).T
            residual = (down + across) / 2
            columns = np.stack([dct(column) for column in residual.T], axis=1)
            transformed = np.stack([dct(row) for row in columns])
            image_sum += np.abs(transformed).sum()
        total += image_sum / (height * width * channels)
    return total / len(features)


def features(*shape, dtype=torch.float64, seed=0):
    return torch.randn(shape, dtype=dtype, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize(
    "shape", [(2, 3, 4, 6), (1, 1, 1, 1), (3, 2, 1, 5), (1, 4, 7, 1), (2, 2, 5, 5), (1, 3, 8, 16)]
)
def test_agrees_with_the_equations(shape):
    x = features(*shape)
    loss = compressibility_loss(x)
    assert loss.dtype == torch.float64 and loss.shape == ()
    assert float(loss) == pytest.approx(literal(x.numpy()), rel=1e-12)


def test_by_hand():
    # One pixel is its own residual. Of [[a, b]]: residuals (a + a) / 2 and (b - a + b) / 2.
    assert float(compressibility_loss(torch.tensor([[[[-3.0]]]]))) == 3
    a, b = 2.0, 5.0
    residual = a, b - a / 2
    transformed = (residual[0] + residual[1]) / math.sqrt(2), (residual[0] - residual[1]) / math.sqrt(2)
    expected = (abs(transformed[0]) + abs(transformed[1])) / 2
    assert float(compressibility_loss(torch.tensor([[[[a, b]]]]))) == pytest.approx(expected)


def test_smooth_features_cost_less_than_rough_ones():
    ramp = torch.linspace(0, 1, 256).reshape(1, 1, 16, 16)
    shuffled = ramp.flatten()[torch.randperm(256, generator=torch.Generator().manual_seed(0))]
    assert compressibility_loss(ramp) < 0.5 * compressibility_loss(shuffled.reshape(1, 1, 16, 16))


def test_gradient_away_from_zeros():
    x = features(2, 2, 3, 4).requires_grad_()
    assert torch.autograd.gradcheck(compressibility_loss, (x,))


def test_derivative_at_zero_is_one():
    # All coefficients are 0, so each has slope 1: the gradient is that of the plain mean of
    # coefficients.
    x = torch.zeros(1, 1, 2, 2, dtype=torch.float64, requires_grad=True)
    compressibility_loss(x).backward()
    step = torch.zeros_like(x)
    expected = torch.zeros_like(x)
    for index in range(4):
        step.zero_().view(-1)[index] = 1
        both = step.numpy()[0, 0]
        residual = (difference_matrix(2).T @ both + both @ difference_matrix(2)) / 2
        columns = np.stack([dct(column) for column in residual.T], axis=1)
        expected.view(-1)[index] = float(np.stack([dct(row) for row in columns]).sum()) / 4
    assert torch.allclose(x.grad, expected)
    assert x.grad.abs().sum() > 0


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32])
def test_other_floats(dtype):
    x = features(2, 4, 8, 8).to(dtype).requires_grad_()
    loss = compressibility_loss(x)
    assert loss.dtype == torch.float32
    assert float(loss.detach()) == pytest.approx(literal(x.detach().double().numpy()), rel=1e-5)
    loss.backward()
    assert x.grad.dtype == dtype and torch.isfinite(x.grad).all()


def test_large_features_are_the_mean_of_their_parts():
    """On a CPU the channels are gone through in parts."""
    x = features(2, 300, 16, 32).requires_grad_()
    whole = compressibility_loss(x)
    whole.backward()
    parts, gradients = [], []
    for image in x.detach():
        for channels in image.split(100):
            some = channels[None].clone().requires_grad_()
            loss = compressibility_loss(some)
            loss.backward()
            parts.append(float(loss.detach()))
            gradients.append(some.grad / 6)
    assert float(whole.detach()) == pytest.approx(sum(parts) / 6, rel=1e-12)
    assert torch.allclose(x.grad.flatten(0, 1), torch.cat(gradients).flatten(0, 1), rtol=1e-10, atol=0)


def test_a_graph_can_be_gone_through_twice_and_for_several_gradients_at_once():
    x = features(2, 3, 4, 6).requires_grad_()
    loss = compressibility_loss(x)
    (once,) = torch.autograd.grad(3 * loss, x, retain_graph=True)
    (twice,) = torch.autograd.grad(loss, x, torch.tensor([1.0, 2.0]).double(), is_grads_batched=True)
    assert once.abs().sum() > 0 and torch.allclose(once, 3 * twice[0])
    assert torch.equal(twice[1], 2 * twice[0])


def test_other_strides_in_memory_change_nothing():
    x = features(2, 5, 6, 7).requires_grad_()
    (expected,) = torch.autograd.grad(compressibility_loss(x), x)
    for order in ((0, 2, 3, 1), (0, 1, 3, 2), (3, 2, 1, 0)):
        back = [order.index(dim) for dim in range(4)]
        y = x.detach().permute(order).contiguous().permute(back).requires_grad_()
        (found,) = torch.autograd.grad(compressibility_loss(y), y)
        assert torch.equal(found, expected)
    part, copy = x[..., 1:], x[..., 1:].clone()
    assert torch.equal(compressibility_loss(part), compressibility_loss(copy))


def test_autocast_changes_nothing():
    x = features(2, 4, 8, 8, dtype=torch.float32)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        inside = compressibility_loss(x)
    assert torch.equal(inside, compressibility_loss(x))


@pytest.mark.parametrize("shape", [(0, 2, 3, 3), (2, 0, 3, 3), (1, 1, 0, 3)])
def test_empty_features_cost_nothing(shape):
    x = torch.zeros(shape, requires_grad=True)
    loss = compressibility_loss(x)
    loss.backward()
    assert float(loss.detach()) == 0 and x.grad.shape == shape


def test_what_inference_mode_computed_first_serves_training():
    with torch.inference_mode():
        compressibility_loss(torch.ones(1, 1, 11, 13))
    x = torch.ones(1, 1, 11, 13, requires_grad=True)
    compressibility_loss(x).backward()
    assert torch.isfinite(x.grad).all()


def test_wrong_dimensions():
    with pytest.raises(ValueError, match=r"\(N, C, H, W\), not of shape \(3, 4, 5\)"):
        compressibility_loss(torch.zeros(3, 4, 5))
