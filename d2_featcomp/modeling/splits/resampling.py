"""Resampling of feature maps to the size of another: SizeAlign of the MSFC paper; chosen rows."""

import functools

import torch
import torch.nn.functional as F

__all__ = [
    "DOWNSAMPLE_MODES",
    "FUSE_MODES",
    "UPSAMPLE_MODES",
    "align_size",
    "compute_level_size",
    "select_in_blocks",
    "space_to_depth",
]

DOWNSAMPLE_MODES = ("nearest", "average")
FUSE_MODES = (*DOWNSAMPLE_MODES, "space_to_depth")
UPSAMPLE_MODES = ("nearest", "bilinear")


def align_size(x, size, *, down="nearest", up="nearest"):
    """Computes SizeAlign(A, B) of the MSFC paper, eq. 2-5.

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
            return _average(x, size)
        return F.interpolate(x, size=size, mode="nearest")
    if up == "bilinear":
        return F.interpolate(x, size=size, mode="bilinear", align_corners=False)
    return F.interpolate(x, size=size, mode="nearest")


def _average(x, size):
    """(N, C, H, W) -> (N, C, *size), means of cells."""
    if torch.jit.is_tracing():  # ONNX pools to any size by a constant ratio alone
        pairs = [(int(whole), int(part)) for whole, part in zip(x.shape[-2:], size, strict=True)]
        if all(whole % part == 0 for whole, part in pairs):
            return F.avg_pool2d(x, [whole // part for whole, part in pairs])
    return F.adaptive_avg_pool2d(x, size)


def space_to_depth(x, size, scale):
    """Lays out blocks of `scale` x `scale` positions as channels, which keeps all values.

    Args:
        x (Tensor): (N, C, H, W) float, H and W at most `scale` times those of `size`.
        size ((int, int)): height and width of the result.
        scale (int): of a block.

    Returns:
        Tensor: (N, C * scale^2, *size), zeros beyond the edges of `x`.
    """
    if scale == 1:
        return x
    height, width = (side * scale for side in size)
    if (height, width) != tuple(x.shape[-2:]):
        x = F.pad(x, (0, width - x.shape[-1], 0, height - x.shape[-2]))
    return F.pixel_unshuffle(x, scale)


def compute_level_size(image_size, stride):
    """Computes height and width of a pyramid level: those of the padded image over `stride`, rounded
    up."""
    return tuple(-(-side // stride) for side in image_size)


def select_in_blocks(x, dim, size, chosen):
    """Selects, of each block of rows (or columns), the chosen ones, in that order.

    Args:
        x (Tensor): (N, C, H, W).
        dim (int): 2 for rows, 3 for columns.
        size (int): of a block; H (or W) is a multiple of it.
        chosen (tuple[int]): positions in a block, from 0; one may be repeated.

    Returns:
        Tensor: `x`, with len(chosen) in place of each `size` rows (or columns).
    """
    index = _index(x.shape[dim], size, chosen, x.device)
    if x.is_contiguous(memory_format=torch.channels_last):  # and stays so
        return x.permute(0, 2, 3, 1).index_select(dim - 1, index).permute(0, 3, 1, 2)
    return x.index_select(dim, index)


@functools.lru_cache(maxsize=256)
def _index(length, size, chosen, device):
    """Kept, since a GPU would be waited for while it is copied there."""
    with torch.inference_mode(False):  # so that what is kept can be used in training too
        starts = torch.arange(0, length, size)
        return (starts[:, None] + torch.tensor(chosen)).flatten().to(device)
