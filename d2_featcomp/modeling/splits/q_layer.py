"""Features that are sent as they are, and trained to be compressible.

Alvar and Bajic, "Multi-Task Learning with Compressible Features for Collaborative Intelligence", ICIP
2019, sec. 2.1.
"""

import torch
from detectron2.config import configurable
from torch import nn

from .base import FEATURE_SPLIT_REGISTRY
from .pyramid import Pyramid
from .stand_in import find_stand_in

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
class QLayer(Pyramid):
    """Sends the backbone's features, each quantized between its minimum and maximum. In training
    something stands in for that, so that the whole network is trained for it.

    Beyond the paper: with `gains` the edge multiplies each channel by a trained factor and the cloud
    divides by it. That changes no feature, but the error that quantization and a lossy codec make in it
    and the bits it takes: channels that matter less are sent more coarsely. The gains can be trained
    alone (step 2), the network frozen.

    Args:
        shapes, pooled: see :class:`Pyramid`.
        train_quantization (str): "noise" (the paper), "ste" or "none".
        bits (int): n.
        gains (bool): see above.

    Raises:
        ValueError: an unknown `train_quantization`, or another quantizer in the config.
    """

    anchor_split = "QLayer"
    trains_from_scratch = True

    @configurable
    def __init__(self, *, shapes, pooled, train_quantization, bits, gains=False):
        super().__init__(shapes=shapes, pooled=pooled)
        self._stand_in = find_stand_in(train_quantization)
        self.bits = bits
        self.gains = ChannelGains(self.shapes) if gains else None
        self.edge_modules = ("gains",) if gains else ()

    @classmethod
    def from_config(cls, cfg, backbone):
        quantizer = cfg.MODEL.FEATCOMP.CODEC.QUANTIZER
        if quantizer not in ("", "tensor"):
            raise ValueError(
                f"MODEL.FEATCOMP.CODEC.QUANTIZER is {quantizer!r}: QLayer quantizes each tensor in its "
                'own range; leave it "" or set it to tensor'
            )
        return {
            **super().from_config(cfg, backbone),
            "train_quantization": cfg.MODEL.FEATCOMP.TRAIN_QUANTIZATION,
            "bits": cfg.MODEL.FEATCOMP.CODEC.BITS,
            "gains": cfg.MODEL.FEATCOMP.CHANNEL_GAINS,
        }

    def reduce(self, features):
        if self.gains is None:
            return super().reduce(features)
        return [features[name] * self.gains.factors(name) for name in self.shapes]

    def restore(self, tensors, image_size):
        if self.gains is not None:
            levels = zip(self.shapes, tensors, strict=True)
            tensors = [x / self.gains.factors(name) for name, x in levels]
        return super().restore(tensors, image_size)

    def cloud_state(self, backbone):
        yield from self.state_dict(
            prefix="feature_split.", keep_vars=True
        ).items()  # gains, on both sides

    def stand_in(self, tensors):
        # In float32: under mixed precision a step would be finer than what the type holds.
        tensors = [x.float() for x in tensors]
        return [self._stand_in(x, self.bits, *_ranges(x)) for x in tensors]


def _ranges(x):
    """(low, high) of each image, (N, 1, 1, 1). Gradients flow: a wider range makes larger errors."""
    return x.amin(dim=(1, 2, 3), keepdim=True), x.amax(dim=(1, 2, 3), keepdim=True)
