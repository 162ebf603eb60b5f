import numpy as np
import pytest
import torch

from d2_featcomp.ops import ChannelCorrelation, rank_channels


def direct(z, x, stride):
    """Eq. 2 with NumPy, all images at once: z (N, P, h, w), x (N, Q, s h, s w) -> (P, Q)."""
    rho = np.zeros((z.shape[1], x.shape[1]))
    for p in range(z.shape[1]):
        for q in range(x.shape[1]):
            for s in range(stride**2):
                shifted = x[:, q, s // stride :: stride, s % stride :: stride]
                rho[p, q] += abs(np.corrcoef(z[:, p].ravel(), shifted.ravel())[0, 1]) / stride**2
    return rho


def features(stride, images=5, seed=0):
    rng = np.random.default_rng(seed)
    x = rng.normal(3, 2, (images, 3, 4 * stride, 6 * stride)).cumsum(axis=3)
    pooled = x.reshape(images, 3, 4, stride, 6, stride).mean(axis=(3, 5))
    mix = rng.normal(size=(4, 3))
    z = np.einsum("pq,nqhw->nphw", mix, pooled) + rng.normal(0, 1, (images, 4, 4, 6))
    return z, x


@pytest.mark.parametrize("stride", [1, 2, 3])
def test_coefficients_are_those_of_eq_2(stride):
    z, x = features(stride)
    correlation = ChannelCorrelation(stride)
    for part in (slice(0, 1), slice(1, 3), slice(3, 5)):
        correlation.update(torch.from_numpy(z[part]), torch.from_numpy(x[part]))
    np.testing.assert_allclose(correlation.coefficients().numpy(), direct(z, x, stride), atol=1e-9)


def test_each_offset_of_the_input_counts():
    """A channel that equals one of the four down-sampled inputs, the others constant: 1/4."""
    x = torch.zeros(1, 1, 8, 8)
    x[:, :, 1::2, 0::2] = torch.rand(4, 4, generator=torch.Generator().manual_seed(0))
    correlation = ChannelCorrelation(2)
    correlation.update(-x[:, :, 1::2, 0::2], x)
    assert correlation.coefficients().item() == pytest.approx(0.25)


def test_constant_channels_tell_nothing():
    z, x = map(torch.from_numpy, features(1))
    z[:, 2], x[:, 0] = 0.1, 1e6
    correlation = ChannelCorrelation(1)
    correlation.update(z, x)
    rho = correlation.coefficients()
    assert (rho[2] == 0).all() and (rho[:, 0] == 0).all() and (rho[[0, 1, 3], 1:] > 0).all()


def test_channels_are_ranked_by_their_sums():
    rho = torch.tensor([[0.1, 0.2], [0.5, 0.5], [0.2, 0.1], [0.9, 0.0]])
    order, scores = rank_channels(rho)
    assert order.tolist() == [1, 3, 0, 2]  # equal scores: the lower number first
    torch.testing.assert_close(scores, torch.tensor([0.3, 1.0, 0.3, 0.9]))


def test_what_does_not_fit_is_refused():
    with pytest.raises(ValueError, match="no images"):
        ChannelCorrelation(2).coefficients()
    with pytest.raises(ValueError, match="stride of 2"):
        ChannelCorrelation(2).update(torch.zeros(1, 2, 3, 3), torch.zeros(1, 2, 5, 6))
