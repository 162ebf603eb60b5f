"""Correlation of a layer's output channels with its input (BaF sec. 3.1).

Shape shorthand in this module:
    P, h, w: channels, height and width of the layer's output, after its batch norm
    Q: channels of its input, s * h by s * w, where s is the layer's stride
"""

import torch

__all__ = ["ChannelCorrelation", "rank_channels"]


class ChannelCorrelation:
    """Absolute correlation of output with input channels, eq. 2 of the BaF paper.

    The values of all images are taken together as one vector a channel. Only sums are kept, so that
    memory does not grow with the number of images.

    Args:
        stride (int): s; the input is compared at each of its s * s offsets.
    """

    def __init__(self, stride: int) -> None:
        self.stride = stride
        self._count = 0
        self._sums: list[torch.Tensor] | None = None

    def update(self, z: torch.Tensor, x: torch.Tensor) -> None:
        """Adds images.

        Args:
            z (Tensor): (N, P, h, w) float, the layer's output.
            x (Tensor): (N, Q, s * h, s * w) float, its input.

        Raises:
            ValueError: the sizes do not fit the stride.
        """
        s = self.stride
        if tuple(x.shape[-2:]) != (s * z.shape[-2], s * z.shape[-1]) or len(x) != len(z):
            raise ValueError(
                f"output {tuple(z.shape)} and input {tuple(x.shape)} do not fit a stride of {s}: the "
                f"input must be {s} times as high and wide"
            )
        shifted = [x[:, :, row::s, column::s] for row in range(s) for column in range(s)]
        # (P, n) and (s * s * Q, n) of n positions in all images.
        z = z.transpose(0, 1).flatten(1).double()
        x = torch.cat([part.transpose(0, 1).flatten(1) for part in shifted]).double()
        sums = [z.sum(1), z.square().sum(1), x.sum(1), x.square().sum(1), z @ x.T]
        self._count += z.shape[1]
        self._sums = (
            sums if self._sums is None else [a + b for a, b in zip(self._sums, sums, strict=True)]
        )

    def coefficients(self) -> torch.Tensor:
        """Computes the correlation coefficients.

        Returns:
            Tensor: (P, Q) float64 in [0, 1]; 0 for channels that never change.

        Raises:
            ValueError: there were no images.
        """
        if self._sums is None:
            raise ValueError("no images: there is nothing to correlate")
        z, zz, x, xx, zx = (part / self._count for part in self._sums)
        deviation = _deviation(z, zz)[:, None] * _deviation(x, xx)[None]
        covariance = (zx - z[:, None] * x[None]).abs()
        rho = torch.where(deviation > 0, covariance / deviation.clamp(min=1e-300), 0.0)
        return rho.clamp(max=1).reshape(len(z), self.stride**2, -1).mean(dim=1)


def _deviation(mean: torch.Tensor, mean_square: torch.Tensor) -> torch.Tensor:
    """Standard deviation; 0 where it is within rounding of the mean square."""
    variance = mean_square - mean.square()
    return torch.where(variance > 1e-12 * mean_square, variance, 0.0).clamp(min=0).sqrt()


def rank_channels(coefficients: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Orders output channels by their total correlation with the input, eq. 3 of the BaF paper.

    Args:
        coefficients (Tensor): (P, Q) float, of :meth:`ChannelCorrelation.coefficients`.

    Returns:
        (Tensor, Tensor): order, (P,) int64, best first, the lower number first among equals; and
        scores, (P,), of channel 0, 1, ... in [0, Q].
    """
    scores = coefficients.sum(dim=1)
    return torch.argsort(scores, descending=True, stable=True), scores
