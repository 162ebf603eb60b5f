"""Latents <-> bytes: feature codecs, image codecs, and the bitstream that carries what they code."""

from ..deprecation import make_getattr
from .base import FEATURE_CODEC_REGISTRY, FeatureCodec, build_feature_codec
from .bitstream import CodedTensor, DecodeLimits, FeatureBitstream, ImageSizes, StreamDescription
from .images import (
    IMAGE_CODEC_REGISTRY,
    BitstreamError,
    ImageCodec,
    build_image_codec,
    find_image_codec,
)
from .learned import LearnedFeatureCodec
from .quantized import QuantizedFeatureCodec
from .quantizers import QUANTIZER_REGISTRY, Quantizer, build_quantizer
from .rate_control import RateController, find_rate
from .streams import compress_stream, decompress_stream, describe_stream, read_step_sizes
from .variable_rate import VariableRateFeatureCodec

__getattr__ = make_getattr(__name__, {"stream_step_sizes": "read_step_sizes"})
