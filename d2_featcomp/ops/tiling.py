"""Channel tiling: a (C, H, W) feature as one gray image, the channels side by side.

The grid has 2^floor(log2(C)/2) rows and 2^ceil(log2(C)/2) columns, channels in raster order: that of
the code of MTL's authors, and of BaF sec. 3.2, where the power of two is missing in print. For other C
the rows stay and as many columns as needed follow.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np
import numpy.typing as npt

if TYPE_CHECKING:
    import torch

__all__ = ["tile_channels", "tile_grid", "untile_channels"]

Feature = TypeVar("Feature", "torch.Tensor", "npt.NDArray[Any]")


def tile_grid(channels: int) -> tuple[int, int]:
    """Rows and columns of the tile grid.

    Args:
        channels (int): C, at least 1.

    Returns:
        (int, int): rows * columns >= C, with equality for powers of two.
    """
    if channels < 1:
        raise ValueError(f"cannot tile {channels} channels: at least one is needed")
    rows = 2 ** ((channels.bit_length() - 1) // 2)
    return rows, -(-channels // rows)


def tile_channels(x: Feature) -> Feature:
    """Tiles the channels of a feature to one image.

    Args:
        x (Tensor or ndarray): (C, H, W), any dtype.

    Returns:
        Tensor or ndarray: (rows * H, columns * W), same dtype; tiles beyond the last channel are 0.
    """
    channels, height, width = x.shape
    rows, columns = tile_grid(channels)
    if rows * columns > channels:
        x = _append_zeros(x, rows * columns - channels)
    x = x.reshape(rows, columns, height, width).swapaxes(1, 2)
    return x.reshape(rows * height, columns * width)


def _append_zeros(x: Any, count: int) -> Any:
    """Appends channels, of zeros."""
    shape = (count, *x.shape[1:])
    if isinstance(x, np.ndarray):
        return np.concatenate([x, np.zeros(shape, x.dtype)])
    import torch

    return torch.cat([x, x.new_zeros(shape)])


def untile_channels(image: torch.Tensor, channels: int) -> torch.Tensor:
    """Inverse of :func:`tile_channels`.

    Args:
        image (Tensor): (rows * H, columns * W), any dtype.
        channels (int): C.

    Returns:
        Tensor: (C, H, W), same dtype, contiguous.

    Raises:
        ValueError: the image does not divide into the grid of C channels.
    """
    rows, columns = tile_grid(channels)
    height, width = image.shape[0] // rows, image.shape[1] // columns
    if (rows * height, columns * width) != tuple(image.shape):
        raise ValueError(
            f"an image of {tuple(image.shape)} is no grid of {rows} x {columns} equal tiles"
        )
    x = image.reshape(rows, height, columns, width).permute(0, 2, 1, 3)
    return x.reshape(rows * columns, height, width)[:channels].contiguous()
