"""The convolution that predicts one feature map from another best."""

import torch
import torch.nn.functional as F

__all__ = ["ConvolutionFit"]


class ConvolutionFit:
    """Least-squares fit of a convolution with bias, over any number of images.

    Only the normal equations are kept, so that memory does not grow with the number of images.

    Args:
        kernel_size (int): of the convolution, odd; its stride is 1, its padding half of that.
    """

    def __init__(self, kernel_size: int = 3) -> None:
        self.kernel_size = kernel_size
        self._gram: torch.Tensor | None = None
        self._cross: torch.Tensor | None = None

    def update(self, x: torch.Tensor, y: torch.Tensor, positions: int | None = None) -> None:
        """Adds images.

        Args:
            x (Tensor): (N, C, H, W) float, input of the convolution, zero beyond its edges.
            y (Tensor): (N, D, H, W) float, what it should give.
            positions (int or None): at most so many of the N * H * W, spread evenly; None is all.
        """
        patches = F.unfold(x, self.kernel_size, padding=self.kernel_size // 2)
        patches = patches.transpose(0, 1).flatten(1)
        target = y.transpose(0, 1).flatten(1)
        if positions is not None and patches.shape[1] > positions:
            chosen = torch.linspace(0, patches.shape[1] - 1, positions, device=x.device).round().long()
            patches, target = patches[:, chosen], target[:, chosen]
        patches, target = torch.cat([patches, torch.ones_like(patches[:1])]).double(), target.double()
        gram, cross = patches @ patches.T, patches @ target.T
        self._gram = gram if self._gram is None else self._gram + gram
        self._cross = cross if self._cross is None else self._cross + cross

    def _require_images(self) -> tuple[torch.Tensor, torch.Tensor]:
        if self._gram is None or self._cross is None:
            raise ValueError("no images: there is nothing to fit")
        return self._gram, self._cross

    def solve(self, ridge: float = 1e-5) -> tuple[torch.Tensor, torch.Tensor]:
        """Solves for the convolution.

        Args:
            ridge (float): weight of the squared coefficients, relative to the mean square of the inputs;
                keeps the solution finite where inputs depend on one another.

        Returns:
            (Tensor, Tensor): weight, (D, C, K, K), and bias, (D,), float32.

        Raises:
            ValueError: there were no images.
        """
        gram, cross = self._require_images()
        penalty = ridge * gram.diagonal().clamp(min=1e-12)
        solution = torch.linalg.solve(gram + torch.diag(penalty), cross).T.float()
        weight = solution[:, :-1].reshape(len(solution), -1, self.kernel_size, self.kernel_size)
        return weight.contiguous(), solution[:, -1].contiguous()

    def output_moments(self, weight: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Computes what a convolution without bias gives for the images added.

        Args:
            weight (Tensor): (D, C, K, K) float.

        Returns:
            (Tensor, Tensor): mean and variance of each output channel, (D,) float32.

        Raises:
            ValueError: there were no images.
        """
        gram, _ = self._require_images()
        rows, count = weight.flatten(1).double(), gram[-1, -1]
        mean = rows @ gram[:-1, -1] / count
        square = ((rows @ gram[:-1, :-1]) * rows).sum(dim=1) / count
        return mean.float(), (square - mean.square()).clamp(min=0).float()
