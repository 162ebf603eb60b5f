"""What of this package runs whole networks, which needs PyTorch."""

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
