"""Muon, an optimizer of the matrices of a network.

Shape shorthand in this module:
    M: matrices of a parameter; O, I: rows and columns of each
"""

import torch

__all__ = ["Muon"]

# Coefficients and number of the Newton-Schulz iterations, and momentum, as published.
_COEFFICIENTS = (3.4445, -4.7750, 2.0315)
_ITERATIONS = 5
_MOMENTUM = 0.95


class Muon(torch.optim.Optimizer):
    """Gradient descent whose steps are the momentum with singular values of about 1 (Jordan et al.,
    "Muon: An optimizer for hidden layers in neural networks", 2024): rare directions are learned as fast
    as frequent ones.

    Like torch.optim.Muon, but of parameters that hold several matrices: convolutions in groups.

    Args:
        groups (list[dict]): with "params", a list of Parameters, and "matrix", (O, I): each parameter
            holds M such matrices, one after the other.
        lr (float): the spectral norm of a step.
    """

    def __init__(self, groups, lr):
        super().__init__(groups, {"lr": lr})

    @torch.no_grad()
    def step(self):
        """One step down the gradients."""
        for group in self.param_groups:
            for parameter in group["params"]:
                if parameter.grad is None:
                    continue
                state = self.state[parameter]
                if not state:
                    state["momentum"] = torch.zeros_like(parameter)
                momentum = state["momentum"].lerp_(parameter.grad, 1 - _MOMENTUM)
                ahead = parameter.grad.lerp(momentum, _MOMENTUM)  # Nesterov's
                step = orthogonalize(ahead.reshape(-1, *group["matrix"]))
                parameter.sub_(group["lr"] * step.reshape(parameter.shape))


def orthogonalize(matrices):
    """Brings all singular values near 1, except those of 0.

    Args:
        matrices (Tensor): (M, O, I) float.

    Returns:
        Tensor: (M, O, I), singular values between about 0.7 and 1.2.
    """
    x = matrices / matrices.norm(dim=(1, 2), keepdim=True).clamp(min=1e-12)
    if tall := x.shape[1] > x.shape[2]:
        x = x.mT
    a, b, c = _COEFFICIENTS
    for _ in range(_ITERATIONS):
        gram = x @ x.mT
        x = a * x + (b * gram + c * gram @ gram) @ x
    return x.mT if tall else x
