"""Features that are sent as they are, and trained to be compressible.

Alvar and Bajic, "Multi-Task Learning with Compressible Features for Collaborative Intelligence", ICIP
2019, sec. 2.1.
"""

from detectron2.config import configurable

from .base import FEATURE_SPLIT_REGISTRY
from .pyramid import Pyramid
from .stand_in import find_stand_in

__all__ = ["QLayer"]


@FEATURE_SPLIT_REGISTRY.register()
class QLayer(Pyramid):
    """Sends the backbone's features, each quantized between its minimum and maximum. In training
    something stands in for that, so that the whole network is trained for it; there is nothing else to
    train.

    Args:
        shapes, pooled: see :class:`Pyramid`.
        train_quantization (str): "noise" (the paper), "ste" or "none".
        bits (int): n.

    Raises:
        ValueError: an unknown `train_quantization`.
    """

    trains_from_scratch = True

    @configurable
    def __init__(self, *, shapes, pooled, train_quantization, bits):
        super().__init__(shapes=shapes, pooled=pooled)
        self._stand_in = find_stand_in(train_quantization)
        self.bits = bits

    @classmethod
    def from_config(cls, cfg, backbone):
        return {
            **super().from_config(cfg, backbone),
            "train_quantization": cfg.MODEL.FEATCOMP.TRAIN_QUANTIZATION,
            "bits": cfg.MODEL.FEATCOMP.CODEC.BITS,
        }

    def stand_in(self, tensors):
        return [self._stand_in(x, self.bits, *_ranges(x)) for x in tensors]


def _ranges(x):
    """(low, high) of each image, (N, 1, 1, 1), without gradient."""
    x = x.detach()
    return x.amin(dim=(1, 2, 3), keepdim=True), x.amax(dim=(1, 2, 3), keepdim=True)
