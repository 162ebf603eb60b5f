import math

import pytest
import torch

from d2_featcomp.modeling import UncertaintyWeighting

KINDS = {"segmentation": "segmentation", "disparity": "regression"}


def test_total_is_equation_6():
    weighting = UncertaintyWeighting(KINDS, {"segmentation": 0.5, "disparity": 4.0})
    found = weighting({"segmentation": torch.tensor(3.0), "disparity": torch.tensor(0.25)})
    assert set(found) == {
        "loss_segmentation",
        "penalty_segmentation",
        "loss_disparity",
        "penalty_disparity",
    }
    assert float(found["loss_segmentation"]) == pytest.approx(1.5)
    assert float(found["penalty_segmentation"]) == pytest.approx(math.log(math.sqrt(1 / 0.5)))
    assert float(found["loss_disparity"]) == pytest.approx(1.0)
    assert float(found["penalty_disparity"]) == pytest.approx(math.log(math.sqrt(1 / (2 * 4))))


def test_gradient_agrees_with_autograd():
    weighting = UncertaintyWeighting(KINDS, {"disparity": 0.3})
    sum(
        weighting({"segmentation": torch.tensor(3.0), "disparity": torch.tensor(0.25)}).values()
    ).backward()
    found = weighting.gradient({"segmentation": 3.0, "disparity": 0.25})
    for name, parameter in weighting.log_weights.items():
        assert found[name] == pytest.approx(float(parameter.grad))


def test_weights_go_to_their_optimum_and_stay_positive():
    weighting = UncertaintyWeighting(KINDS)
    optimizer = torch.optim.Adam(weighting.parameters(), lr=0.05)
    losses = {"segmentation": torch.tensor(20.0), "disparity": torch.tensor(0.01)}
    for _ in range(500):
        optimizer.zero_grad()
        sum(weighting(losses).values()).backward()
        optimizer.step()
        assert all(weight > 0 for weight in weighting.weights().values())
    assert weighting.weights() == pytest.approx({"segmentation": 1 / 40, "disparity": 50}, rel=0.05)


def test_some_of_the_losses_can_come_alone():
    weighting = UncertaintyWeighting(KINDS)
    assert set(weighting({"disparity": torch.tensor(2.0)})) == {"loss_disparity", "penalty_disparity"}
    assert weighting.latest == {"disparity": torch.tensor(2.0)}


def test_gradients_reach_the_losses():
    loss = torch.tensor(2.0, requires_grad=True)
    weighting = UncertaintyWeighting(KINDS, {"disparity": 0.3})
    sum(weighting({"disparity": loss}).values()).backward()
    assert float(loss.grad) == pytest.approx(0.3)


@pytest.mark.parametrize("weight", [0.0, -1.0, math.inf, math.nan])
def test_weights_must_be_positive(weight):
    with pytest.raises(ValueError, match=r"loss 'disparity'.*must be positive"):
        UncertaintyWeighting(KINDS, {"disparity": weight})


def test_unknown_kind():
    with pytest.raises(ValueError, match="loss 'x' is of kind 'other'"):
        UncertaintyWeighting({"x": "other"})
