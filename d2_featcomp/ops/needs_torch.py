"""The functions of this package on tensors, which need PyTorch."""

from .compressibility import compressibility_loss
from .correlation import ChannelCorrelation, rank_channels
from .least_squares import ConvolutionFit
from .prediction import charbonnier_loss, consolidate
from .principal_components import ChannelMoments
from .quantization import (
    add_quantization_noise,
    dequantize_by_table,
    dequantize_uniform,
    deviation_range,
    find_narrow_channels,
    minmax_range,
    quantize_minmax,
    quantize_ste,
    quantize_uniform,
)
