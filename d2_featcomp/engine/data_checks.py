"""Looks at the data of a training before its first training stage."""

from ..data.mappers import train_dicts
from ..data.requirements import load_records
from ..evaluation.build import build_task_evaluators
from .importance import make_label_config
from .split_start import weights_components

__all__ = ["check_data"]


def check_data(stages):
    """Finds what would end a later stage or its evaluation, before time is spent on the first.

    Args:
        stages (list[CfgNode]): configs of the stages of one training, of the same data sets.

    Raises:
        ValueError: see :func:`train_dicts` and :func:`build_evaluator`. OSError: a data set is missing.
    """
    # What the network's own losses need holds for the stages that use them; one of them is looked at.
    chosen = max(stages, key=_uses_task_losses)
    train_dicts(make_label_config(chosen) if _uses_task_losses(chosen) else chosen)
    if stages[-1].TEST.EVAL_PERIOD >= 0:
        for name in stages[-1].DATASETS.TEST:
            load_records([name], filter_empty=False)  # sets what metadata its evaluators need
            build_task_evaluators(stages[-1], name)


def _uses_task_losses(cfg):
    settings = cfg.MODEL.FEATCOMP
    weights_channels = weights_components(cfg) or settings.TRAIN.STEP2.IMPORTANCE_IMAGES > 0
    if not settings.ENABLED or settings.LOSS != "distill":
        return True
    return settings.FREEZE_TASK_NETWORK and weights_channels
