"""From a picture to the input of a network: resized, normalized and padded. Pillow and NumPy alone.

What happens is described by a dict of plain types, which travels with exported networks: "format" ("BGR"
or "RGB", the order of channels, or "L", gray, one channel); "min_size" and "max_size", shortest and
longest side in pixels, or "size", height and width, where all images have one; "mean" and "std" of the
channels in that order; and "padding", see :func:`pad_image`.
"""

from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image

__all__ = ["find_resized_size", "normalize_image", "pad_image", "prepare_pixels"]

Floats = npt.NDArray[np.float32]


def find_resized_size(height: int, width: int, settings: dict[str, Any]) -> tuple[int, int]:
    """Finds the size to which an image is resized, as Detectron2's `ResizeShortestEdge` does.

    Args:
        height, width (int): of the image.
        settings (dict): see above. The shorter side becomes "min_size" long or, where the longer one
            would exceed it then, the longer one "max_size". A "min_size" of 0 leaves the image as it is.

    Returns:
        (int, int): height and width; either may be 0 of a very narrow image.
    """
    if "size" in settings:
        return int(settings["size"][0]), int(settings["size"][1])
    shortest, longest = settings["min_size"], settings["max_size"]
    if not shortest:
        return height, width
    scale = float(shortest) / min(height, width)
    # The shorter side is set, not computed, as there: products may be rounded otherwise.
    sides = [float(shortest) if side == min(height, width) else scale * side for side in (height, width)]
    if max(sides) > longest:
        scale = float(longest) / max(sides)
        sides = [side * scale for side in sides]
    return int(sides[0] + 0.5), int(sides[1] + 0.5)


def prepare_pixels(picture: npt.NDArray[np.uint8], settings: dict[str, Any]) -> Floats:
    """Resizes a picture, bilinearly as Pillow does, and puts its channels into the network's order, or
    makes one of them, as Pillow weighs colours.

    Args:
        picture (ndarray): (H, W, 3) uint8 RGB.
        settings (dict): see above.

    Returns:
        ndarray: (3, h, w) float32, 0..255; (1, h, w) of "L".

    Raises:
        ValueError: it is so narrow that nothing of it is left at that size.
    """
    height, width = picture.shape[:2]
    size = find_resized_size(height, width, settings)
    if 0 in size:
        raise ValueError(
            f"an image of {width} x {height} pixels has no width or height left where its longer side "
            f"has {settings['max_size']} pixels (INPUT.MAX_SIZE_TEST): cut it into pieces"
        )
    pixels = picture
    if settings["format"] == "L":
        pixels = np.asarray(Image.fromarray(picture).convert("L"))
    if size != (height, width):
        resized = Image.fromarray(pixels).resize((size[1], size[0]), Image.Resampling.BILINEAR)
        pixels = np.asarray(resized)
    pixels = pixels.reshape(*size, -1)  # one channel of gray, too
    if settings["format"] == "BGR":
        pixels = pixels[:, :, ::-1]
    return np.ascontiguousarray(pixels.transpose(2, 0, 1), dtype=np.float32)


def normalize_image(image: Floats, settings: dict[str, Any]) -> Floats:
    """Subtracts the mean of each channel and divides by its deviation.

    Args:
        image (ndarray): (C, h, w) float32, 0..255.
        settings (dict): see above.

    Returns:
        ndarray: (C, h, w) float32.
    """
    mean, std = (np.array(settings[name], np.float32)[:, None, None] for name in ("mean", "std"))
    normalized: Floats = (image - mean) / std
    return normalized


def pad_image(image: Floats, padding: dict[str, Any]) -> Floats:
    """Pads a normalized image.

    Args:
        image (ndarray): (C, h, w) float32.
        padding (dict): "value", of what is added; and either "multiple", to which height and width are
            rounded up, with the image in the upper left corner, or "side", of a square, in pixels, with
            the image where "position" says: "corner" or "middle".

    Returns:
        ndarray: (C, H, W) float32.

    Raises:
        ValueError: the image is larger than the square.
    """
    channels, height, width = image.shape
    if "side" in padding:
        rows = columns = int(padding["side"])
        if max(height, width) > rows:
            raise ValueError(
                f"an image of {width} x {height} pixels does not fit into the network's square of {rows}"
            )
    else:
        multiple = int(padding["multiple"])
        rows, columns = (-(-side // multiple) * multiple for side in (height, width))
    middle = padding.get("position") == "middle"
    top, left = ((rows - height) // 2, (columns - width) // 2) if middle else (0, 0)
    padded = np.full((channels, rows, columns), padding["value"], np.float32)
    padded[:, top : top + height, left : left + width] = image
    return padded
