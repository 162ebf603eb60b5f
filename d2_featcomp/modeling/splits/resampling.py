"""SizeAlign of the MSFC paper: brings one feature map to the size of another."""

import torch.nn.functional as F

__all__ = ["DOWNSAMPLE_MODES", "UPSAMPLE_MODES", "level_size", "size_align"]

DOWNSAMPLE_MODES = ("nearest", "average")
UPSAMPLE_MODES = ("nearest", "bilinear")


def size_align(x, size, *, down="nearest", up="nearest"):
    """SizeAlign(A, B) of the MSFC paper, eq. 2-5.

    Args:
        x (Tensor): (N, C, H, W) float.
        size ((int, int)): height and width to reach; both at least, or both at most, those of `x`.
        down (str): "nearest" (the top left value of each cell) or "average" (its mean).
        up (str): "nearest" or "bilinear".

    Returns:
        Tensor: (N, C, *size), dtype of `x`; `x` itself where the size is right already.
    """
    size = tuple(size)
    if tuple(x.shape[-2:]) == size:
        return x
    if size[0] <= x.shape[-2] and size[1] <= x.shape[-1]:
        if down == "average":
            return F.adaptive_avg_pool2d(x, size)
        return F.interpolate(x, size=size, mode="nearest")
    if up == "bilinear":
        return F.interpolate(x, size=size, mode="bilinear", align_corners=False)
    return F.interpolate(x, size=size, mode="nearest")


def level_size(image_size, stride):
    """Height and width of a pyramid level: those of the padded image over `stride`, rounded up."""
    return tuple(-(-side // stride) for side in image_size)
