"""Principal components of the channels of feature maps."""

import torch

__all__ = ["ChannelMoments"]


class ChannelMoments:
    """Mean and covariance of the channels of feature maps, over any number of them, and their principal
    components.
    """

    def __init__(self) -> None:
        self._total: torch.Tensor | None = None
        self._square: torch.Tensor | None = None
        self._count = 0

    def update(self, x: torch.Tensor) -> None:
        """Adds maps, (N, C, H, W) float."""
        rows = x.permute(0, 2, 3, 1).flatten(0, 2).double()
        total, square = rows.sum(dim=0), rows.T @ rows
        self._total = total if self._total is None else self._total + total
        self._square = square if self._square is None else self._square + square
        self._count += len(rows)

    def find_moments(self) -> tuple[torch.Tensor, torch.Tensor]:
        """Returns mean, (C,), and covariance, (C, C), of the channels, float64.

        Raises:
            ValueError: there were no maps.
        """
        if self._total is None or self._square is None:
            raise ValueError("no images: there is nothing to fit")
        mean = self._total / self._count
        return mean, self._square / self._count - torch.outer(mean, mean)

    def find_components(self, scales: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Finds the principal components of the channels times `scales`.

        Args:
            scales (Tensor): (C,) float.

        Returns:
            (Tensor, Tensor): variances, (C,), largest first, and the components, columns of (C, C);
            float64.

        Raises:
            ValueError: there were no maps.
        """
        _, covariance = self.find_moments()
        variances, vectors = torch.linalg.eigh(covariance * torch.outer(scales, scales))
        return variances.flip(0), vectors.flip(1)
