"""The paper's anchor: no reduction, every pyramid level is coded as it is."""

import torch.nn.functional as F
from detectron2.config import configurable

from .base import FEATURE_SPLIT_REGISTRY, FeatureSplit
from .msfc import _top_levels
from .resampling import compute_level_size

__all__ = ["PyramidSplit"]


@FEATURE_SPLIT_REGISTRY.register()
class PyramidSplit(FeatureSplit):
    """Codes p2..p5, each quantized with a range of its own, tiled and coded by itself (MSFC sec. 4).

    Levels that a pooling top block adds (p6 of FPN) are pooled again in the cloud; levels that it
    computes by convolution (p6 and p7 of RetinaNet) are coded too. Nothing in it is trained.

    Args:
        shapes (dict[str, ShapeSpec]): of the levels that are coded, fine to coarse.
        pooled (dict[str, str]): pooled level -> the level below it.
    """

    @configurable
    def __init__(self, *, shapes, pooled):
        super().__init__()
        self.shapes = dict(shapes)
        self.pooled = dict(pooled)

    @classmethod
    def from_config(cls, cfg, backbone):
        shapes = dict(sorted(backbone.output_shape().items(), key=lambda item: item[1].stride))
        top, pool_top = _top_levels(backbone)
        names = list(shapes)
        coded = len(names) - (top if pool_top else 0)
        return {
            "shapes": {name: shapes[name] for name in names[:coded]},
            "pooled": dict(zip(names[coded:], names[coded - 1 : -1], strict=True)),
        }

    def reduce(self, features):
        return [features[name] for name in self.shapes]

    def restore(self, y_hats, image_size, step_sizes=None):
        features = dict(zip(self.shapes, y_hats, strict=True))
        for name, source in self.pooled.items():
            features[name] = F.max_pool2d(features[source], kernel_size=1, stride=2)
        return features

    def reduced_shapes(self, image_size):
        return [
            (shape.channels, *compute_level_size(image_size, shape.stride))
            for shape in self.shapes.values()
        ]
