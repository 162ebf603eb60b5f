"""Latents <-> bytes: feature codecs, image codecs, and the bitstream that carries what they code.

What needs PyTorch is imported when it is asked for: an edge without it codes by :mod:`.array_codecs`.
"""

from typing import TYPE_CHECKING

from ..deprecation import make_getattr
from ..lazy_names import make_lazy_getattr
from .array_codecs import ArrayCodec, VariableRateArrayCodec
from .bitstream import CodedTensor, DecodeLimits, FeatureBitstream, ImageSizes, StreamDescription
from .images import (
    IMAGE_CODEC_REGISTRY,
    BitstreamError,
    ImageCodec,
    build_image_codec,
    find_image_codec,
)
from .quantizers import QUANTIZER_REGISTRY, Quantizer, build_quantizer
from .rate_control import RateController, find_rate, meet_target

if TYPE_CHECKING:
    from .needs_torch import *

__getattr__ = make_lazy_getattr(
    __name__, make_getattr(__name__, {"stream_step_sizes": "read_step_sizes"})
)
