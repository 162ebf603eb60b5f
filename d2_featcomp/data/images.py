"""Reads image files: all that takes data sets' pictures from disk goes through here."""

import numpy as np
from detectron2.data import detection_utils
from detectron2.utils.file_io import PathManager

from .. import images
from ..images import MODES_16_BIT, make_upright

__all__ = ["open_image", "read_image", "read_sem_seg"]


def open_image(path, read):
    """See :func:`d2_featcomp.images.open_image`; `path` may be any that Detectron2 opens."""
    return images.open_image(path, read, PathManager.open)


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
    return open_image(
        path, lambda image: detection_utils.convert_PIL_to_numpy(make_upright(path, image), format)
    )


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
        if "label" in str(path) and "Ids" in str(path):  # Cityscapes' names
            advice = (
                "; if it holds Cityscapes' label ids in place of its train ids, write these with "
                "cityscapesscripts/preparation/createTrainIdLabelImgs.py"
            )
        raise ValueError(
            f"{path!r} holds label {unknown[0]}: there are {num_classes} classes, numbered from 0, and "
            f"{ignore_label} for none{advice}"
        )
