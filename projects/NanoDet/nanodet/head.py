"""The head of NanoDet-g, and the decoding of boxes from distributions of distances.

Li et al., "Generalized Focal Loss", NeurIPS 2020.

Shape shorthand in this module:
    N: images of a batch; K: classes; B: bins of a distance
    H, W: height and width of a level; L = H * W: its locations, row by row
"""

import math

import torch
from torch import nn

__all__ = ["NanoDetHead", "decode_boxes", "decode_distances", "make_centres"]


class NanoDetHead(nn.Module):
    """On each level a 3 x 3 convolution with leaky ReLU and a 1 x 1 convolution to all predictions.

    Args:
        levels (int): of the pyramid.
        channels (int): of each level.
        num_classes (int): K.
        bins (int): B.
    """

    def __init__(self, *, levels, channels, num_classes, bins):
        super().__init__()
        self.num_classes = num_classes
        self.levels = nn.ModuleList(
            nn.Sequential(
                nn.Conv2d(channels, channels, 3, padding=1),
                nn.LeakyReLU(0.1),
                nn.Conv2d(channels, num_classes + 4 * bins, 1),
            )
            for _ in range(levels)
        )
        for *_, last in self.levels:
            # Nearly all locations are background: a class has probability 0.01 at first.
            nn.init.constant_(last.bias[:num_classes], -math.log(99))

    def forward(self, features):
        """Computes raw predictions.

        Args:
            features (list[Tensor]): of each level (N, channels, H, W) float.

        Returns:
            list[(Tensor, Tensor)]: of each level class logits (N, L, K), and logits of the distances
            from a location's centre to left, top, right and bottom, (N, L, 4, B), in strides.
        """
        predictions = []
        for x, level in zip(features, self.levels, strict=True):
            raw = level(x).flatten(2).transpose(1, 2)
            logits, distances = raw[..., : self.num_classes], raw[..., self.num_classes :]
            predictions.append((logits, distances.unflatten(2, (4, -1))))
        return predictions


def make_centres(height, width, stride, device=None):
    """Makes the centres of a level's locations.

    Args:
        height, width (int): of the level.
        stride (int): in pixels.
        device (torch.device or None): of the result.

    Returns:
        Tensor: (L, 2) float32, x and y in pixels of the padded image.
    """
    ys, xs = torch.meshgrid(
        (torch.arange(height, device=device) + 0.5) * stride,
        (torch.arange(width, device=device) + 0.5) * stride,
        indexing="ij",
    )
    return torch.stack([xs, ys], dim=-1).flatten(0, 1)


def decode_distances(logits):
    """Computes the expectation of a distribution over 0 to B - 1.

    Args:
        logits (Tensor): (..., B) float.

    Returns:
        Tensor: (...) float, in strides.
    """
    bins = torch.arange(logits.shape[-1], device=logits.device, dtype=logits.dtype)
    return logits.softmax(dim=-1) @ bins


def decode_boxes(centres, distances):
    """Computes boxes.

    Args:
        centres (Tensor): (..., 2) float, x and y in pixels.
        distances (Tensor): (..., 4) float, to left, top, right and bottom in pixels.

    Returns:
        Tensor: (..., 4) float, x1, y1, x2, y2 in pixels.
    """
    return torch.cat([centres - distances[..., :2], centres + distances[..., 2:]], dim=-1)
