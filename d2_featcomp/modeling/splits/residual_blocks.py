"""Residual blocks of learned image coders, with generalized divisive normalization.

Shape shorthand in this module:
    N: images of a batch; I, O: input and output channels; H, W: height and width
"""

import fvcore.nn.weight_init as weight_init
import torch
import torch.nn.functional as F
from detectron2.layers import Conv2d
from torch import nn

__all__ = ["GDN", "AttentionBlock", "ResidualBlock", "ResidualDownsample", "ResidualUpsample"]


class GDN(nn.Module):
    """Generalized divisive normalization (Balle et al., ICLR 2016): each channel over the root of a
    weighted sum of all squares at its position.

    Args:
        channels (int): C.
        inverse (bool): multiplies in place of dividing.
    """

    def __init__(self, channels, inverse=False):
        super().__init__()
        self.inverse = inverse
        # Roots, so that the sum is positive; no weight is 0, where its gradient would be.
        self.beta_root = nn.Parameter(torch.ones(channels))
        self.gamma_root = nn.Parameter(0.02 + 0.3 * torch.eye(channels))

    def forward(self, x):
        """(N, C, H, W) float -> the same."""
        with torch.autocast(x.device.type, enabled=False):  # squares leave half precision's range
            x = x.float()
            weight, bias = self.gamma_root.square()[..., None, None], self.beta_root.square() + 1e-6
            norm = F.conv2d(x.square(), weight, bias)
            return x * (norm.sqrt() if self.inverse else norm.rsqrt())


class ResidualBlock(nn.Module):
    """Two 3x3 convolutions and what they are added to.

    Args:
        in_channels, out_channels (int): I, O.
    """

    def __init__(self, in_channels, out_channels):
        super().__init__()
        self.conv1 = _conv(in_channels, out_channels)
        self.conv2 = _conv(out_channels, out_channels)
        self.skip = nn.Identity()
        if in_channels != out_channels:
            self.skip = _conv(in_channels, out_channels, kernel_size=1)

    def forward(self, x):
        """(N, I, H, W) float -> (N, O, H, W)."""
        return F.leaky_relu(self.conv2(F.leaky_relu(self.conv1(x)))) + self.skip(x)


class ResidualDownsample(nn.Module):
    """A residual block that may halve height and width.

    Args:
        in_channels, out_channels (int): I, O.
        stride (int): 1 or 2.
    """

    def __init__(self, in_channels, out_channels, stride=2):
        super().__init__()
        self.conv1 = _conv(in_channels, out_channels, stride=stride)
        self.conv2 = _conv(out_channels, out_channels)
        self.norm = GDN(out_channels)
        self.skip = _conv(in_channels, out_channels, kernel_size=1, stride=stride)

    def forward(self, x):
        """(N, I, H, W) float -> (N, O, H / stride, W / stride), rounded up."""
        return self.norm(self.conv2(F.leaky_relu(self.conv1(x)))) + self.skip(x)


class ResidualUpsample(nn.Module):
    """A residual block that doubles height and width by sub-pixel convolutions.

    Args:
        in_channels, out_channels (int): I, O.
    """

    def __init__(self, in_channels, out_channels):
        super().__init__()
        self.conv1 = _conv(in_channels, 4 * out_channels)
        self.conv2 = _conv(out_channels, out_channels)
        self.norm = GDN(out_channels, inverse=True)
        self.skip = _conv(in_channels, 4 * out_channels)

    def forward(self, x):
        """(N, I, H, W) float -> (N, O, 2H, 2W)."""
        enlarged = F.leaky_relu(F.pixel_shuffle(self.conv1(x), 2))
        return self.norm(self.conv2(enlarged)) + F.pixel_shuffle(self.skip(x), 2)


class AttentionBlock(nn.Module):
    """Adds a map times a mask in (0, 1), both of three bottlenecks (Cheng et al., CVPR 2020).

    Args:
        channels (int): C.
    """

    def __init__(self, channels):
        super().__init__()
        self.trunk = nn.Sequential(*[_Bottleneck(channels) for _ in range(3)])
        self.mask = nn.Sequential(
            *[_Bottleneck(channels) for _ in range(3)], _conv(channels, channels, kernel_size=1)
        )

    def forward(self, x):
        """(N, C, H, W) float -> the same."""
        return x + self.trunk(x) * torch.sigmoid(self.mask(x))


class _Bottleneck(nn.Module):
    def __init__(self, channels):
        super().__init__()
        half = max(1, channels // 2)
        self.reduce = _conv(channels, half, kernel_size=1)
        self.conv = _conv(half, half)
        self.expand = _conv(half, channels, kernel_size=1)

    def forward(self, x):
        return F.relu(x + self.expand(F.relu(self.conv(F.relu(self.reduce(x))))))


def _conv(in_channels, out_channels, *, kernel_size=3, stride=1):
    conv = Conv2d(in_channels, out_channels, kernel_size, stride=stride, padding=kernel_size // 2)
    weight_init.c2_xavier_fill(conv)
    return conv
