"""Image codecs: one image of n-bit symbols <-> bytes. NumPy and codec libraries alone."""

from . import hevc, raw, still_image  # registration
from .base import (
    IMAGE_CODEC_REGISTRY,
    BitstreamError,
    ImageCodec,
    build_image_codec,
    find_image_codec,
)
