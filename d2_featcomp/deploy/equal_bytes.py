"""A compressed image of as many bytes as a feature bitstream, to compare with."""

import dataclasses

import numpy as np

from ..codecs import build_image_codec, find_image_codec

__all__ = ["CodedImage", "code_to_size"]

_TITLES = {"hevc420": "HEVC 4:2:0", "jpeg420": "JPEG 4:2:0"}


@dataclasses.dataclass(frozen=True)
class CodedImage:
    """An image after an image codec.

    Attributes:
        codec (str): name in the registry of image codecs.
        quality (int): the codec's own scale.
        size (int): bytes.
        coarsest (bool): whether the codec can make no fewer.
        pixels (ndarray): (H, W, 3) uint8 RGB, decoded.
    """

    codec: str
    quality: int
    size: int
    coarsest: bool
    pixels: np.ndarray

    def describe(self):
        """Composes a caption: the codec, its quality and the bytes."""
        scale = "QP" if self.codec == "hevc420" else "quality"
        text = f"{_TITLES[self.codec]} image, {scale} {self.quality}: {self.size} bytes"
        return f"{text} (no fewer are possible)" if self.coarsest else text


def code_to_size(pixels, target, codec=None):
    """Codes an image to about as many bytes as given.

    Args:
        pixels (ndarray): (H, W, 3) uint8 RGB.
        target (int): bytes.
        codec (str or None): "hevc420" or "jpeg420"; None is the former if its library is installed.

    Returns:
        CodedImage: of the quality whose size comes nearest, by ratio; the coarsest if that is larger.
    """
    codec = codec or _choose_codec()
    kind = find_image_codec(codec)
    qualities = range(kind.quality_range[0], kind.quality_range[1] + 1)
    if codec == "hevc420":  # from coarse to fine
        qualities = qualities[::-1]
    coded = {}

    def size(index):
        if index not in coded:
            coded[index] = build_image_codec(codec, bits=8, quality=qualities[index]).encode(pixels)
        return len(coded[index])

    low, high = 0, len(qualities) - 1  # the coarsest of at least `target` bytes lies in between
    while low < high:
        middle = (low + high) // 2
        low, high = (middle + 1, high) if size(middle) < target else (low, middle)
    index = min({max(low - 1, 0), low}, key=lambda i: (abs(np.log(size(i) / target)), i))
    decoded = kind.decode(coded[index], shape=pixels.shape, bits=8, lossless=False)
    return CodedImage(codec, qualities[index], size(index), index == 0 and size(0) > target, decoded)


def _choose_codec():
    try:
        find_image_codec("hevc420").require_library()
    except ImportError:
        return "jpeg420"
    return "hevc420"
