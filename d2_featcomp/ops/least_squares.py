"""The convolution that predicts one feature map from another best."""

import torch
import torch.nn.functional as F

__all__ = ["ConvolutionFit"]

_SIDE = 3


class ConvolutionFit:
    """Least-squares fit of a 3 x 3 convolution with bias, over any number of images.

    Only the normal equations are kept, so that memory does not grow with the number of images.
    """

    def __init__(self) -> None:
        self._gram: torch.Tensor | None = None
        self._cross: torch.Tensor | None = None

    def update(self, x: torch.Tensor, y: torch.Tensor) -> None:
        """Adds images.

        Args:
            x (Tensor): (N, C, H, W) float, input of the convolution, zero beyond its edges.
            y (Tensor): (N, D, H, W) float, what it should give.
        """
        patches = F.unfold(x, _SIDE, padding=_SIDE // 2)
        patches = torch.cat([patches, torch.ones_like(patches[:, :1])], dim=1)
        patches = patches.transpose(0, 1).flatten(1).double()
        target = y.transpose(0, 1).flatten(1).double()
        gram, cross = patches @ patches.T, patches @ target.T
        self._gram = gram if self._gram is None else self._gram + gram
        self._cross = cross if self._cross is None else self._cross + cross

    def solve(self, ridge: float = 1e-5) -> tuple[torch.Tensor, torch.Tensor]:
        """Solves for the convolution.

        Args:
            ridge (float): weight of the squared coefficients, relative to the mean square of the inputs;
                keeps the solution finite where inputs depend on one another.

        Returns:
            (Tensor, Tensor): weight, (D, C, 3, 3), and bias, (D,), float32.

        Raises:
            ValueError: there were no images.
        """
        if self._gram is None or self._cross is None:
            raise ValueError("no images: there is nothing to fit")
        diagonal = self._gram.diagonal()
        penalty = ridge * diagonal.clamp(min=1e-12)
        solution = torch.linalg.solve(self._gram + torch.diag(penalty), self._cross).T.float()
        weight = solution[:, :-1].reshape(len(solution), -1, _SIDE, _SIDE)
        return weight.contiguous(), solution[:, -1].contiguous()
