"""Networks as files for edge and cloud, what each split costs, and pictures."""

from ..deprecation import make_getattr
from .demo import FrameDrawer, draw_images
from .onnx_export import check_onnx, export_onnx
from .split_costs import SplitCost, find_fastest_ranges, measure_splits
from .sub_models import (
    export_sub_models,
    find_categories,
    load_sub_model,
    read_config,
    read_description,
)

_RENAMED = {
    "export_halves": "export_sub_models",
    "fastest_ranges": "find_fastest_ranges",
    "load_half": "load_sub_model",
}

__getattr__ = make_getattr(__name__, _RENAMED)
