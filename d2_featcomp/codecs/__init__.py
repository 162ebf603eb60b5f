"""Symbols <-> bytes: registered image codecs, and the bitstream that carries their output."""

from . import hevc, raw, still_image  # registration
from .bitstream import CodedTensor, DecodeLimits, FeatureBitstream, ImageSizes
from .feature_codec import FeatureCodec
from .image_codec import IMAGE_CODEC_REGISTRY, BitstreamError, ImageCodec, build_image_codec
