"""What splits know of a feature pyramid, and the anchor that codes every level of it as it is."""

import torch.nn.functional as F
from detectron2.config import configurable
from detectron2.modeling.backbone.fpn import LastLevelMaxPool

from .base import FEATURE_SPLIT_REGISTRY, FeatureSplit
from .resampling import compute_level_size

__all__ = ["PyramidSplit", "find_coded_levels", "find_pyramid", "pool_levels"]


def _top_levels(backbone):
    """Counts the output levels that the backbone's top block adds; tells whether it pools them (p6 of
    FPN)."""
    top_block = getattr(backbone, "top_block", None)
    if top_block is None:
        return 0, True
    return top_block.num_levels, isinstance(top_block, LastLevelMaxPool)


def find_pyramid(backbone, split):
    """Reads what a split has to know of a feature pyramid.

    Args:
        backbone (Backbone): it gives the pyramid.
        split (str): name of the split, for the message.

    Returns:
        (list[str], list[int], int, int, bool): names and strides of all levels, fine to coarse; how many
        of them, from the finest, are not made of the others; C; whether these others are pooled.

    Raises:
        ValueError: there are not two or more levels of equal width.
    """
    shapes = sorted(backbone.output_shape().items(), key=lambda item: item[1].stride)
    names, strides = [name for name, _ in shapes], [shape.stride for _, shape in shapes]
    widths = {shape.channels for _, shape in shapes}
    top, pool_top = _top_levels(backbone)
    fused = len(names) - top
    if len(widths) != 1 or fused < 2:
        raise ValueError(
            f"MODEL.FEATCOMP.SPLIT {split} needs a feature pyramid: two or more levels of equal "
            f"width. This backbone gives { {n: (s.channels, s.stride) for n, s in shapes} }"
        )
    return names, strides, fused, widths.pop(), pool_top


def find_coded_levels(backbone):
    """Finds the levels of a pyramid that have to be coded, if none is computed from another.

    Args:
        backbone (Backbone): it gives the pyramid.

    Returns:
        (dict[str, ShapeSpec], dict[str, str]): shapes of these levels, fine to coarse; of those that are
        pooled, the level below each.
    """
    shapes = dict(sorted(backbone.output_shape().items(), key=lambda item: item[1].stride))
    top, pool_top = _top_levels(backbone)
    names = list(shapes)
    coded = len(names) - (top if pool_top else 0)
    pooled = dict(zip(names[coded:], names[coded - 1 : -1], strict=True))
    return {name: shapes[name] for name in names[:coded]}, pooled


def pool_levels(features, pooled):
    """Adds the levels that are pooled from the one below.

    Args:
        features (dict[str, Tensor]): the other levels, each (N, C, H, W) float; changed in place.
        pooled (dict[str, str]): see :func:`find_coded_levels`.

    Returns:
        dict[str, Tensor]: `features`.
    """
    for name, source in pooled.items():
        features[name] = F.max_pool2d(features[source], kernel_size=1, stride=2)
    return features


@FEATURE_SPLIT_REGISTRY.register()
class PyramidSplit(FeatureSplit):
    """Codes p2..p5, each quantized with a range of its own, tiled and coded by itself: the anchor of
    MSFC sec. 4, which leaves these details open.

    Levels that a pooling top block adds (p6 of FPN) are pooled again in the cloud; levels that it
    computes by convolution (p6 and p7 of RetinaNet) are coded too. Nothing in it is trained.

    Args:
        shapes (dict[str, ShapeSpec]): of the levels that are coded, fine to coarse.
        pooled (dict[str, str]): pooled level -> the level below it.
    """

    codec_defaults = {"ordered": False}

    @configurable
    def __init__(self, *, shapes, pooled):
        super().__init__()
        self.shapes = dict(shapes)
        self.pooled = dict(pooled)

    @classmethod
    def from_config(cls, cfg, backbone):
        shapes, pooled = find_coded_levels(backbone)
        return {"shapes": shapes, "pooled": pooled}

    def reduce(self, features):
        return [features[name] for name in self.shapes]

    def restore(self, y_hats, image_size, step_sizes=None):
        return pool_levels(dict(zip(self.shapes, y_hats, strict=True)), self.pooled)

    def reduced_shapes(self, image_size):
        return [
            (shape.channels, *compute_level_size(image_size, shape.stride))
            for shape in self.shapes.values()
        ]
