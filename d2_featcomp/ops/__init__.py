"""Functions on tensors: no configuration, no state, no input or output."""

from .quantization import (
    BIT_DEPTHS,
    FLOAT_BITS,
    add_quantization_noise,
    check_bits,
    dequantize_uniform,
    minmax_range,
    quantize_ste,
    quantize_uniform,
)
from .tiling import tile_channels, tile_grid, untile_channels
