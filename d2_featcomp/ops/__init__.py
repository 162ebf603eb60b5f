"""Functions on tensors, and sums over them: no configuration, no input or output."""

from .compressibility import compressibility_loss
from .correlation import ChannelCorrelation, rank_channels
from .least_squares import ConvolutionFit
from .prediction import charbonnier_loss, consolidate
from .quantization import (
    BIT_DEPTHS,
    FLOAT_BITS,
    add_quantization_noise,
    check_bits,
    dequantize_by_table,
    dequantize_uniform,
    deviation_range,
    find_narrow_channels,
    minmax_range,
    quantize_minmax,
    quantize_ste,
    quantize_uniform,
)
from .tiling import tile_channels, tile_grid, untile_channels
