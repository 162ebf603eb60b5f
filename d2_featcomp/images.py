"""Image files: listed, opened, turned upright and read. Pillow and NumPy alone."""

import os
import struct
from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image, UnidentifiedImageError

__all__ = [
    "ANNOTATIONS",
    "IMAGE_SUFFIXES",
    "MODES_16_BIT",
    "find_upright_size",
    "list_images",
    "make_upright",
    "open_image",
    "read_picture",
]

IMAGE_SUFFIXES = (".jpg", ".jpeg", ".png", ".bmp", ".webp", ".tif", ".tiff", ".ppm")
ANNOTATIONS = "annotations.json"  # of a folder of images, in COCO's format
MODES_16_BIT = ("I;16", "I;16B", "I;16L", "I;16N", "I")  # "I": what older releases of Pillow say
_MAX_16_BIT = 65535
# What Pillow raises: ValueError and RuntimeError of PPM, BMP, DDS and AVIF.
_UNREADABLE = (
    *(OSError, SyntaxError, EOFError, struct.error, Image.DecompressionBombError),
    *(ValueError, RuntimeError),
)
_ORIENTATION = 0x112  # EXIF tag
_TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
_TURNS_OF_SIDES = tuple(_TURNS[number] for number in (5, 6, 7, 8))  # height and width change places


def list_images(folder: str) -> list[str]:
    """Lists the image files of a folder.

    Args:
        folder (str): its sub-folders are not looked into.

    Returns:
        list[str]: paths of the image files, sorted; at least one.

    Raises:
        FileNotFoundError: no such folder, or no image in it.
    """
    if not os.path.isdir(folder):
        raise FileNotFoundError(f"no folder {folder!r}")
    names = sorted(name for name in os.listdir(folder) if name.lower().endswith(IMAGE_SUFFIXES))
    if not names:
        raise FileNotFoundError(f"no images in {folder!r} ({', '.join(IMAGE_SUFFIXES)})")
    return [os.path.join(folder, name) for name in names]


def open_image(
    path: str, read: Callable[[Image.Image], Any], open_file: Callable[..., Any] = open
) -> Any:
    """Opens an image file and reads it.

    Args:
        path (str): an image file.
        read (callable): gets the opened `PIL.Image.Image`.
        open_file (callable): as `open`.

    Returns:
        what `read` does.

    Raises:
        FileNotFoundError: no such file. ValueError: it is no image, or is cut short; the message names
            the file.
    """
    try:
        with open_file(path, "rb") as file, Image.open(file) as image:
            return read(image)
    except FileNotFoundError:
        raise FileNotFoundError(f"no image {path!r}") from None
    except _UNREADABLE as error:
        if isinstance(error, ValueError) and repr(path) in str(error):  # of `read`
            raise
        # Pillow's text would show the opened file, as Python writes it.
        unknown = isinstance(error, UnidentifiedImageError)
        reason = "of no known format" if unknown else error
        raise ValueError(f"{path!r} is no image that can be read ({reason})") from error


def find_upright_size(image: Image.Image) -> tuple[int, int]:
    """Width and height of an opened image as :func:`make_upright` turns it."""
    width, height = image.size
    turned = _find_turn(image) in _TURNS_OF_SIDES
    return (height, width) if turned else (width, height)


def _find_turn(image: Image.Image) -> Image.Transpose | None:
    try:
        return _TURNS.get(image.getexif().get(_ORIENTATION, 1))
    except Exception:  # whatever Pillow raises at damaged EXIF data
        return None


def make_upright(path: str, image: Image.Image) -> Image.Image:
    """Turns an opened image as its EXIF data say, and scales gray pixels of 16 bits to 8.

    Args:
        path (str): for messages.
        image (Image): just opened.

    Returns:
        Image

    Raises:
        ValueError: its pixels are numbers of unknown range.
    """
    if image.mode == "F":
        raise ValueError(
            f"{path!r} holds floating-point pixels of unknown range: convert it to 8 or 16 bits"
        )
    turn = _find_turn(image)
    if turn is not None:
        image = image.transpose(turn)
    return _to_8_bits(path, image) if image.mode in MODES_16_BIT else image


def _to_8_bits(path: str, image: Image.Image) -> Image.Image:
    values = np.asarray(image).astype(np.int64)
    if values.size and not 0 <= values.min() <= values.max() <= _MAX_16_BIT:
        raise ValueError(
            f"{path!r} holds values from {values.min()} to {values.max()}: gray images of up to 16 "
            f"bits, 0 to {_MAX_16_BIT}, can be read"
        )
    return Image.fromarray(((values * 255 + _MAX_16_BIT // 2) // _MAX_16_BIT).astype(np.uint8))


def read_picture(path: str) -> npt.NDArray[np.uint8]:
    """Reads an image file.

    Args:
        path (str): of the file.

    Returns:
        ndarray: (H, W, 3) uint8 RGB, upright; gray images of 16 bits are scaled from 0..65535.

    Raises:
        FileNotFoundError: no such file. ValueError: it is no image, is cut short, or its pixels are
            numbers of unknown range; the message names the file.
    """
    picture: npt.NDArray[np.uint8] = open_image(
        path, lambda image: np.asarray(make_upright(path, image).convert("RGB"))
    )
    return picture
