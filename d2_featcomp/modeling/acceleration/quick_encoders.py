"""From images to latents without what a split does not read: the same sums, fewer of them."""

from functools import partial

from ..split_point import AfterBackbone, InsideLayer
from ..splits import MSFC, BaF
from .sampled_pyramid import sampled_pyramid

__all__ = ["find_quick_encoder"]


def find_quick_encoder(split_backbone):
    """Finds a faster way to compute what a split backbone's `encode_features` does.

    Args:
        split_backbone (SplitBackbone): any.

    Returns:
        callable or None: (N, C, h, w) -> list[Tensor], with gradients; None if there is none.
    """
    split, point = split_backbone.feature_split, split_backbone.split_point
    if type(split) is MSFC and type(point) is AfterBackbone and split.msff.downsample == "nearest":
        return partial(_encode_sampled, split_backbone)
    if type(split) is BaF and type(point) is InsideLayer:
        return partial(_encode_chosen, split_backbone)
    return None


def _encode_sampled(split_backbone, images):
    """MSFF samples the pyramid, so it is computed only there."""
    split = split_backbone.feature_split
    pyramid = sampled_pyramid(split_backbone.backbone, images, split.stride, split.fused)
    if pyramid is None:
        return split_backbone.encode_features(images)
    return split.reduce(pyramid)


def _encode_chosen(split_backbone, images):
    """BaF codes some channels of a layer, so the others are not computed."""
    split, layer = split_backbone.feature_split, split_backbone.split_point.layer
    return [layer(split_backbone.backbone.compute_input(layer.number, images), split.latent_channels)]
