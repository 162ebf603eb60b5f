"""Networks as files for edge and cloud, what each split costs, and pictures."""

from .demo import draw_images
from .halves import export_halves, find_categories, load_half, read_config, read_description
from .onnx_export import check_onnx, export_onnx
from .split_costs import SplitCost, fastest_ranges, measure_splits
