"""The compressibility loss: a differentiable estimate of the bits that a feature takes.

Alvar and Bajic, "Multi-Task Learning with Compressible Features for Collaborative Intelligence", ICIP
2019, eq. 1-5.

Shape shorthand in this module:
    N: images of a batch; C, H, W: channels, height and width of a feature
"""

import functools
import math
from typing import Any

import torch

__all__ = ["compressibility_loss"]

_ELEMENTS_AT_ONCE = 2**17  # on a CPU, so that they stay in its cache


def compressibility_loss(features: torch.Tensor) -> torch.Tensor:
    """Computes the L1 norm of the transformed prediction residual of every channel, over H * W * C (eq.
    5).

    A residual is the average of the differences to the left and to the upper neighbour (eq. 1-3; the
    neighbours of the first column and row are 0), its transform the orthonormal DCT (eq. 4). The
    derivative of the absolute value at 0 is 1.

    Args:
        features (Tensor): (N, C, H, W), any float dtype, on any device.

    Returns:
        Tensor: scalar, at least 0, the mean over the images; float64 for float64, else float32, also
        under autocast. 0 for an empty tensor.

    Raises:
        ValueError: other than four dimensions.
    """
    if features.dim() != 4:
        raise ValueError(f"features must be (N, C, H, W), not of shape {tuple(features.shape)}")
    x = features if features.dtype == torch.float64 else features.float()
    if not x.numel():
        return x.sum()
    return _Loss.apply(x)


@functools.lru_cache(maxsize=32)
def _transform(size: int, dtype: torch.dtype, device: torch.device) -> torch.Tensor:
    """M of eq. 4, (size, size)."""
    with torch.inference_mode(False):  # so that what is kept can be used in training too
        return _dct_matrix(size).to(device, dtype)


def _dct_matrix(size: int) -> torch.Tensor:
    """Orthonormal DCT-II, (size, size) float64: rows are frequencies."""
    frequency = torch.arange(size, dtype=torch.float64)[:, None]
    position = torch.arange(size, dtype=torch.float64)[None]
    matrix = torch.cos((2 * position + 1) * frequency * (math.pi / (2 * size))) * math.sqrt(2 / size)
    matrix[0] = math.sqrt(1 / size)
    return matrix


class _Loss(torch.autograd.Function):
    """Mean of |T|, with the gradient of the sum along with it, so that T is needed for one part at a
    time only."""

    @staticmethod
    def forward(ctx: Any, x: torch.Tensor) -> torch.Tensor:
        loss, gradient = _loss_and_gradient(x, ctx.needs_input_grad[0])
        ctx.save_for_backward(gradient)
        return loss

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, grad: torch.Tensor) -> torch.Tensor:
        (gradient,) = ctx.saved_tensors
        return gradient * (grad / gradient.numel())


def _loss_and_gradient(x: torch.Tensor, with_gradient: bool) -> tuple[torch.Tensor, torch.Tensor | None]:
    """(Tensor, Tensor or None): the mean of |T|, and the gradient of the sum, of the shape of `x`.

    T = M_H ((I - S_H) x + x (I - S_W)) M_W^T / 2, where S shifts by one row or column. Differences of
    columns are within a matrix; those of rows are taken, which is faster than a larger product.
    """
    height, width = x.shape[-2:]
    down = _transform(height, x.dtype, x.device) / 2  # of a sum, where the residual is an average
    right = _transform(width, x.dtype, x.device).T.contiguous()
    right_difference = right.clone()
    right_difference[:-1] -= right[1:]
    channels = x.reshape(-1, height, width).contiguous()
    gradient = torch.empty_like(channels) if with_gradient else None
    total = torch.zeros((), dtype=torch.float64, device=x.device)
    minus_one = torch.full((), -1.0, dtype=x.dtype, device=x.device)
    part = len(channels) if x.is_cuda else max(1, _ELEMENTS_AT_ONCE // (height * width))
    with torch.autocast(x.device.type, enabled=False):
        for start in range(0, len(channels), part):
            some = channels[start : start + part]
            difference = torch.empty_like(some)
            difference[:, 0] = some[:, 0]
            torch.sub(some[:, 1:], some[:, :-1], out=difference[:, 1:])
            rows, row_differences = some.view(-1, width), difference.view(-1, width)
            residual = torch.mm(rows, right_difference).addmm_(row_differences, right)
            transformed = down @ residual.view_as(some)
            # The slope of the absolute value, 1 at 0, in the memory of the differences.
            slope = torch.ge(transformed, 0, out=difference)
            torch.add(minus_one, slope, alpha=2, out=slope)
            total += torch.dot(slope.view(-1), transformed.view(-1))
            if gradient is not None:  # the same way back
                back = down.T @ slope
                difference[:, -1] = back[:, -1]
                torch.sub(back[:, :-1], back[:, 1:], out=difference[:, :-1])
                back_rows = back.view(-1, width)
                to = gradient[start : start + part].view(-1, width)
                torch.mm(back_rows, right_difference.T, out=to).addmm_(row_differences, right.T)
    loss = (total / x.numel()).to(x.dtype)
    return loss, None if gradient is None else gradient.view(x.shape)
