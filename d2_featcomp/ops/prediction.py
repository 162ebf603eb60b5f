"""Loss and consolidation of back-and-forth prediction (BaF sec. 3.3 and 4)."""

import torch

__all__ = ["charbonnier_loss", "consolidate"]


def charbonnier_loss(predicted: torch.Tensor, target: torch.Tensor, eps: float = 1e-3) -> torch.Tensor:
    """Computes the Charbonnier penalty, eq. 7 of the BaF paper, as a mean in place of the sum.

    Args:
        predicted, target (Tensor): of one shape and any float dtype.
        eps (float): the penalty of no error.

    Returns:
        Tensor: scalar, mean of sqrt((predicted - target)^2 + eps^2); float64 for float64, else float32,
        also under autocast.
    """
    if predicted.dtype != torch.float64:  # in half precision squares overflow and means are coarse
        predicted, target = predicted.float(), target.float()
    return ((predicted - target).square() + eps**2).sqrt().mean()


def consolidate(
    predicted: torch.Tensor,
    received: torch.Tensor,
    step: float | torch.Tensor,
    low: float | torch.Tensor | None = None,
    high: float | torch.Tensor | None = None,
) -> torch.Tensor:
    """Brings predictions into the quantizer bins of the decoded values, eq. 6 of the BaF paper.

    A prediction in the bin of the decoded value stays; another becomes the boundary of that bin which is
    nearest to it. A bin reaches half a step size to either side of its value; the first and the last
    reach to the smallest and the largest value that were quantized, where these are given.

    Args:
        predicted (Tensor): float, any shape.
        received (Tensor): the same shape; y_hat, the dequantized values.
        step (float or Tensor): step size of the quantizer, broadcast against
            `received`; at 0 nothing but the decoded value is consistent.
        low, high (float, Tensor or None): m and M, the range of the quantizer, broadcast against
            `received`: what was quantized lay within it. None: not known.

    Returns:
        Tensor: same shape and dtype as `predicted`.
    """
    half = step / 2
    first, last = received - half, received + half
    if low is not None:
        first = first.clamp(min=low)
    if high is not None:
        last = last.clamp(max=high)
    return torch.minimum(torch.maximum(predicted, first), last)
