"""Networks as files for edge and cloud, what each split costs, and pictures.

What needs PyTorch is imported when it is asked for: an edge may do without, see :class:`OnnxEdge`.
"""

from typing import TYPE_CHECKING

from ..deprecation import make_getattr
from ..lazy_names import make_lazy_getattr
from .onnx_edge import OnnxEdge

if TYPE_CHECKING:
    from .needs_torch import *

_RENAMED = {
    "export_halves": "export_sub_models",
    "fastest_ranges": "find_fastest_ranges",
    "load_half": "load_sub_model",
}

__getattr__ = make_lazy_getattr(__name__, make_getattr(__name__, _RENAMED))
