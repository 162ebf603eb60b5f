"""What belongs to the edge and to the cloud, of networks that do more than those of this project."""

import networks
import pytest
import torch
from detectron2.layers import ShapeSpec
from detectron2.modeling import (
    BACKBONE_REGISTRY,
    META_ARCH_REGISTRY,
    Backbone,
    build_backbone,
    build_model,
)
from detectron2.structures import ImageList
from torch import nn

from d2_featcomp.codecs import FeatureBitstream


class Scripted(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(4, 4, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.conv(x).relu()


@BACKBONE_REGISTRY.register()
class BranchingBackbone(Backbone):
    """One that large images take another way through, and that is compiled in part."""

    def __init__(self, cfg, input_shape):
        super().__init__()
        self.first = nn.Conv2d(3, 4, 4, stride=4)
        self.of_large_images = nn.Conv2d(4, 4, 1)
        self.scripted = torch.jit.script(Scripted())

    @property
    def size_divisibility(self):
        return 4

    def output_shape(self):
        return {"y": ShapeSpec(channels=4, stride=4)}

    def forward(self, images):
        y = self.first(images)
        if images.shape[-1] > 100:
            y = self.of_large_images(y)
        return {"y": self.scripted(y)}


@META_ARCH_REGISTRY.register()
class OwnColours(nn.Module):
    """Preprocesses images by weights of its own, and keeps mean and deviation in checkpoints."""

    def __init__(self, cfg):
        super().__init__()
        self.backbone = build_backbone(cfg)
        self.colours = nn.Conv2d(3, 3, 1)
        self.head = nn.Conv2d(4, 2, 1)
        self.register_buffer("pixel_mean", torch.full((3, 1, 1), 128.0))
        self.register_buffer("pixel_std", torch.full((3, 1, 1), 64.0))

    def preprocess_image(self, batched_inputs):
        images = [(each["image"] - self.pixel_mean) / self.pixel_std for each in batched_inputs]
        return ImageList.from_tensors([self.colours(image[None])[0] for image in images], 4)

    def forward(self, batched_inputs):
        features = self.backbone(self.preprocess_image(batched_inputs).tensor)
        return [{"scores": scores} for scores in self.head(features["y"])]


@pytest.fixture
def build():
    cfg = networks.own_config("OwnColours", "BranchingBackbone", "PyramidSplit")
    cfg.MODEL.FEATCOMP.CODEC.NAME = "png"
    cfg.MODEL.FEATCOMP.CODEC.BITS = 8

    def build(seed=0):
        torch.manual_seed(seed)
        return build_model(cfg).eval()

    return build


@pytest.mark.parametrize("width", [40, 120])
def test_each_sub_model_computes_with_its_own_weights(build, width):
    records = [{"image": torch.randint(0, 256, (3, 24, width)), "height": 24, "width": width}]
    (expected,) = build()(records)
    halves = {}
    for number, half in enumerate(("edge", "cloud"), start=1):
        own = build().state_dict()
        halves[half] = build(number)
        halves[half].load_state_dict(
            {name: own[name] for name in halves[half].sub_model_names(half)}, strict=False
        )
        halves[half].keep_sub_model(half, build().fingerprint(), build().fingerprint_v1())
    (stream,) = halves["edge"].edge_inference(records)
    (found,) = halves["cloud"].cloud_inference([FeatureBitstream.from_bytes(stream.to_bytes())])
    assert stream == expected["bitstream"]
    assert torch.equal(found["scores"], expected["scores"])


def test_what_belongs_to_a_sub_model(build):
    model = build()
    own = {"edge": {"backbone.first.weight"}, "cloud": {"head.weight"}}
    both = {
        "colours.weight",
        "pixel_mean",
        "backbone.of_large_images.weight",
        "backbone.scripted.conv.weight",
    }
    for half, names in own.items():
        assert names | both <= model.sub_model_names(half)
    assert "head.weight" not in model.sub_model_names("edge")
    assert "backbone.first.weight" not in model.sub_model_names("cloud")


@pytest.mark.parametrize(
    "name", ["colours.weight", "backbone.of_large_images.weight", "backbone.scripted.conv.weight"]
)
def test_the_fingerprint_follows_what_any_image_may_need(build, name):
    model = build()
    before = model.fingerprint()
    state = model.state_dict()
    model.load_state_dict({**state, name: state[name] + 1})
    assert model.fingerprint() != before
