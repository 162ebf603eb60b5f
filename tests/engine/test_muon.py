"""Muon against its definition, and against PyTorch's for single matrices."""

import pytest
import torch

from d2_featcomp.engine.muon import Muon, orthogonalize


@pytest.mark.parametrize("shape", [(3, 8, 20), (3, 20, 8), (2, 16, 16)])
def test_steps_have_singular_values_near_one_and_the_directions_of_the_gradient(shape):
    torch.manual_seed(0)
    matrices = torch.randn(shape)
    found = orthogonalize(matrices)
    values = torch.linalg.svdvals(found)
    assert values.max() < 1.3
    assert values[:, :-1].min() > 0.6  # the least one of a square matrix may be near 0
    left, _, right = torch.linalg.svd(matrices, full_matrices=False)
    assert torch.nn.functional.cosine_similarity(found.flatten(), (left @ right).flatten(), 0) > 0.97


def test_what_has_no_gradient_stays():
    matrices = torch.zeros(2, 4, 10)
    matrices[1, :, :6] = torch.randn(4, 6)
    found = orthogonalize(matrices)
    assert not found[0].any()
    assert found[1, :, :6].any()
    assert not found[1, :, 6:].any()


def train(optimizer, weight, steps=5):
    torch.manual_seed(1)
    for _ in range(steps):
        optimizer.zero_grad()
        weight.grad = torch.randn_like(weight)
        optimizer.step()
    return weight.detach()


@pytest.mark.skipif(not hasattr(torch.optim, "Muon"), reason="PyTorch has no Muon")
def test_steps_are_those_of_pytorch():
    first = torch.nn.Parameter(torch.zeros(12, 30))
    second = torch.nn.Parameter(torch.zeros(12, 30))
    found = train(Muon([{"params": [first], "matrix": (12, 30)}], lr=0.1), first)
    given = train(torch.optim.Muon([second], lr=0.1, weight_decay=0.0), second)
    assert torch.allclose(found, given, atol=0.01)  # PyTorch's computes in bfloat16


def test_each_matrix_of_a_parameter_has_steps_of_its_own():
    torch.manual_seed(0)
    gradient = torch.randn(6, 2, 5)
    weight = torch.nn.Parameter(torch.zeros(6, 2, 5))
    weight.grad = gradient
    Muon([{"params": [weight], "matrix": (3, 10)}], lr=1.0).step()
    for part in range(2):
        alone = orthogonalize(gradient[3 * part : 3 * part + 3].reshape(1, 3, 10))
        assert torch.allclose(-weight[3 * part : 3 * part + 3].reshape(1, 3, 10), alone, atol=1e-5)
