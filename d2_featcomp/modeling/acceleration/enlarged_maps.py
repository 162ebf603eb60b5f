"""Convolutions of maps that nearest up-sampling has enlarged: repeated values are computed once."""

import torch
import torch.nn.functional as F
from detectron2.layers import Conv2d
from detectron2.modeling.proposal_generator import StandardRPNHead
from torch import nn

from ..splits import MSFC, MSFR
from ..splits.resampling import select_in_blocks

__all__ = ["convolve_enlarged", "convolve_levels_once", "convolve_repeated_values_once"]


def convolve_repeated_values_once(network):
    """Replaces, in the cloud sub-model of MSFC, convolutions of enlarged maps by faster ones.

    Args:
        network (nn.Module): a copy of a meta-architecture, for inference alone; changed in place.
    """
    split = network.backbone.feature_split
    if type(split) is not MSFC or type(split.msfr) is not MSFR or split.msfr.upsample != "nearest":
        return
    convolve_levels_once(split.msfr, split.stride)
    scale = split.stride // split.msfr.strides[split.msfr.first]
    head = getattr(getattr(network, "proposal_generator", None), "rpn_head", None)
    if scale > 3 and type(head) is StandardRPNHead and _is_plain(head.conv):
        head.conv = _ConvOfEnlarged(head.conv, scale)


def convolve_levels_once(msfr, stride):
    """Replaces the convolutions of MSFR that get F', enlarged.

    Args:
        msfr (MSFR): a copy, in evaluation mode, with nearest up-sampling; changed in place.
        stride (int): of F', in pixels.
    """
    if msfr.downsample != "nearest":
        return
    for level, source in msfr.steps:
        conv = getattr(msfr, msfr.names[level])
        coarser = msfr.strides[source] <= msfr.strides[level]
        scale = stride // msfr.strides[level]
        if source == msfr.first and coarser and scale > 3 and _is_plain(conv):
            setattr(msfr, msfr.names[level], _ConvOfEnlarged(conv, scale))


def _is_plain(conv):
    return isinstance(conv, Conv2d) and conv.kernel_size == (3, 3) and conv.padding == (1, 1)


class _ConvOfEnlarged(nn.Module):
    """A convolution that looks whether its input consists of blocks of equal values.

    Args:
        conv (Conv2d): 3 x 3, padding 1, in evaluation mode.
        scale (int): side of the blocks.
    """

    def __init__(self, conv, scale):
        super().__init__()
        self.conv, self.scale = conv, scale

    def forward(self, x):
        """(N, C, H, W) float -> what `conv` gives."""
        if all(side % self.scale == 0 for side in x.shape[-2:]):
            small = x[..., :: self.scale, :: self.scale]
            blocks = x.unflatten(3, (-1, self.scale)).unflatten(2, (-1, self.scale))
            if torch.equal(small[:, :, :, None, :, None].expand_as(blocks), blocks):
                return convolve_enlarged(self.conv, small, self.scale)
        return self.conv(x)


def convolve_enlarged(conv, x, scale):
    """Computes a 3 x 3 convolution of an enlarged map, once where it would give the same again.

    Within a block of equal values, all outputs but those on the block's border see the same.

    Args:
        conv (Conv2d): 3 x 3, padding 1; with a norm only in evaluation mode.
        x (Tensor): (N, C, H, W) float.
        scale (int): s > 2, of nearest-neighbour up-sampling.

    Returns:
        Tensor: (N, C', s * H, s * W), the same sums as `conv` of the enlarged map.
    """
    y = conv(F.interpolate(x, scale_factor=3.0, mode="nearest"))
    chosen = (0, *[1] * (scale - 2), 2)
    return select_in_blocks(select_in_blocks(y, 2, 3, chosen), 3, 3, chosen)
