"""The contract of a feature split, and its registry."""

import abc

from detectron2.utils.registry import Registry
from torch import nn

__all__ = ["FEATURE_SPLIT_REGISTRY", "FeatureSplit", "build_feature_split"]

FEATURE_SPLIT_REGISTRY = Registry("FEATURE_SPLIT")
FEATURE_SPLIT_REGISTRY.__doc__ = """
Registry of feature splits: subclasses of :class:`FeatureSplit` that can be called as
`cls(cfg, backbone)`, where `backbone` is the Detectron2 backbone that the network is cut after.
"""


class FeatureSplit(nn.Module, abc.ABC):
    """What happens to the backbone's features at the cut.

    The edge half calls :meth:`reduce` on them and sends the result; the cloud half calls
    :meth:`restore` on what it received.

    Attributes:
        edge_modules (tuple[str]): names of the sub-modules that the edge half runs.
        default_quantizer (str): see :class:`FeatureCodec`.
        value_range ((float, float)): of the "fixed" quantizer.
    """

    edge_modules = ()
    default_quantizer = "tensor"
    value_range = (-1.0, 1.0)

    @property
    def name(self):
        """str: the name in the registry and on the wire."""
        return type(self).__name__

    @abc.abstractmethod
    def reduce(self, features):
        """
        Args:
            features (dict[str, Tensor]): the backbone's output, each (N, C, H, W) float.

        Returns:
            list[Tensor]: what to quantize and send, each (N, C', H', W') float.
        """

    @abc.abstractmethod
    def restore(self, tensors, image_size):
        """
        Args:
            tensors (list[Tensor]): as :meth:`reduce` returned, or decoded from a bitstream.
            image_size ((int, int)): height and width, in pixels, of the padded images.

        Returns:
            dict[str, Tensor]: same keys and shapes as the backbone's output.
        """

    @abc.abstractmethod
    def reduced_shapes(self, image_size):
        """
        Args:
            image_size ((int, int)): height and width, in pixels, of a padded image.

        Returns:
            list[(int, int, int)]: C', H', W' of each tensor of :meth:`reduce`.
        """

    def forward(self, features, image_size):
        """In training: reduces the features, stands in for the codec, and restores them.

        Args and result are those of :meth:`reduce` and :meth:`restore`.
        """
        return self.restore(self.reduce(features), image_size)


def build_feature_split(cfg, backbone):
    """Builds the split that `cfg.MODEL.FEATCOMP.SPLIT` names.

    Args:
        cfg (CfgNode): with the keys of :func:`add_featcomp_config`.
        backbone (Backbone): the backbone that the network is cut after.

    Returns:
        FeatureSplit

    Raises:
        ValueError: no split of that name is registered, or a setting does not suit the backbone.
    """
    name = cfg.MODEL.FEATCOMP.SPLIT
    if name not in FEATURE_SPLIT_REGISTRY:
        known = ", ".join(sorted(split for split, _ in FEATURE_SPLIT_REGISTRY))
        raise ValueError(f"unknown feature split {name!r} (MODEL.FEATCOMP.SPLIT): choose one of {known}")
    return FEATURE_SPLIT_REGISTRY.get(name)(cfg, backbone)
