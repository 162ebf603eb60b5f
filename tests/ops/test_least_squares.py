import numpy as np
import pytest
import torch
import torch.nn.functional as F

from d2_featcomp.ops import ConvolutionFit


def images(count=3, channels=2, seed=0):
    return torch.randn(count, channels, 9, 11, generator=torch.Generator().manual_seed(seed))


def test_a_convolution_is_found_again():
    generator = torch.Generator().manual_seed(1)
    weight, bias = torch.randn(4, 2, 3, 3, generator=generator), torch.randn(4, generator=generator)
    x, fit = images(), ConvolutionFit()
    for part in x.split(1):
        fit.update(part, F.conv2d(part, weight, bias, padding=1))
    found = fit.solve(ridge=1e-12)
    torch.testing.assert_close(found[0], weight, atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(found[1], bias, atol=1e-4, rtol=1e-4)


def test_it_is_numpys_least_squares_where_there_is_noise():
    x, y = images(), images(channels=1, seed=2)
    fit = ConvolutionFit()
    fit.update(x, y)
    weight, bias = fit.solve(ridge=0)
    patches = F.unfold(x, 3, padding=1).transpose(0, 1).flatten(1).numpy()
    design = np.concatenate([patches, np.ones((1, patches.shape[1]))]).T
    expected = np.linalg.lstsq(design, y.flatten().numpy(), rcond=None)[0]
    np.testing.assert_allclose(weight.flatten(), expected[:-1], atol=1e-5)
    np.testing.assert_allclose(bias, expected[-1:], atol=1e-5)


def test_inputs_that_depend_on_one_another_are_no_obstacle():
    x = images(channels=1).repeat(1, 3, 1, 1)
    x[:, 2] = 0
    fit = ConvolutionFit()
    fit.update(x, 2 * x[:, :1])
    weight, bias = fit.solve()
    torch.testing.assert_close(F.conv2d(x, weight, bias, padding=1), 2 * x[:, :1], atol=1e-2, rtol=1e-2)


def test_a_kernel_of_one_position():
    x, fit = images(), ConvolutionFit(kernel_size=1)
    fit.update(x, 3 * x[:, 1:] - 2)
    weight, bias = fit.solve(ridge=1e-12)
    torch.testing.assert_close(weight.flatten(), torch.tensor([0.0, 3.0]), atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(bias, torch.tensor([-2.0]), atol=1e-4, rtol=1e-4)


def test_some_positions_are_enough():
    x, few, all_of_them = images(), ConvolutionFit(), ConvolutionFit()
    few.update(x, 2 * x[:, :1] + 1, positions=60)
    all_of_them.update(x, 2 * x[:, :1] + 1, positions=10**6)
    assert few._gram[-1, -1] == 60 and all_of_them._gram[-1, -1] == 3 * 9 * 11
    for fit in (few, all_of_them):
        weight, bias = fit.solve(ridge=1e-12)
        torch.testing.assert_close(F.conv2d(x, weight, bias, padding=1), 2 * x[:, :1] + 1)


def test_moments_are_those_of_the_outputs():
    x, fit = images(), ConvolutionFit()
    for part in x.split(1):
        fit.update(part, part)
    weight = torch.randn(4, 2, 3, 3, generator=torch.Generator().manual_seed(3))
    outputs = F.conv2d(x, weight, padding=1).transpose(0, 1).flatten(1)
    mean, variance = fit.output_moments(weight)
    torch.testing.assert_close(mean, outputs.mean(dim=1), atol=1e-5, rtol=1e-4)
    torch.testing.assert_close(variance, outputs.var(dim=1, unbiased=False), atol=1e-5, rtol=1e-4)


def test_no_images_are_refused():
    for ask in (ConvolutionFit().solve, lambda: ConvolutionFit().output_moments(torch.ones(1, 1, 3, 3))):
        with pytest.raises(ValueError, match="no images"):
            ask()
