"""Features that are coded as they are, and trained to be compressible.

Alvar and Bajic, "Multi-Task Learning with Compressible Features for Collaborative Intelligence", ICIP
2019, sec. 2.1.
"""

import torch
from detectron2.config import configurable
from torch import nn

from .base import FEATURE_SPLIT_REGISTRY
from .pyramid import PyramidSplit

__all__ = ["ChannelGains", "QLayer"]


class ChannelGains(nn.ParameterDict):
    """A positive factor for each channel of each level, 1 at first; its logarithm is what is trained.

    Args:
        shapes (dict[str, ShapeSpec]): of the levels.
    """

    def __init__(self, shapes):
        super().__init__({name: torch.zeros(shape.channels) for name, shape in shapes.items()})

    def factors(self, name):
        """(C, 1, 1) of one level."""
        return self[name].exp()[:, None, None]


@FEATURE_SPLIT_REGISTRY.register()
class QLayer(PyramidSplit):
    """Codes the backbone's features, each quantized between its minimum and maximum. Training computes
    a quantization surrogate, so that the whole network is trained for it.

    Beyond the paper: with `gains` the edge multiplies each channel by a trained factor and the cloud
    divides by it. That changes no feature, but the error that quantization and a lossy codec make in it
    and the bits it takes: channels that matter less are coded more coarsely. The gains can be trained
    alone (stage 2), the network frozen.

    Args:
        shapes, pooled: see :class:`PyramidSplit`.
        gains (bool): see above.

    Raises:
        ValueError: another quantizer in the config.
    """

    defaults = {"from_scratch": True}

    @configurable
    def __init__(self, *, shapes, pooled, gains=False):
        super().__init__(shapes=shapes, pooled=pooled)
        self.gains = ChannelGains(self.shapes) if gains else None

    @classmethod
    def from_config(cls, cfg, backbone):
        quantizer = cfg.MODEL.FEATCOMP.CODEC.QUANTIZER
        if quantizer not in ("", "tensor"):
            raise ValueError(
                f"MODEL.FEATCOMP.CODEC.QUANTIZER is {quantizer!r}: QLayer quantizes each tensor in its "
                'own range; leave it "" or set it to tensor'
            )
        return {**super().from_config(cfg, backbone), "gains": cfg.MODEL.FEATCOMP.CHANNEL_GAINS}

    def reduce(self, features):
        if self.gains is None:
            return super().reduce(features)
        return [features[name] * self.gains.factors(name) for name in self.shapes]

    def restore(self, y_hats, image_size, step_sizes=None):
        if self.gains is not None:
            levels = zip(self.shapes, y_hats, strict=True)
            y_hats = [y / self.gains.factors(name) for name, y in levels]
        return super().restore(y_hats, image_size)
