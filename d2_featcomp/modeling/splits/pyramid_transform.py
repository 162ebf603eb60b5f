"""Transform coding of a feature pyramid: a latent for each level.

Shape shorthand in this module:
    N: images of a batch; h, w: height and width of the padded images; C: channels of every pyramid
    level; C'_k: channels of the latent of level p_k; s_k: its stride
"""

import fvcore.nn.weight_init as weight_init
import torch
from detectron2.config import configurable
from detectron2.layers import Conv2d
from torch import nn

from ...ops import ChannelMoments
from .base import FEATURE_SPLIT_REGISTRY, FeatureSplit
from .pyramid import find_coded_levels, pool_levels
from .resampling import compute_level_size

__all__ = ["PyramidTransform"]

# The range of the latents, in deviations of the component that varies most.
_RANGE = 4.0


@FEATURE_SPLIT_REGISTRY.register()
class PyramidTransform(FeatureSplit):
    """Transforms every level of a pyramid by itself, by a 1 x 1 convolution to C'_k channels on the edge
    and one back in the cloud.

    Nothing is fused, as MSFC does: a coarse level takes as many symbols as it has positions, and every
    component is as exact as any other. Made for networks whose features few components do not hold, and
    which are not trained to be split.

    Levels that a pooling top block adds (p6 of FPN) are pooled again in the cloud.

    Args:
        shapes (dict[str, ShapeSpec]): of the levels that are coded, fine to coarse.
        pooled (dict[str, str]): pooled level -> the level below it.
        channels (sequence[int]): C'_k of each coded level.
    """

    codec_defaults = {"quantizer": "fixed", "value_range": (-1.0, 1.0), "ordered": False}

    @configurable
    def __init__(self, *, shapes, pooled, channels):
        super().__init__()
        self.shapes = dict(shapes)
        self.pooled = dict(pooled)
        self.channels = list(channels)
        self.encoders, self.decoders = nn.ModuleDict(), nn.ModuleDict()
        for (name, shape), count in zip(self.shapes.items(), self.channels, strict=True):
            self.encoders[name] = _conv(shape.channels, count)
            self.decoders[name] = _conv(count, shape.channels)

    @classmethod
    def from_config(cls, cfg, backbone):
        shapes, pooled = find_coded_levels(backbone)
        channels, levels = list(cfg.MODEL.FEATCOMP.PYRAMID_TRANSFORM.CHANNELS), ", ".join(shapes)
        if len(channels) == 1:
            channels *= len(shapes)
        if len(channels) != len(shapes):
            raise ValueError(
                f"MODEL.FEATCOMP.PYRAMID_TRANSFORM.CHANNELS has {len(channels)} numbers for the levels "
                f"{levels}: give each one, or one for all"
            )
        for count, (name, shape) in zip(channels, shapes.items(), strict=True):
            if not 1 <= count <= shape.channels:
                raise ValueError(
                    f"MODEL.FEATCOMP.PYRAMID_TRANSFORM.CHANNELS is {count} for level {name}: it must be "
                    f"1 to {shape.channels}, the level's channels"
                )
        return {"shapes": shapes, "pooled": pooled, "channels": channels}

    def reduce(self, features):
        return [self.encoders[name](features[name]) for name in self.shapes]

    def restore(self, y_hats, image_size, step_sizes=None):
        pairs = zip(self.shapes, y_hats, strict=True)
        return pool_levels({name: self.decoders[name](y_hat) for name, y_hat in pairs}, self.pooled)

    def find_image_size(self, pyramid):
        """Returns (int, int): height and width in pixels that give levels of these sizes."""
        name, shape = next(iter(self.shapes.items()))
        return tuple(side * shape.stride for side in pyramid[name].shape[-2:])

    def reduced_shapes(self, image_size):
        return [
            (count, *compute_level_size(image_size, shape.stride))
            for count, shape in zip(self.channels, self.shapes.values(), strict=True)
        ]

    @torch.no_grad()
    def start_from_components(self, pyramids, channel_weights=None):
        """Gives the convolutions weights with which they restore the features of a network as it is: on
        the edge the principal components of each level, in the cloud what restores the level best from
        them, by least squares. All components of all levels have one scale, so that equal step sizes
        make equal errors.

        Args:
            pyramids (iterable[dict[str, Tensor]]): features of one or more images each, (N, C, h / s_k,
                w / s_k) float.
            channel_weights (dict[str, Tensor] or None): of each level, (C,) float, how much an error of
                a channel counts, e.g. by `measure_channel_weights`; None lets all count alike.

        Returns:
            list[(Tensor, Tensor)]: of each latent, means and deviations of its channels, (C'_k,) float.

        Raises:
            ValueError: there are no images.
        """
        sums = {name: ChannelMoments() for name in self.shapes}
        for pyramid in pyramids:
            for name, moments in sums.items():
                moments.update(pyramid[name])
        found = {}
        for (name, moments), count in zip(sums.items(), self.channels, strict=True):
            weights = None if channel_weights is None else channel_weights[name]
            found[name] = _find_transform(moments, weights, count)
        largest = max(float(deviations[0]) for _, _, deviations, _ in found.values())
        reach = _RANGE * max(largest, 1e-12)
        latents = []
        for name, (analysis, synthesis, deviations, mean) in found.items():
            analysis, synthesis = analysis / reach, synthesis * reach
            _fill(self.encoders[name], analysis, -analysis @ mean)
            _fill(self.decoders[name], synthesis, mean)
            latents.append((torch.zeros_like(deviations), deviations / reach))
        return latents


def _find_transform(moments, weights, count):
    """Finds the first principal components of channels that count as `weights` say, (C,) or None.

    Returns:
        (Tensor, Tensor, Tensor, Tensor): matrices from channels, less their mean, to components, (count,
        C), and back, (C, count); deviations of the components, (count,), largest first; the mean of the
        channels, (C,); float32.
    """
    mean, covariance = moments.find_moments()
    scales = torch.ones_like(mean) if weights is None else weights.to(mean).sqrt()
    variances, vectors = moments.find_components(scales)
    variances, vectors = variances[:count].clamp(min=0), vectors[:, :count]
    analysis = (vectors * scales[:, None]).T
    # What varies hardly at all, or does not count, is not divided by next to nothing.
    synthesis = covariance @ analysis.T / (variances + 1e-6 * variances[0]).clamp(min=1e-24)
    return analysis.float(), synthesis.float(), variances.sqrt().float(), mean.float()


def _conv(in_channels, out_channels):
    conv = Conv2d(in_channels, out_channels, 1)
    weight_init.c2_xavier_fill(conv)
    return conv


def _fill(conv, matrix, bias):
    conv.weight.copy_(matrix[..., None, None])
    conv.bias.copy_(bias)
