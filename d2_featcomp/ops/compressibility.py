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

_ELEMENTS_AT_ONCE = 2**17  # on a CPU, so that they stay in its cache


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
    return _Loss.apply(x)


@functools.lru_cache(maxsize=32)
def _transform(size, dtype, device):
    """M of eq. 4, (size, size)."""
    with torch.inference_mode(False):  # so that what is kept can be used in training too
        return _dct_matrix(size).to(device, dtype)


def _dct_matrix(size):
    """Orthonormal DCT-II, (size, size) float64: rows are frequencies."""
    frequency = torch.arange(size, dtype=torch.float64)[:, None]
    position = torch.arange(size, dtype=torch.float64)[None]
    matrix = torch.cos((2 * position + 1) * frequency * (math.pi / (2 * size))) * math.sqrt(2 / size)
    matrix[0] = math.sqrt(1 / size)
    return matrix


class _Loss(torch.autograd.Function):
    """Mean of |T|, and its gradient along with it, so that T is needed for one part at a time only."""

    @staticmethod
    def forward(ctx, x):
        height, width = x.shape[-2:]
        down = _transform(height, x.dtype, x.device) / 2  # of a sum, where the residual is an average
        right = _transform(width, x.dtype, x.device)
        channels = x.reshape(-1, height, width)
        gradient = torch.empty_like(channels) if ctx.needs_input_grad[0] else None
        total = torch.zeros((), dtype=torch.float64, device=x.device)
        part = len(channels) if x.is_cuda else max(1, _ELEMENTS_AT_ONCE // (height * width))
        with torch.autocast(x.device.type, enabled=False):
            for start in range(0, len(channels), part):
                some = channels[start : start + part]
                residual = some + some
                residual[:, :, 1:] -= some[:, :, :-1]
                residual[:, 1:] -= some[:, :-1]
                transformed = down @ (residual @ right.T)
                total += transformed.abs().sum()
                if gradient is not None:
                    # The same way back: slope (1 at 0), transform, differences.
                    slope = torch.ge(transformed, 0, out=residual).mul_(2).sub_(1)
                    slope = down.T @ (slope @ right)
                    back = torch.add(slope, slope, out=gradient[start : start + part])
                    back[:, :, :-1] -= slope[:, :, 1:]
                    back[:, :-1] -= slope[:, 1:]
        ctx.save_for_backward(gradient)
        ctx.shape = x.shape
        return (total / x.numel()).to(x.dtype)

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx, grad):
        (gradient,) = ctx.saved_tensors
        return (gradient * (grad / gradient.numel())).view(ctx.shape)
