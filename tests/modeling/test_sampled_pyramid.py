"""The pyramid is computed only where a split samples it."""

import pytest
import torch
from detectron2.modeling import FPN, build_model
from detectron2.modeling.backbone import Backbone
from torch import nn

from d2_featcomp.modeling.acceleration.sampled_pyramid import sampled_pyramid
from d2_featcomp.modeling.splits.resampling import align_size

LEVELS = ("p2", "p3", "p4", "p5")


class Strided(Backbone):
    """One convolution a stage, so that every value of the pyramid matters."""

    def __init__(self):
        super().__init__()
        self.stages = nn.ModuleList(
            nn.Conv2d(3 if k == 0 else 4, 4, 4 if k == 0 else 2, stride=4 if k == 0 else 2)
            for k in range(4)
        )
        self._out_features = [f"res{k}" for k in range(2, 6)]
        self._out_feature_channels = dict.fromkeys(self._out_features, 4)
        self._out_feature_strides = {f"res{k}": 2**k for k in range(2, 6)}

    def forward(self, x):
        found = {}
        for name, stage in zip(self._out_features, self.stages, strict=True):
            found[name] = x = stage(x)
        return found


def pyramid_network(norm="", fuse_type="sum"):
    torch.manual_seed(0)
    network = FPN(Strided(), Strided()._out_features, 8, norm=norm, fuse_type=fuse_type).eval()
    for name, value in network.named_buffers():
        if name.endswith(("running_mean", "running_var")):
            value.uniform_(0.5, 1.5)
    return network


@pytest.mark.parametrize("norm", ["", "BN", "FrozenBN"])
@pytest.mark.parametrize("fuse_type", ["sum", "avg"])
@pytest.mark.parametrize("stride", [4, 8, 16, 32])
@pytest.mark.parametrize("size", [(32, 64), (160, 96)])
@torch.no_grad()
def test_a_sampled_pyramid_is_the_pyramid_where_it_is_sampled(norm, fuse_type, stride, size):
    network = pyramid_network(norm, fuse_type).double()
    images = torch.randn(2, 3, *size).double()
    whole = network(images)
    found = sampled_pyramid(network, images, stride, LEVELS)
    assert found.keys() == set(LEVELS)
    for name, level in whole.items():
        target = tuple(side // stride for side in size)
        wanted = align_size(level, target) if level.shape[-1] > target[1] else level
        torch.testing.assert_close(found[name], wanted, rtol=1e-12, atol=1e-12)
    assert sampled_pyramid(network, images, stride, ("p3",)).keys() == {"p3"}


def test_other_pyramids_are_computed_whole():
    images = torch.zeros(1, 3, 64, 64)
    # In training, statistics would be of fewer values.
    assert sampled_pyramid(pyramid_network("BN").train(), images, 32, LEVELS) is None
    network = pyramid_network()
    assert sampled_pyramid(network.train(), images, 32, LEVELS) is not None
    assert sampled_pyramid(network.eval(), images, 32, ("p6",)) is None
    assert sampled_pyramid(network, images[..., :-8], 32, LEVELS) is None  # not padded
    # Group norm mixes what a level holds everywhere.
    network.lateral_convs[0].norm = nn.GroupNorm(2, 8)
    assert sampled_pyramid(network, images, 32, LEVELS) is None
    assert sampled_pyramid(Strided().eval(), images, 32, LEVELS) is None


@pytest.mark.parametrize("freeze", [False, True])
def test_training_on_a_sampled_pyramid_is_the_same(small_config, make_record, freeze):
    records = [make_record(128, 192), make_record(96, 128, seed=1)]
    found = []
    for whole in (False, True):
        torch.manual_seed(0)
        overrides = {"MODEL__FEATCOMP__FREEZE_TASK_NETWORK": freeze}
        network = build_model(small_config(MODEL__RESNETS__NORM="FrozenBN", **overrides)).train()
        network._accelerates_training = not whole
        called = []
        network.backbone.backbone.register_forward_hook(lambda *args, called=called: called.append(1))
        torch.manual_seed(1)
        losses = network(records)
        sum(losses.values()).backward()
        assert bool(called) == whole  # the sampled one never runs the whole pyramid
        gradients = {
            name: parameter.grad
            for name, parameter in network.named_parameters()
            if parameter.grad is not None
        }
        found.append(({key: value.detach() for key, value in losses.items()}, gradients))
    (fast, fast_gradients), (slow, slow_gradients) = found
    torch.testing.assert_close(fast, slow, rtol=1e-4, atol=1e-5)
    assert fast_gradients.keys() == slow_gradients.keys() and len(fast_gradients) > 5
    for name, gradient in fast_gradients.items():
        norm = slow_gradients[name].norm()
        assert (gradient - slow_gradients[name]).norm() <= 1e-3 * norm + 1e-7, name
