"""Pictures of latents and of outputs."""

from .detections import collect_metadata, draw_outputs, draw_truth
from .features import draw_feature_map, draw_features
from .layout import arrange
from .tasks import draw_tasks
