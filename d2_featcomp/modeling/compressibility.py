"""The compressibility loss of what is sent, for any network that is cut.

Alvar and Bajic, "Multi-Task Learning with Compressible Features for Collaborative Intelligence", ICIP
2019.
"""

import torch

from ..ops import FLOAT_BITS, compressibility_loss

__all__ = ["Compressibility", "build_compressibility"]

UNITS = ("features", "steps")


class Compressibility:
    """L_r of tensors that will be coded.

    Args:
        weight (float): positive, of the loss among others of fixed weight.
        units (str): what the tensors are measured in, "features" (the paper: as they are) or "steps" (of
            the quantizer that will code them; then it does not help to make all features smaller).

    Raises:
        ValueError: one of them is out of range.
    """

    def __init__(self, *, weight, units="features"):
        if not weight > 0:
            raise ValueError(
                f"MODEL.FEATCOMP.COMPRESSIBILITY.WEIGHT is {weight}: it must be positive, or 0 for "
                "no such loss"
            )
        if units not in UNITS:
            raise ValueError(
                f"MODEL.FEATCOMP.COMPRESSIBILITY.UNITS is {units!r}: choose one of "
                f"{', '.join(map(repr, UNITS))}"
            )
        self.weight = weight
        self.units = units

    def __call__(self, tensors, feature_codec):
        """
        Args:
            tensors (list[Tensor]): each (N, C, H, W) float.
            feature_codec (FeatureCodec): that will code them.

        Returns:
            Tensor: scalar, the mean over all elements of all tensors.
        """
        if self.units == "steps":
            tensors = [x / _step(x, feature_codec) for x in tensors]
        total = sum(compressibility_loss(x) * x.numel() for x in tensors)
        return total / sum(x.numel() for x in tensors)

    def weigh(self, losses):
        """{name: loss} -> {name: loss times the weight}."""
        return {name: self.weight * loss for name, loss in losses.items()}


def _step(x, feature_codec):
    """Of the quantizer: (N, 1 or C, 1, 1), or a float. Gradients flow, so that the scale of the features
    makes no difference."""
    if feature_codec.quantizer == "fixed":
        low, high = feature_codec.value_range
        extent = high - low
    else:
        dims = (2, 3) if feature_codec.quantizer == "channel" else (1, 2, 3)
        x = x.float()
        extent = x.amax(dim=dims, keepdim=True) - x.amin(dim=dims, keepdim=True)
        extent = torch.where(extent > 0, extent, 1.0)
    bits = 8 if feature_codec.bits == FLOAT_BITS else feature_codec.bits
    return extent / (2**bits - 1)


def build_compressibility(cfg):
    """
    Args:
        cfg (CfgNode): with the keys of :func:`add_featcomp_config`.

    Returns:
        Compressibility or None: as `MODEL.FEATCOMP.COMPRESSIBILITY` says; None for weight 0.
    """
    settings = cfg.MODEL.FEATCOMP.COMPRESSIBILITY
    if not settings.WEIGHT:
        return None
    return Compressibility(weight=settings.WEIGHT, units=settings.UNITS)
