import sys

import pytest
import torch
from detectron2.layers import ShapeSpec
from detectron2.modeling import build_backbone

from d2_featcomp.config import make_config
from d2_featcomp.modeling import TimmFeatures, TimmStages, list_split_points

timm = pytest.importorskip("timm")

# Parts that run one after the other; parts of another class; features with channels last.
SWIN = (
    ("embed_dim", 8),
    ("depths", (1, 1, 1, 1)),
    ("num_heads", (1, 1, 2, 2)),
    ("img_size", (64, 96)),
    ("window_size", 2),
)
STAGED = ["test_resnet", "test_convnext", "test_byobnet"]
NETWORKS = {
    **{name: (name, (), TimmStages) for name in STAGED},
    "test_efficientnet": ("test_efficientnet", (), TimmFeatures),
    "swin": ("swin_tiny_patch4_window7_224", SWIN, TimmFeatures),
}


def configured(name, options=(), **settings):
    cfg = make_config()
    cfg.MODEL.BACKBONE.NAME = "build_timm_backbone"
    cfg.MODEL.BACKBONE.FREEZE_AT = 0
    cfg.MODEL.TIMM.NAME = name
    cfg.MODEL.TIMM.OPTIONS = options
    for key, value in settings.items():
        cfg.merge_from_list([f"MODEL.{key.replace('__', '.')}", value])
    return cfg


@pytest.mark.parametrize("case", NETWORKS)
@torch.no_grad()
def test_features_are_those_of_timm_with_the_weights_that_it_saves(case):
    name, options, kind = NETWORKS[case]
    torch.manual_seed(0)
    published = timm.create_model(name, **dict(options)).eval()
    backbone = build_backbone(configured(name, options)).eval()
    assert type(backbone) is kind
    renamed = backbone.rename_timm_weights(published.state_dict())
    absent, superfluous = backbone.load_state_dict(renamed, strict=False)
    assert not superfluous and not [key for key in absent if "num_batches" not in key]
    image = torch.randn(1, 3, 64, 96)
    expected = published.forward_intermediates(image, intermediates_only=True)[-4:]
    found = backbone(image)
    assert list(found) == ["res2", "res3", "res4", "res5"]
    for (level, shape), y in zip(backbone.output_shape().items(), expected, strict=True):
        assert shape.stride == 2 ** int(level[-1])
        assert found[level].shape == (1, shape.channels, 64 // shape.stride, 96 // shape.stride)
        torch.testing.assert_close(found[level], y, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("case", NETWORKS)
@torch.no_grad()
def test_images_are_padded_where_features_would_lack_their_ends(case):
    """Of networks that cut an image into patches, e.g.; the cloud expects sizes that are rounded up."""
    name, options, _ = NETWORKS[case]
    backbone = build_backbone(configured(name, options)).eval()
    multiple = backbone.size_divisibility
    assert multiple == (32 if name == "test_convnext" else 0)
    if name != "swin_tiny_patch4_window7_224":  # of one size
        height, width = (-(-side // multiple) * multiple if multiple else side for side in (70, 101))
        for level, x in backbone(torch.zeros(1, 3, height, width)).items():
            stride = backbone.output_shape()[level].stride
            assert x.shape[-2:] == (-(-height // stride), -(-width // stride))


def test_weights_of_another_network_are_not_taken():
    backbone = build_backbone(configured("test_resnet"))
    for name in ("test_convnext", "test_efficientnet"):
        assert backbone.rename_timm_weights(timm.create_model(name).state_dict()) is None
    assert backbone.rename_timm_weights({}) is None


@torch.no_grad()
def test_a_pyramid_on_it_and_where_it_is_split():
    cfg = configured(
        "test_resnet",
        BACKBONE__NAME="build_timm_fpn_backbone",
        TIMM__OUT_FEATURES=["res3", "res4", "res5"],
        FPN__IN_FEATURES=["res3", "res4", "res5"],
        FPN__OUT_CHANNELS=8,
    )
    backbone = build_backbone(cfg, ShapeSpec(channels=3)).eval()
    found = backbone(torch.zeros(1, 3, 64, 96))
    assert {name: tuple(x.shape[1:]) for name, x in found.items()} == {
        "p3": (8, 8, 12),
        "p4": (8, 4, 6),
        "p5": (8, 2, 3),
        "p6": (8, 1, 2),
    }
    assert list_split_points(backbone) == ["res2", "res3", "res4", "res5", "backbone"]
    hooked = build_backbone(configured("test_efficientnet"))
    assert list_split_points(hooked) == ["backbone"]


@pytest.mark.parametrize(("norm", "expected"), [("", "BatchNorm"), ("SyncBN", "SyncBatchNorm")])
def test_norms(norm, expected):
    backbone = build_backbone(configured("test_resnet", TIMM__NORM=norm))
    kinds = {type(each).__name__ for each in backbone.modules() if "Norm" in type(each).__name__}
    assert kinds and all(kind.startswith(expected) for kind in kinds)


def test_frozen_norms_compute_the_same():
    """Those of timm that hold an activation, too."""
    image = torch.randn(1, 3, 64, 64)
    torch.manual_seed(0)
    own = build_backbone(configured("test_byobnet")).eval()
    torch.manual_seed(0)
    frozen = build_backbone(configured("test_byobnet", TIMM__NORM="FrozenBN")).train()
    assert not any(isinstance(each, torch.nn.BatchNorm2d) for each in frozen.modules())
    for level, x in own(image).items():
        torch.testing.assert_close(frozen(image)[level], x)


def test_freezing():
    backbone = build_backbone(configured("test_byobnet", BACKBONE__FREEZE_AT=2)).train()
    for number, part in enumerate((backbone.stem, *backbone.stages), start=1):
        assert all(each.requires_grad == (number > 2) for each in part.parameters())
        has_norms = any(isinstance(each, torch.nn.BatchNorm2d) for each in part.modules())
        assert has_norms == (number > 2)
    with pytest.raises(ValueError, match=r"FREEZE_AT is 2, .* set it to 0"):
        build_backbone(configured("test_efficientnet", BACKBONE__FREEZE_AT=2))


@pytest.mark.parametrize(
    ("name", "settings", "words"),
    [
        ("resnet17", {}, "NAME is 'resnet17', which timm .* does not know"),
        ("test_resnet", {"TIMM__OUT_FEATURES": ["res6"]}, "choose from res2, res3, res4, res5"),
        ("test_vit", {}, "choose from res4$"),
        ("test_resnet", {"TIMM__NORM": "GN"}, "choose from FrozenBN, SyncBN"),
        ("test_resnet", {"TIMM__OPTIONS": (("depth", 5),)}, "timm cannot build features of .*depth"),
    ],
)
def test_mistakes_in_the_config(name, settings, words):
    with pytest.raises(ValueError, match=words):
        build_backbone(configured(name, **settings))


def test_without_timm(monkeypatch):
    monkeypatch.setitem(sys.modules, "timm", None)
    with pytest.raises(ImportError, match=r"need timm: pip install 'd2_featcomp\[timm\]'"):
        build_backbone(configured("test_resnet"))
