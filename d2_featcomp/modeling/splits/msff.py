"""MSFF: multi-scale feature fusion, the first part of MSFC.

Shape shorthand in this module:
    N: images of a batch; h, w: height and width of the padded images
    C: channels of every pyramid level
    s_k: stride of level p_k; s: stride of the fused map (32, that of p5, in the paper)
"""

import fvcore.nn.weight_init as weight_init
import torch
import torch.nn.functional as F
from detectron2.layers import Conv2d
from torch import nn

from .resampling import align_size, space_to_depth

__all__ = ["MSFF", "SqueezeExcitation"]


class SqueezeExcitation(nn.Module):
    """Re-weights channels by what they hold on average (Hu et al., CVPR 2018).

    Args:
        channels (int): of the input.
        reduction (int): how many times narrower the hidden layer is.
    """

    def __init__(self, channels, reduction):
        super().__init__()
        self.squeeze = nn.Linear(channels, max(1, channels // reduction))
        self.excite = nn.Linear(max(1, channels // reduction), channels)

    def forward(self, x):
        """(N, C, H, W) float -> (N, C, H, W), each channel times a weight in (0, 1)."""
        weight = torch.sigmoid(self.excite(F.relu(self.squeeze(x.mean(dim=(2, 3))))))
        return x * weight[:, :, None, None]


class MSFF(nn.Module):
    """Multi-scale feature fusion: the pyramid becomes one map of one level's size (sec. 3.1).

    Args:
        levels (int): number of pyramid levels fused.
        channels (int): C, of each of them and of the result.
        reduction (int): of the squeeze-and-excitation block.
        kernel_size (int): of the convolution, odd.
        downsample (str): how finer levels reach that size: see :func:`align_size`; or "space_to_depth",
            blocks of positions as channels, which leaves nothing out.
        level (int): index of the level whose size the result has; -1, the coarsest, is the paper's.
        scales (sequence[int]): for "space_to_depth", how many times finer each level is than that; 1 for
            coarser ones.

    Raises:
        ValueError: "space_to_depth" without a scale for each level.
    """

    def __init__(
        self,
        *,
        levels,
        channels,
        reduction=16,
        kernel_size=3,
        downsample="nearest",
        level=-1,
        scales=(),
    ):
        super().__init__()
        if downsample == "space_to_depth" and len(scales) != levels:
            raise ValueError(
                f"MSFF fuses {levels} levels by space_to_depth and has {len(scales)} scales: give each "
                "level one"
            )
        self.downsample = downsample
        self.level = level
        self.scales = list(scales) if downsample == "space_to_depth" else [1] * levels
        width = channels * sum(scale**2 for scale in self.scales)
        self.attention = SqueezeExcitation(width, reduction)
        self.fuse = Conv2d(width, channels, kernel_size, padding=kernel_size // 2)
        weight_init.c2_xavier_fill(self.fuse)

    def align(self, pyramid):
        """Brings all levels to one size: list of (N, C, h / s_k, w / s_k) -> one (N, levels * C,
        h / s, w / s), of more channels by "space_to_depth"."""
        size = pyramid[self.level].shape[-2:]
        blocks = [space_to_depth(x, size, scale) for x, scale in zip(pyramid, self.scales, strict=True)]
        return torch.cat([align_size(x, size, down=self.downsample) for x in blocks], dim=1)

    def forward(self, pyramid):
        """Fuses the levels of a pyramid.

        Args:
            pyramid (list[Tensor]): fine to coarse, each (N, C, h / s_k, w / s_k) float.

        Returns:
            Tensor: (N, C, h / s, w / s).
        """
        return self.fuse(self.attention(self.align(pyramid)))
