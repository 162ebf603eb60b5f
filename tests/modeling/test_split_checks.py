"""What a split of one's own returns, where it is wrong."""

import networks
import pytest
import torch
from detectron2.modeling import build_model
from torch import nn
from torch.nn import functional as F

from d2_featcomp.codecs import FeatureBitstream
from d2_featcomp.evaluation.build import EVALUATOR_REGISTRY
from d2_featcomp.modeling import FEATURE_SPLIT_REGISTRY, FeatureSplit
from d2_featcomp.modeling.multi_task.heads import TASK_HEAD_REGISTRY


class Own(FeatureSplit):
    """Sends p3, in four channels."""

    codec_defaults = {"quantizer": "fixed", "value_range": (-1.0, 1.0)}

    def __init__(self, cfg, backbone):
        super().__init__()
        self.shapes = backbone.output_shape()
        channels = self.shapes["p3"].channels
        self.encoder, self.decoder = nn.Conv2d(channels, 4, 1), nn.Conv2d(4, channels, 1)

    def reduce(self, features):
        return [torch.tanh(self.encoder(features["p3"]))]

    def restore(self, y_hats, image_size, step_sizes=None):
        x = self.decoder(y_hats[0])
        return {
            name: F.interpolate(x, size=[-(-side // shape.stride) for side in image_size])
            for name, shape in self.shapes.items()
        }

    def reduced_shapes(self, image_size):
        return [(4, *(-(-side // 8) for side in image_size))]


class OtherChannels(Own):
    def reduced_shapes(self, image_size):
        return [(5, *shape[1:]) for shape in super().reduced_shapes(image_size)]


class OtherCount(Own):
    def reduced_shapes(self, image_size):
        return super().reduced_shapes(image_size) * 2


class OtherSize(Own):
    def reduced_shapes(self, image_size):
        return [(4, *(-(-side // 16) for side in image_size))]


class Dict(Own):
    def reduce(self, features):
        return {"y": super().reduce(features)[0]}


class NoList(Own):
    def reduce(self, features):
        return super().reduce(features)[0]


class Missing(Own):
    def restore(self, y_hats, image_size, step_sizes=None):
        restored = super().restore(y_hats, image_size)
        del restored["p6"]
        return restored


class Halved(Own):
    def restore(self, y_hats, image_size, step_sizes=None):
        restored = super().restore(y_hats, image_size)
        return {**restored, "p3": restored["p3"][..., ::2, ::2]}


class Cut(Own):
    def restore(self, y_hats, image_size, step_sizes=None):
        restored = super().restore(y_hats, image_size)
        return {**restored, "p2": restored["p2"][:, :, :-1]}


class Tuple(Own):
    def restore(self, y_hats, image_size, step_sizes=None):
        return tuple(super().restore(y_hats, image_size).values())


LATENTS = {
    OtherChannels: r"\[\(4, 8, 12\)\] \(OtherChannels.reduce\).* expects \[\(5, 8, 12\)\] .*: make the",
    OtherCount: r"expects \[\(4, 8, 12\), \(4, 8, 12\)\] .*\): make the two agree",
    OtherSize: r"expects \[\(4, 4, 6\)\] \(OtherSize.reduced_shapes\), by the .*size_divisibility",
    Dict: r"^Dict.reduce returned a dict: return a list of tensors$",
    NoList: r"^NoList.reduce returned a Tensor: return a list of tensors$",
}
RESTORED = {
    Missing: r"^Missing.restore returned 'p2', 'p3', 'p4', 'p5', without 'p6': return all",
    Halved: r"^Halved.restore returned 'p3' of shape \(32, 4, \d\): at the .* it has \(32, 8, \d+\)$",
    Cut: r"^Cut.restore returned 'p2' of shape \(32, 15, \d+\): at the .* it has \(32, 16, \d+\)$",
    Tuple: r"^Tuple.restore returned a tuple: return a dict of tensors$",
}


@pytest.fixture
def build():
    registered = []

    def build(split, codec="png"):
        FEATURE_SPLIT_REGISTRY.register(split)
        registered.append(split.__name__)
        cfg = networks.shrunk_config(
            MODEL__FEATCOMP__SPLIT=split.__name__, MODEL__FEATCOMP__CODEC__NAME=codec
        )
        torch.manual_seed(0)
        return build_model(cfg)

    yield build
    for name in registered:
        FEATURE_SPLIT_REGISTRY._obj_map.pop(name)


@pytest.mark.parametrize("codec", ["png", "learned"])
def test_a_right_one_passes(build, make_record, codec):
    model, record = build(Own, codec), make_record()
    sum(model.train()([record]).values()).backward()
    if codec == "png":
        data = model.eval().edge_inference([record])[0].to_bytes()
        assert model.cloud_inference([FeatureBitstream.from_bytes(data)])[0]["instances"] is not None


@pytest.mark.parametrize("split", LATENTS)
@pytest.mark.parametrize("codec", ["png", "learned"])
def test_wrong_latents_are_told_in_training_and_inference(build, make_record, split, codec):
    model = build(split, codec)
    with pytest.raises(ValueError, match=LATENTS[split]):
        model.train()([make_record()])
    if codec == "png":
        with pytest.raises(ValueError, match=LATENTS[split]):
            model.eval()([make_record()])


@pytest.mark.parametrize("split", RESTORED)
def test_wrong_features_are_told_in_training_and_inference(build, make_record, split):
    model = build(split)
    with pytest.raises(ValueError, match=RESTORED[split]):
        model.train()([make_record()])
    with pytest.raises(ValueError, match=RESTORED[split]):
        model.eval()([make_record()])


def test_inputs_of_another_kind_are_told(build, make_record):
    model, record = build(Own).eval(), make_record()
    data = model.edge_inference([record])[0].to_bytes()
    with pytest.raises(TypeError, match="edge_inference takes a list of dict, not a dict: make_input"):
        model.edge_inference(record)
    for given, found in ([data], "one of bytes"), (data, "a bytes"):
        message = f"^cloud_inference takes a list of FeatureBitstream, not {found}: .*from_bytes makes"
        with pytest.raises(TypeError, match=message):
            model.cloud_inference(given)


@pytest.mark.parametrize("registry", [FEATURE_SPLIT_REGISTRY, EVALUATOR_REGISTRY, TASK_HEAD_REGISTRY])
def test_what_a_notebook_registers_again_takes_the_place_of_the_first(registry):
    def run():
        @registry.register()
        class OfACell(Own):
            pass

        return OfACell

    try:
        first, again = run(), run()
        assert registry.get("OfACell") is again is not first
    finally:
        registry._obj_map.pop("OfACell")
