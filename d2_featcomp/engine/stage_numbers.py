"""Numbers of a training in stages that cannot be, found before the first stage."""

import math

__all__ = ["require_stage_numbers"]


def require_stage_numbers(cfg, stages):
    """Refuses lengths, learning rates and the like by which a stage would fail, or go uphill.

    Args:
        cfg (CfgNode): with the keys of :func:`add_featcomp_config`.
        stages (sequence[int]): that run, of 1 to 4.

    Raises:
        ValueError: one of them is too small, or no number.
    """
    _require_count(cfg, "SOLVER.IMS_PER_BATCH", 1)
    _require_count(cfg, "SOLVER.CHECKPOINT_PERIOD", 1)
    for stage in stages:
        settings = f"MODEL.FEATCOMP.TRAIN.STEP{stage}"
        # Stage 2 may leave the split as it starts, stage 4 an entropy model as it was trained before.
        _require_count(cfg, f"{settings}.MAX_ITER", 0 if stage in (2, 4) else 1)
        _require_rate(cfg, f"{settings}.BASE_LR")
        if stage == 4:
            _require_count(cfg, f"{settings}.IMAGES", 1)
            _require_count(cfg, f"{settings}.IMS_PER_BATCH", 1)
    if {2, 3} & set(stages):
        _require_rate(cfg, "MODEL.FEATCOMP.TRAIN.ENTROPY_LR")


def _require_count(cfg, key, least):
    value = _read(cfg, key)
    if value < least:
        raise ValueError(f"{key} is {value}: it must be {least} or more")


def _require_rate(cfg, key):
    value = _read(cfg, key)
    if not (value > 0 and math.isfinite(value)):
        raise ValueError(f"{key} is {value}: it must be a number above 0")


def _read(cfg, key):
    for name in key.split("."):
        cfg = cfg[name]
    return cfg
