"""Updates of trained loss weights: once an epoch, as in the MTL paper, or every step."""

import math

import torch
from detectron2.data import DatasetCatalog
from detectron2.engine import HookBase
from detectron2.utils import comm

from ..modeling import UncertaintyWeighting

__all__ = ["LossWeightUpdate", "build_loss_weight_hooks"]


class LossWeightUpdate(HookBase):
    """Every `period` iterations: one step of Adam on the logarithms of the weights, with the gradient of
    eq. 6 averaged over these iterations and over all processes.

    The gradient, w L - 1/2, is computed from the losses, so that mixed precision does not scale it.

    Args:
        weighting (UncertaintyWeighting): taken out of autograd.
        period (int): iterations between updates.
        learning_rate (float): of Adam.
    """

    def __init__(self, weighting, *, period, learning_rate):
        self._weighting = weighting.requires_grad_(False)
        self._period = period
        self._parameters = list(weighting.log_weights.values())
        self._optimizer = torch.optim.Adam(self._parameters, lr=learning_rate)
        self._sums = torch.zeros(len(self._parameters), dtype=torch.float64)
        self._count = 0

    def after_step(self):
        latest = self._weighting.latest
        losses = torch.tensor([float(latest[name]) for name in self._weighting.log_weights])
        if torch.isfinite(losses).all():  # mixed precision skips steps that overflow
            self._sums += losses
            self._count += 1
        if (self.trainer.iter + 1) % self._period == 0:
            self._update()

    def _update(self):
        parts = comm.all_gather((self._sums, self._count))
        count = sum(part[1] for part in parts)
        if count:
            means = sum(part[0] for part in parts) / count
            names = self._weighting.log_weights.keys()
            gradients = self._weighting.gradient(dict(zip(names, means.tolist(), strict=True)))
            for name, parameter in self._weighting.log_weights.items():
                parameter.grad = torch.full_like(parameter, gradients[name])
            self._optimizer.step()
        self._sums.zero_()
        self._count = 0

    def state_dict(self):
        return {"optimizer": self._optimizer.state_dict(), "sums": self._sums, "count": self._count}

    def load_state_dict(self, state):
        self._optimizer.load_state_dict(state["optimizer"])
        self._sums, self._count = state["sums"], state["count"]


def build_loss_weight_hooks(cfg, model):
    """
    Args:
        cfg (CfgNode): with the keys of :func:`add_featcomp_config`.
        model (nn.Module): its loss weights, if it has any, are taken out of autograd.

    Returns:
        list[LossWeightUpdate]: empty for a model without such weights, and for those that are fixed.

    Raises:
        ValueError: `MODEL.MULTI_TASK.LOSS_WEIGHTS.UPDATE` is unknown.
    """
    found = [module for module in model.modules() if isinstance(module, UncertaintyWeighting)]
    settings = cfg.MODEL.MULTI_TASK.LOSS_WEIGHTS
    periods = {"epoch": _iterations_an_epoch, "step": lambda cfg: 1, "never": None}
    if settings.UPDATE not in periods:
        raise ValueError(
            f"MODEL.MULTI_TASK.LOSS_WEIGHTS.UPDATE is {settings.UPDATE!r}: choose one of "
            f"{', '.join(map(repr, periods))}"
        )
    period = periods[settings.UPDATE]
    for weighting in found:
        weighting.requires_grad_(False)
    if period is None or not found:
        return []
    return [
        LossWeightUpdate(weighting, period=period(cfg), learning_rate=settings.BASE_LR)
        for weighting in found
    ]


def _iterations_an_epoch(cfg):
    images = sum(len(DatasetCatalog.get(name)) for name in cfg.DATASETS.TRAIN)
    return max(1, math.ceil(images / cfg.SOLVER.IMS_PER_BATCH))
