"""Reads image files: all that takes pictures from disk goes through here."""

import struct

import numpy as np
from detectron2.data import detection_utils
from detectron2.utils.file_io import PathManager
from PIL import Image, ImageOps

__all__ = ["MODES_16_BIT", "open_image", "read_image", "read_sem_seg"]

MODES_16_BIT = ("I;16", "I;16B", "I;16L", "I;16N", "I")  # "I": what older releases of Pillow say
_MAX_16_BIT = 65535
# What Pillow raises.
_UNREADABLE = (OSError, SyntaxError, EOFError, struct.error, Image.DecompressionBombError)


def open_image(path, read):
    """Opens an image file and reads it.

    Args:
        path (str): an image file.
        read (callable): gets the opened `PIL.Image.Image`.

    Returns:
        what `read` does.

    Raises:
        FileNotFoundError: no such file. ValueError: it is no image, or is cut short; the message names
            the file.
    """
    try:
        with PathManager.open(path, "rb") as file, Image.open(file) as image:
            return read(image)
    except FileNotFoundError:
        raise FileNotFoundError(f"no image {path!r}") from None
    except _UNREADABLE as error:
        raise ValueError(f"{path!r} is no image that can be read ({error})") from error


def read_image(path, format=None):
    """Reads an image as Detectron2's function of this name does, but for gray images of 16 bits (of
    thermal cameras, depth sensors or X-rays): these are scaled from 0..65535 to 0..255, where Detectron2
    makes white of all above 255.

    Args:
        path (str): an image file; turned as its EXIF data say.
        format (str or None): one of Pillow's modes, "BGR" or "YUV-BT.601".

    Returns:
        ndarray: (H, W, channels), uint8 in 0..255 unless `format` says otherwise.

    Raises:
        FileNotFoundError: no such file. ValueError: it is no image, is cut short, or its pixels are
            numbers of unknown range; the message names the file.
    """

    def read(image):
        if image.mode == "F":
            raise ValueError(
                f"{path!r} holds floating-point pixels of unknown range: convert it to 8 or 16 bits"
            )
        if image.mode in MODES_16_BIT:
            return detection_utils.convert_PIL_to_numpy(_to_8_bits(path, image), format)
        return None

    found = open_image(path, read)
    if found is None:
        found = open_image(path, lambda _: detection_utils.read_image(path, format))
    return found


def _to_8_bits(path, image):
    values = np.asarray(ImageOps.exif_transpose(image)).astype(np.int64)
    if values.size and not 0 <= values.min() <= values.max() <= _MAX_16_BIT:
        raise ValueError(
            f"{path!r} holds values from {values.min()} to {values.max()}: gray images of up to 16 "
            f"bits, 0 to {_MAX_16_BIT}, can be read"
        )
    return Image.fromarray(((values * 255 + _MAX_16_BIT // 2) // _MAX_16_BIT).astype(np.uint8))


def read_sem_seg(path, *, num_classes=None, ignore_label=255):
    """Reads a semantic map.

    Args:
        path (str): an image whose pixels are numbers of classes (gray or palette, 8 or 16 bits).
        num_classes (int or None): how many classes there are; None: not checked.
        ignore_label (int): stands for no class.

    Returns:
        ndarray: (h, w) uint8, or int32 where a label is above 255.

    Raises:
        FileNotFoundError: no such file. ValueError: it is no such image, or a label is neither below
            `num_classes` nor `ignore_label`; the message names the file.
    """

    def read(image):
        if image.mode not in ("1", "L", "P", *MODES_16_BIT):
            raise ValueError(
                f"{path!r} is an image of mode {image.mode}: semantic maps are gray images whose pixels "
                "are numbers of classes"
            )
        return np.array(image)

    labels = open_image(path, read)
    if num_classes is not None:
        _require_labels(path, labels, num_classes, ignore_label)
    return labels.astype(np.uint8 if labels.max(initial=0) <= 255 else np.int32)


def _require_labels(path, labels, num_classes, ignore_label):
    unknown = np.unique(labels[(labels < 0) | (labels >= num_classes)])
    unknown = unknown[unknown != ignore_label]
    if len(unknown):
        advice = ""
        if "label" in path and "Ids" in path:  # Cityscapes' names
            advice = (
                "; if it holds Cityscapes' label ids in place of its train ids, write these with "
                "cityscapesscripts/preparation/createTrainIdLabelImgs.py"
            )
        raise ValueError(
            f"{path!r} holds label {unknown[0]}: there are {num_classes} classes, numbered from 0, and "
            f"{ignore_label} for none{advice}"
        )
