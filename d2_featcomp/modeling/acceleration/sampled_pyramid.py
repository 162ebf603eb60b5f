"""A feature pyramid computed only where it will be sampled.

MSFF with nearest down-sampling reads one value in r x r of a level that is r times finer than the fused
map. So a 3 x 3 output convolution of stride r replaces one of stride 1, and below it lateral connections
and the way down the pyramid are needed only where that convolution looks: in 3 of r rows and columns.

What is computed are the same sums: equal bit for bit wherever the library that convolves adds in the
same order, as it does for images of usual size.

Shape shorthand in this module:
    N: images of a batch; h, w: height and width of the fused map
    C: channels of every pyramid level; r: how many times finer a level is
"""

import torch.nn.functional as F
from detectron2.layers import Conv2d, FrozenBatchNorm2d
from detectron2.modeling import FPN
from torch import nn

from ..splits.resampling import select_in_blocks
from .folding import OneDnnConv2d

__all__ = ["sampled_pyramid"]

_FIXED = (type(None), FrozenBatchNorm2d)
_POINTWISE = (*_FIXED, nn.BatchNorm2d, nn.SyncBatchNorm)


def sampled_pyramid(backbone, images, stride, names):
    """Computes what nearest down-sampling leaves of a feature pyramid: the same numbers, of fewer sums.

    Args:
        backbone (Backbone): that the images go through.
        images (Tensor): (N, 3, H, W) float, H and W multiples of its `size_divisibility`.
        stride (int): of the map that finer levels are sampled for, in pixels.
        names (sequence[str]): levels that are wanted.

    Returns:
        dict[str, Tensor]: levels of that stride and finer ones, (N, C, h, w); coarser ones as they are.
        None if the backbone is not Detectron2's FPN, or has convolutions of another kind, or the images
        are not padded: then compute the whole pyramid.
    """
    if type(backbone) is not FPN or not _is_plain(backbone, names):
        return None
    if any(side % backbone.size_divisibility for side in images.shape[-2:]):
        return None
    features = backbone.bottom_up(images)
    levels = list(zip(backbone.in_features, backbone.lateral_convs[::-1], strict=True))
    strides = [backbone.bottom_up.output_shape()[name].stride for name in backbone.in_features]
    found, coarser = {}, None
    for index in reversed(range(len(levels))):
        name, lateral = levels[index]
        ratio = max(1, stride // strides[index])
        x = lateral(_around(_around(features[name], ratio, 2), ratio, 3))
        if coarser is not None:
            above = max(1, stride // strides[index + 1])
            for dim in (2, 3):
                coarser = _enlarged(coarser, above, ratio, dim)
            x = x + coarser
            if backbone._fuse_type == "avg":
                x = x / 2
        coarser = x
        level = backbone._out_features[index]
        if level in names:
            found[level] = _sampled(backbone.output_convs[::-1][index], x, ratio)
    return found


def _is_plain(backbone, names):
    """Tells whether each value of a level depends on its own surroundings alone, and no more is asked
    for."""
    own = backbone._out_features[: len(backbone.in_features)]
    convolutions = [*backbone.lateral_convs, *backbone.output_convs]
    return set(names) <= set(own) and all(
        type(conv) in (Conv2d, OneDnnConv2d)
        and type(conv.norm) in (_FIXED if conv.training else _POINTWISE)
        for conv in convolutions
    )


def _around(x, ratio, dim):
    """Keeps, of each `ratio` rows (or columns), those that a 3 x 3 convolution at the first of them
    needs: this one, the next, and the last, which is the one before the next block's first."""
    return x if ratio < 4 else select_in_blocks(x, dim, ratio, (0, 1, ratio - 1))


def _enlarged(x, above, ratio, dim):
    """Computes what is kept of a level from that of the next coarser one, by nearest up-sampling."""
    if ratio < 4:
        return select_in_blocks(x, dim, 1, (0, 0))
    kept = 2 if above == 2 else 3  # rows that are kept of a block; of 2 all
    # The finer block's rows 0, 1 and last lie on the coarser one's rows 0, 0 and last.
    return select_in_blocks(x, dim, kept, (0, 0, kept - 1))


def _sampled(conv, x, ratio):
    """An output convolution, 3 x 3 of padding 1, at the first position of each block."""
    if ratio == 1:
        return conv(x)
    if ratio < 4:
        y = F.conv2d(x, conv.weight, conv.bias, stride=ratio, padding=1)
    else:  # before the first block is nothing
        y = F.conv2d(F.pad(x, (1, 0, 1, 0)), conv.weight, conv.bias, stride=3)
    return y if conv.norm is None else conv.norm(y)
