"""Networks as files for edge and cloud, what each split costs, and pictures."""

from .demo import draw_images
from .halves import export_halves, load_half
from .onnx_export import check_onnx, export_onnx
from .split_costs import SplitCost, fastest_ranges, measure_splits
