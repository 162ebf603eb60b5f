"""Updates of trained loss weights: once an epoch, as in the MTL paper, or every iteration."""

import copy
import math

import torch
from detectron2.engine import HookBase
from detectron2.utils import comm

from ..data.mappers import train_dicts
from ..modeling import UncertaintyWeighting

__all__ = ["LossWeightUpdate", "build_loss_weight_hooks", "reset_loss_weights"]


RATES = {"epoch": 0.05, "iteration": 0.001}  # where the config leaves it open


class LossWeightUpdate(HookBase):
    """Every `period` iterations: one update by Adam of the logarithms of the weights, with the gradient
    of eq. 6 averaged over these iterations and over all processes.

    The gradient, w L - 1/2, is computed from the losses, so that mixed precision does not scale it. Of
    an epoch in which training was resumed, what processes other than the main one had seen is lost.

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
        self._seen = {}  # name -> [sum of the losses, their number]

    def after_step(self):
        for name, loss in self._weighting.latest.items():
            loss = float(loss)
            if math.isfinite(loss):  # mixed precision skips iterations that overflow
                seen = self._seen.setdefault(name, [0.0, 0])
                seen[0] += loss
                seen[1] += 1
        if (self.trainer.iter + 1) % self._period == 0:
            self._update()

    def _update(self):
        parts = comm.all_gather(self._seen)
        means = {}
        for name in self._weighting.log_weights:
            seen = [part[name] for part in parts if name in part]
            if seen:
                means[name] = math.fsum(total for total, _ in seen) / sum(count for _, count in seen)
        self._optimizer.zero_grad()
        for name, gradient in self._weighting.gradient(means).items():
            parameter = self._weighting.log_weights[name]
            parameter.grad = torch.full_like(parameter, gradient)
        self._optimizer.step()
        self._seen = {}

    def state_dict(self):
        return {"optimizer": self._optimizer.state_dict(), "seen": self._seen}

    def load_state_dict(self, state):
        self._optimizer.load_state_dict(state["optimizer"])
        self._seen = copy.deepcopy(state["seen"]) if comm.is_main_process() else {}


def build_loss_weight_hooks(cfg, model):
    """Builds the hooks that update trained loss weights.

    Args:
        cfg (CfgNode): with the keys of :func:`add_featcomp_config`.
        model (nn.Module): its loss weights, if it has any, are taken out of autograd.

    Returns:
        list[LossWeightUpdate]: empty for a model without such weights, for those that are fixed, and
        where the task network is frozen.

    Raises:
        ValueError: `MODEL.MULTI_TASK.LOSS_WEIGHTS.UPDATE` is unknown.
    """
    found = [module for module in model.modules() if isinstance(module, UncertaintyWeighting)]
    settings = cfg.MODEL.MULTI_TASK.LOSS_WEIGHTS
    periods = {"epoch": _iterations_an_epoch, "iteration": lambda cfg: 1, "never": None}
    update = "iteration" if settings.UPDATE == "step" else settings.UPDATE  # its earlier name
    if update not in periods:
        raise ValueError(
            f"MODEL.MULTI_TASK.LOSS_WEIGHTS.UPDATE is {settings.UPDATE!r}: choose one of "
            f"{', '.join(map(repr, periods))}"
        )
    period = periods[update]
    for weighting in found:
        weighting.requires_grad_(False)
    if period is None or not found or cfg.MODEL.FEATCOMP.FREEZE_TASK_NETWORK:
        return []
    rate = RATES[update] if settings.BASE_LR is None else settings.BASE_LR
    return [LossWeightUpdate(weighting, period=period(cfg), learning_rate=rate) for weighting in found]


def reset_loss_weights(model):
    """Gives the loss weights of a model, if it has any, the values that its config says."""
    for module in model.modules():
        if isinstance(module, UncertaintyWeighting):
            module.reset()


def _iterations_an_epoch(cfg):
    return max(1, math.ceil(len(train_dicts(cfg)) / cfg.SOLVER.IMS_PER_BATCH))
