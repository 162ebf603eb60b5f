"""All features at a split point inside the backbone, as they are."""

from detectron2.config import configurable

from ..split_point import InsideLayer
from .base import FEATURE_SPLIT_REGISTRY, FeatureSplit
from .resampling import compute_level_size

__all__ = ["IntermediateLayerSplit"]


@FEATURE_SPLIT_REGISTRY.register()
class IntermediateLayerSplit(FeatureSplit):
    """Codes all features at a split point inside the backbone as they are: after a layer's activation,
    or after a stage. What BaF is compared with; nothing in it is trained.

    Args:
        shapes (dict[str, ShapeSpec]): channels and stride of each feature.
    """

    defaults = {"split_point": "layer"}
    codec_defaults = {"ordered": False}

    @configurable
    def __init__(self, *, shapes):
        super().__init__()
        self.shapes = dict(shapes)

    @classmethod
    def from_config(cls, cfg, backbone):
        if hasattr(backbone, "list_split_layers"):  # the whole backbone
            backbone = InsideLayer(backbone, cfg.MODEL.FEATCOMP.LAYER, activated=True)
        return {"shapes": backbone.output_shape()}

    def reduce(self, features):
        return [features[name] for name in self.shapes]

    def restore(self, y_hats, image_size, step_sizes=None):
        return dict(zip(self.shapes, y_hats, strict=True))

    def reduced_shapes(self, image_size):
        return [
            (shape.channels, *compute_level_size(image_size, shape.stride))
            for shape in self.shapes.values()
        ]
