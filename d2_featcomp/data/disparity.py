"""Disparity maps on disk, as Cityscapes stores them."""

import numpy as np

from ..images import MODES_16_BIT
from .images import open_image

__all__ = [
    "LARGEST_DISPARITY",
    "convert_disparity",
    "make_stored_disparity",
    "read_disparity",
    "read_stored_disparity",
]

LARGEST_DISPARITY = 65534 / 256  # pixels, that 16 bits hold


def read_disparity(path):
    """As :func:`read_stored_disparity`, in pixels: (height, width) float32, 0 where it is unknown."""
    return convert_disparity(read_stored_disparity(path))


def read_stored_disparity(path):
    """Reads a disparity map as it is stored.

    Args:
        path (str): 16-bit gray PNG.

    Returns:
        ndarray: (height, width) uint16; p stands for (p - 1) / 256 pixels, 0 for unknown.

    Raises:
        FileNotFoundError: no such file. ValueError: it is no such image.
    """
    mode, values = open_image(path, lambda image: (image.mode, np.array(image)))
    if mode not in MODES_16_BIT:
        raise ValueError(
            f"{path!r} is an image of mode {mode}: disparity maps are gray PNG images of 16 bits, "
            "disparity = (value - 1) / 256, 0 where it is unknown"
        )
    return values.astype(np.uint16)


def convert_disparity(stored):
    """Converts stored values to pixels: any shape, uint16 -> float32."""
    return np.maximum(stored.astype(np.float32) - 1, 0) / 256


def make_stored_disparity(disparity):
    """Converts pixels, 0 where they are unknown, to stored values: any shape, float -> uint16.

    Raises:
        ValueError: a value is below 0, above LARGEST_DISPARITY, or no number.
    """
    if not ((disparity >= 0) & (disparity <= LARGEST_DISPARITY)).all():
        raise ValueError(
            f"disparities must lie between 0 (unknown) and {LARGEST_DISPARITY:.2f} pixels to be stored"
        )
    return np.round(disparity * 256).astype(np.uint16) + (disparity > 0).astype(np.uint16)
