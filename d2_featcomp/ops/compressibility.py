"""The compressibility loss: a differentiable estimate of the bits that a feature takes.

Alvar and Bajic, "Multi-Task Learning with Compressible Features for Collaborative Intelligence", ICIP
2019, eq. 1-5.

Shape shorthand in this module:
    N: images of a batch; C, H, W: channels, height and width of a feature
"""

import functools
import math

import torch

__all__ = ["compressibility_loss"]


def compressibility_loss(features):
    """L1 norm of the transformed prediction residual of every channel, over H * W * C (eq. 5).

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
    height, width = x.shape[-2:]
    dct_down, dct_difference_down = _operators(height, x.dtype, x.device)
    dct_right, dct_difference_right = _operators(width, x.dtype, x.device)
    with torch.autocast(x.device.type, enabled=False):
        # T of eq. 4, M (D' F + F D) M' / 2.
        transformed = dct_difference_down @ (x @ dct_right.T)
        transformed = transformed + dct_down @ (x @ dct_difference_right.T)
        return _MeanAbsolute.apply(transformed)


@functools.lru_cache(maxsize=32)
def _operators(size, dtype, device):
    """M and M D' / 2, each (size, size): the transform, without and with the difference before it."""
    with torch.inference_mode(False):  # so that what is kept can be used in training too
        dct = _dct_matrix(size)
        difference = torch.eye(size, dtype=torch.float64)
        difference.diagonal(1).fill_(-1)  # D, eq. 1
        return dct.to(device, dtype), (dct @ difference.T / 2).to(device, dtype)


def _dct_matrix(size):
    """Orthonormal DCT-II, (size, size) float64: rows are frequencies."""
    frequency = torch.arange(size, dtype=torch.float64)[:, None]
    position = torch.arange(size, dtype=torch.float64)[None]
    matrix = torch.cos((2 * position + 1) * frequency * (math.pi / (2 * size))) * math.sqrt(2 / size)
    matrix[0] = math.sqrt(1 / size)
    return matrix


class _MeanAbsolute(torch.autograd.Function):
    """Mean of absolute values; their derivative at 0 is 1."""

    @staticmethod
    def forward(ctx, x):
        ctx.save_for_backward(x)
        return x.abs().mean()

    @staticmethod
    def backward(ctx, grad):
        (x,) = ctx.saved_tensors
        step = grad / x.numel()
        return torch.where(x >= 0, step, -step)
