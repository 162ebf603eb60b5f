import pytest

from d2_featcomp.engine import setup_config
from d2_featcomp.engine.loss_weights import build_loss_weight_hooks
from d2_featcomp.modeling import UncertaintyWeighting


@pytest.mark.parametrize("value", ["iteration", "step"])
def test_both_names_of_an_update_in_each_iteration_are_accepted(value):
    cfg = setup_config("", ["MODEL.MULTI_TASK.LOSS_WEIGHTS.UPDATE", value])
    (hook,) = build_loss_weight_hooks(cfg, UncertaintyWeighting({"depth": "regression"}))
    assert (hook._period, hook._optimizer.defaults["lr"]) == (1, 0.001)
