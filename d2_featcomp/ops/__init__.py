"""Functions on tensors, and sums over them: no configuration, no input or output.

What needs PyTorch is imported when it is asked for.
"""

from typing import TYPE_CHECKING

from ..lazy_names import make_lazy_getattr
from .bit_depths import BIT_DEPTHS, FLOAT_BITS, check_bits
from .tiling import tile_channels, tile_grid, untile_channels

if TYPE_CHECKING:
    from .needs_torch import *

__getattr__ = make_lazy_getattr(__name__)
