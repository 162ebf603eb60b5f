"""Weights of several losses, trained with them.

Kendall, Gal and Cipolla, "Multi-Task Learning Using Uncertainty to Weigh Losses for Scene Geometry and
Semantics", CVPR 2018; as in eq. 6 of Alvar and Bajic, ICIP 2019.
"""

import math

import torch
from detectron2.utils.events import get_event_storage, has_event_storage
from torch import nn

__all__ = ["UncertaintyWeighting"]

KINDS = {"segmentation": 1.0, "regression": 2.0}  # k in the term log sqrt(1 / (k w))


class UncertaintyWeighting(nn.Module):
    """w L + log sqrt(1 / w) for a segmentation-type, w L + log sqrt(1 / (2 w)) for a regression-type
    loss.

    The logarithm of every w is what is trained, so that each stays positive. For fixed losses the best w
    is 1 / (2 L) in either case.

    Args:
        kinds (dict[str, str]): name of each loss -> "segmentation" or "regression".
        initial (dict[str, float] or None): first w of some of them, positive; 1 for the others.

    Attributes:
        latest (dict[str, Tensor]): the unweighted losses of the last call, scalars without gradient.

    Raises:
        ValueError: an unknown kind, or a weight that is not positive.
    """

    def __init__(self, kinds, initial=None):
        super().__init__()
        for name, kind in kinds.items():
            if kind not in KINDS:
                raise ValueError(f"loss {name!r} is of kind {kind!r}: choose one of {', '.join(KINDS)}")
        initial = {**dict.fromkeys(kinds, 1.0), **(initial or {})}
        for name, weight in initial.items():
            if not 0 < weight < math.inf:
                raise ValueError(f"the weight of loss {name!r} is {weight}: it must be positive")
        self.kinds = dict(kinds)
        self.log_weights = nn.ParameterDict(
            {name: nn.Parameter(torch.tensor(math.log(initial[name]))) for name in kinds}
        )
        self._initial = initial
        self.latest = {}

    @torch.no_grad()
    def reset(self):
        """Gives each weight its first value again."""
        for name, log_weight in self.log_weights.items():
            log_weight.fill_(math.log(self._initial[name]))

    def weights(self):
        """Returns dict[str, float]: the current w of each loss."""
        return {n: math.exp(float(log_weight.detach())) for n, log_weight in self.log_weights.items()}

    def gradient(self, losses):
        """Derivatives of the total by each log w: w L - 1/2.

        Args:
            losses (dict[str, float]): unweighted.

        Returns:
            dict[str, float]: of the losses given.
        """
        weights = self.weights()
        return {name: weights[name] * loss - 0.5 for name, loss in losses.items()}

    def forward(self, losses):
        """Applies the weights to losses.

        Args:
            losses (dict[str, Tensor]): scalars, of some or all names.

        Returns:
            dict[str, Tensor]: for each name "loss_NAME", weighted, and "penalty_NAME", the logarithm
            that keeps w from going to 0; their sum is eq. 6. Unweighted losses and weights are logged as
            "unweighted/NAME" and "loss_weight/NAME".
        """
        weighted = {}
        for name, loss in losses.items():
            log_weight = self.log_weights[name]
            weighted[f"loss_{name}"] = log_weight.exp() * loss
            weighted[f"penalty_{name}"] = -0.5 * (log_weight + math.log(KINDS[self.kinds[name]]))
            self.latest[name] = loss.detach()
            if has_event_storage():
                storage = get_event_storage()
                storage.put_scalar(f"unweighted/{name}", float(loss.detach()))
                storage.put_scalar(f"loss_weight/{name}", math.exp(float(log_weight.detach())))
        return weighted
