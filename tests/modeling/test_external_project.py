"""Another Detectron2 project, with a network, a backbone and a split of its own."""

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
from d2_featcomp.modeling import FEATURE_SPLIT_REGISTRY, FeatureSplit


@BACKBONE_REGISTRY.register()
class ForeignBackbone(Backbone):
    def __init__(self, cfg, input_shape):
        super().__init__()
        self.fine = nn.Conv2d(3, 6, 4, stride=4)
        self.coarse = nn.Conv2d(6, 6, 2, stride=2)

    @property
    def size_divisibility(self):
        return 8

    def output_shape(self):
        return {"fine": ShapeSpec(channels=6, stride=4), "coarse": ShapeSpec(channels=6, stride=8)}

    def forward(self, x):
        fine = self.fine(x)
        return {"fine": fine, "coarse": self.coarse(fine)}


@META_ARCH_REGISTRY.register()
class ForeignClassifier(nn.Module):
    def __init__(self, cfg):
        super().__init__()
        self.backbone = build_backbone(cfg)
        self.head = nn.Linear(12, 5)
        self.register_buffer("pixel_mean", torch.full((3, 1, 1), 128.0))
        self.register_buffer("pixel_std", torch.full((3, 1, 1), 64.0))

    def forward(self, batched_inputs):
        images = [(x["image"] - self.pixel_mean) / self.pixel_std for x in batched_inputs]
        sides = [max(i.shape[k] for i in images) for k in (-2, -1)]
        sides = [-(-side // 8) * 8 for side in sides]
        padded = [
            nn.functional.pad(i, (0, sides[1] - i.shape[-1], 0, sides[0] - i.shape[-2])) for i in images
        ]
        features = self.backbone(torch.stack(padded))
        pooled = torch.cat([features[k].mean((2, 3)) for k in ("fine", "coarse")], dim=1)
        scores = self.head(pooled)
        if self.training:
            labels = torch.tensor([x["label"] for x in batched_inputs])
            return {"loss_label": nn.functional.cross_entropy(scores, labels)}
        return [{"scores": s} for s in scores.softmax(dim=1)]


@META_ARCH_REGISTRY.register()
class ForeignPadding(ForeignClassifier):
    """Pads more than its backbone asks for, as Panoptic-DeepLab and Mask2Former do."""

    size_divisibility = 32

    def forward(self, batched_inputs):
        images = [(x["image"] - self.pixel_mean) / self.pixel_std for x in batched_inputs]
        images = ImageList.from_tensors(images, self.size_divisibility)
        fine = self.backbone(images.tensor)["fine"]
        fine = nn.functional.interpolate(fine, size=images.tensor.shape[-2:])
        return [
            {"map": x[:, : size[0], : size[1]]} for x, size in zip(fine, images.image_sizes, strict=True)
        ]


class VersionedHead(nn.Linear):
    """Takes weights of its first version by the name that they had, as heads of Mask2Former do."""

    _version = 2

    def _load_from_state_dict(self, state_dict, prefix, local_metadata, *others):
        if local_metadata.get("version", 1) < 2:
            state_dict[f"{prefix}weight"] = state_dict.pop(f"{prefix}old_weight", None)
        super()._load_from_state_dict(state_dict, prefix, local_metadata, *others)


@FEATURE_SPLIT_REGISTRY.register()
class ForeignSplit(FeatureSplit):
    """Sends the coarse map alone."""

    def __init__(self, cfg, backbone):
        super().__init__()
        self.guess = nn.Conv2d(6, 6, 1)

    def reduce(self, features):
        return [features["coarse"]]

    def restore(self, tensors, image_size):
        fine = nn.functional.interpolate(self.guess(tensors[0]), scale_factor=2)
        return {"fine": fine, "coarse": tensors[0]}

    def reduced_shapes(self, image_size):
        return [(6, image_size[0] // 8, image_size[1] // 8)]


def foreign_config(split):
    cfg = networks.own_config("ForeignClassifier", "ForeignBackbone", split)
    cfg.MODEL.FEATCOMP.SSFC.CHANNELS = 4
    return cfg


def check(split, latent_channels):
    torch.manual_seed(0)
    model = build_model(foreign_config(split))
    assert isinstance(model.network, ForeignClassifier)
    records = [
        {"image": torch.rand(3, 24, 40) * 255, "label": 3, "height": 24, "width": 40},
        {"image": torch.rand(3, 30, 17) * 255, "label": 1, "height": 30, "width": 17},
    ]
    losses = model.train()(records)
    assert set(losses) == {"loss_label"}
    losses["loss_label"].backward()
    assert model.backbone.backbone.coarse.weight.grad.abs().sum() > 0
    outputs = model.eval()(records)
    assert [output["bitstream"].description.shapes[0] for output in outputs] == [
        (latent_channels, 3, 5),
        (latent_channels, 4, 3),
    ]
    for record, output in zip(records, outputs, strict=True):
        data = model.edge_inference([record])[0].to_bytes()
        (again,) = model.cloud_inference([FeatureBitstream.from_bytes(data)])
        assert torch.equal(again["scores"], output["scores"])
        torch.testing.assert_close(output["scores"].sum(), torch.tensor(1.0))


def test_sizes_that_the_cloud_could_not_know_are_refused(monkeypatch):
    """Those of a backbone that rounds down, and does not say so."""
    model = build_model(foreign_config("MSFC")).eval()
    monkeypatch.setattr(ForeignBackbone, "size_divisibility", 0)
    model.edge_inference([{"image": torch.zeros(3, 24, 40)}])
    with pytest.raises(ValueError, match=r"30 x 17 .*\(4, 3, 2\).* expects .*\(4, 4, 3\).*size_divisib"):
        model.edge_inference([{"image": torch.zeros(3, 30, 17)}])


def test_own_network_with_msfc():
    check("MSFC", latent_channels=4)


def test_own_network_with_own_split():
    check("ForeignSplit", latent_channels=6)


def test_a_network_may_pad_images_in_its_own_way():
    cfg = networks.own_config("ForeignPadding", "ForeignBackbone", "PyramidSplit")
    cfg.MODEL.FEATCOMP.CODEC.NAME, cfg.MODEL.FEATCOMP.CODEC.BITS = "raw", 32
    model = build_model(cfg).eval()
    plain = ForeignPadding(cfg).eval()
    plain.load_state_dict(model.state_dict())
    records = [{"image": torch.rand(3, 24, 40) * 255}, {"image": torch.rand(3, 30, 17) * 255}]
    with torch.no_grad():
        expected = [plain([record])[0]["map"] for record in records]
    found = model(records)
    assert [output["bitstream"].sizes.padded for output in found] == [(32, 64), (32, 32)]
    for output, wanted in zip(found, expected, strict=True):
        assert torch.equal(output["map"], wanted)
    before = model.fingerprint()
    cfg.MODEL.FEATCOMP.TASK_NETWORK = "ForeignClassifier"  # which pads less
    other = build_model(cfg).eval()
    other.load_state_dict(model.state_dict())
    assert other.fingerprint() != before


def test_versions_of_weights_are_those_of_the_plain_network():
    """In either direction, and however often; else heads would take weights for those of old ones."""
    cfg = foreign_config("MSFC")
    cut, again, plain = build_model(cfg), build_model(cfg), ForeignClassifier(cfg)
    for network in (cut.network, again.network, plain):
        network.head = VersionedHead(12, 5)
    states = plain.state_dict(), cut.state_dict(), cut.state_dict()
    for state, other in zip(states, (cut, plain, again), strict=True):
        for _time in range(2):
            absent = other.load_state_dict(state, strict=False).missing_keys
            assert not [name for name in absent if not name.startswith("feature_split.")]
        assert state._metadata["head"]["version"] == 2
        assert state._metadata["backbone.fine"]["version"] == 1
    assert torch.equal(again.head.weight, plain.head.weight)
    assert list(cut.state_dict(destination={})) == list(cut.state_dict())  # which holds no versions
