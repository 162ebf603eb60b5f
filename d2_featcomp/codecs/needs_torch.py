"""The codecs of this package as parts of a network, which need PyTorch."""

from .base import FEATURE_CODEC_REGISTRY, FeatureCodec, build_feature_codec
from .learned import LearnedFeatureCodec
from .quantized import QuantizedFeatureCodec
from .streams import compress_stream, decompress_stream, describe_stream, read_step_sizes
from .variable_rate import VariableRateFeatureCodec
