"""Split points: after, inside and before the backbone, of several kinds of backbones."""

import copy

import networks
import pytest
import torch
from detectron2.modeling import FPN, MViT, SimpleFeaturePyramid, SwinTransformer, ViT, build_model
from detectron2.modeling.backbone.regnet import RegNet, ResBottleneckBlock, SimpleStem

from d2_featcomp.codecs import FeatureBitstream
from d2_featcomp.modeling import SplitNetwork, build_split_point, list_split_points

STAGES = ["res2", "res3", "res4", "res5"]


def resnet(**overrides):
    return networks.shrunk_network(MODEL__FEATCOMP__ENABLED=False, **overrides).backbone


def regnet_pyramid():
    trunk = RegNet(
        stem_class=SimpleStem,
        stem_width=8,
        block_class=ResBottleneckBlock,
        depth=4,
        w_a=8.0,
        w_0=8,
        w_m=2.0,
        group_width=8,
        out_features=["s1", "s2"],
        norm="BN",
    )
    return FPN(trunk, ["s1", "s2"], 8)


def vit_pyramid():
    pytest.importorskip("timm")  # which Detectron2's needs
    trunk = ViT(img_size=64, patch_size=16, embed_dim=16, depth=3, num_heads=2, out_feature="last")
    return SimpleFeaturePyramid(trunk, "last", 8, (2.0, 1.0), norm="LN", square_pad=0)


def swin_pyramid(**settings):
    trunk = SwinTransformer(
        embed_dim=8, depths=(2, 1, 2), num_heads=(1, 2, 2), window_size=4, out_indices=(1, 2), **settings
    )
    return FPN(trunk, ["p1", "p2"], 8)


def mvit_pyramid():
    pytest.importorskip("timm")  # which Detectron2's needs
    trunk = MViT(
        img_size=64,
        embed_dim=8,
        depth=5,
        last_block_indexes=(0, 2, 3, 4),
        use_abs_pos=True,
        pretrain_img_size=64,
        out_features=("scale3", "scale4"),
    )
    return FPN(trunk, ["scale3", "scale4"], 8, square_pad=64)


def efficientnet_pyramid():
    settings = {"MODEL__EFFICIENTNET_LITE__NORM": "BN", "MODEL__BACKBONE__FREEZE_AT": 0}
    return resnet(MODEL__BACKBONE__NAME="build_efficientnet_lite_fpn_backbone", **settings)


def timm_pyramid():
    pytest.importorskip("timm")
    settings = {"MODEL__TIMM__NAME": "test_resnet", "MODEL__BACKBONE__FREEZE_AT": 0}
    return resnet(MODEL__BACKBONE__NAME="build_timm_fpn_backbone", **settings)


BACKBONES = {
    "FPN": resnet,
    "FPN with p6 and p7": lambda: resnet(MODEL__BACKBONE__NAME="build_retinanet_resnet_fpn_backbone"),
    "ResNet": lambda: resnet().bottom_up,
    "RegNet": regnet_pyramid,
    "ViT": vit_pyramid,
    "Swin": swin_pyramid,
    "Swin with positions": lambda: swin_pyramid(ape=True, pretrain_img_size=32),
    "MViT": mvit_pyramid,
    "EfficientNet-lite": efficientnet_pyramid,
    "EfficientNet-lite alone": lambda: efficientnet_pyramid().bottom_up,
    "timm": timm_pyramid,
}
SQUARE = ("ViT", "MViT")


@pytest.mark.parametrize("name", BACKBONES)
@torch.no_grad()
def test_head_and_tail_are_the_backbone(name):
    torch.manual_seed(0)
    backbone = BACKBONES[name]().eval()
    images = torch.randn(2, 3, 64, 64 if name in SQUARE else 128)
    expected = backbone(images)
    points = list_split_points(backbone)
    assert len(points) > 2 and points[-1] == "backbone"
    for place in points:
        point = build_split_point(place, backbone)
        features = point.head(images)
        size = tuple(images.shape[-2:])
        assert {key: tuple(x.shape[1:]) for key, x in features.items()} == point.feature_shapes(size)
        assert point.count_elements(size) == sum(x[0].numel() for x in features.values())
        found = point.tail(features)
        assert found.keys() == expected.keys()
        for key, value in expected.items():
            assert torch.equal(found[key], value), (place, key)


def test_what_crosses_a_split_point():
    """The stage itself, and earlier ones that the pyramid reads."""
    backbone = resnet()
    assert list_split_points(backbone) == [*STAGES, "backbone"]
    assert list(build_split_point("res4", backbone).feature_shapes((64, 64))) == ["res2", "res3", "res4"]
    assert list(build_split_point("bottom_up.res4", backbone.bottom_up).feature_shapes((64, 64))) == [
        "res2",
        "res3",
        "res4",
    ]
    # A ResNet that gives its last stage alone needs no other.
    last = copy.copy(backbone.bottom_up)
    last._out_features = ["res5"]
    assert build_split_point("res3", last).feature_shapes((64, 32)) == {"res3": (64, 8, 4)}


def test_places_that_are_not_there_are_named(small_config, build_yolo):
    with pytest.raises(ValueError, match=r"'res9': this FPN can be split at one of image, res2, res3"):
        build_model(small_config(MODEL__FEATCOMP__SPLIT_POINT="res9"))
    with pytest.raises(ValueError, match=r"LAYER is 10: .* layers 0, 2, 4, 6, 8"):
        build_split_point("layer10", build_yolo("MODEL.FEATCOMP.ENABLED", False).backbone)


@pytest.mark.parametrize(
    ("split", "place", "words"),
    [
        ("BaF", "backbone", "leave it '', which is 'layer', or choose PyramidSplit"),
        ("IntermediateLayerSplit", "backbone", "or choose PyramidSplit"),
        ("BaF", "image", "or choose ImageSplit"),
        ("QLayer", "image", "leave it '', which is 'backbone', or choose ImageSplit"),
        ("ImageSplit", "backbone", "leave it '', which is 'image'$"),
        ("ImageSplit", "layer6", "SPLIT_POINT is 'layer6', where SPLIT ImageSplit"),
    ],
)
def test_places_where_a_split_finds_nothing_are_refused(build_yolo, split, place, words):
    settings = {"ENABLED": True, "SPLIT": split, "SPLIT_POINT": place, "CODEC.BITS": 8}
    overrides = [part for key, value in settings.items() for part in (f"MODEL.FEATCOMP.{key}", value)]
    with pytest.raises(ValueError, match=words):
        build_yolo(*overrides)


@pytest.mark.parametrize("norm", ["", "LN"])
@pytest.mark.parametrize("split", ["BaF", "IntermediateLayerSplit"])
def test_layers_without_batch_norm_are_refused(build_yolo, norm, split):
    settings = ("MODEL.YOLOV3.NORM", norm, "MODEL.FEATCOMP.SPLIT", split)
    with pytest.raises(ValueError, match=r"split in none of its layers \(convolutions with batch norm"):
        build_yolo("MODEL.FEATCOMP.ENABLED", True, *settings)


@pytest.mark.parametrize("place", [*STAGES, "backbone"])
def test_each_place_is_trained_and_deployed(small_model, make_record, place):
    """All features at the place are sent; as floats they change nothing."""
    overrides = {
        "MODEL__FEATCOMP__SPLIT": "PyramidSplit" if place == "backbone" else "IntermediateLayerSplit",
        "MODEL__FEATCOMP__SPLIT_POINT": place,
        "MODEL__FEATCOMP__CODEC__NAME": "raw",
        "MODEL__FEATCOMP__CODEC__BITS": 32,
    }
    model = small_model(**overrides)
    record = make_record(64, 96)
    with torch.no_grad():
        (expected,) = uncut(model, record)
    data = [stream.to_bytes() for stream in model.edge_inference([record])]
    (found,) = model.cloud_inference([FeatureBitstream.from_bytes(each) for each in data])
    assert len(expected["instances"]) > 0
    assert torch.equal(found["instances"].pred_boxes.tensor, expected["instances"].pred_boxes.tensor)
    edge, cloud = model.sub_model_names("edge"), model.sub_model_names("cloud")
    later = STAGES[STAGES.index(place) + 1 :] if place in STAGES else []
    for stage in STAGES:
        names = {name for name in model.state_dict() if f".{stage}." in name}
        assert names <= (cloud if stage in later else edge)
        assert not names & (edge if stage in later else cloud)
    losses = model.train()([record])
    sum(losses.values()).backward()
    assert model.network.backbone.backbone.bottom_up.stem.conv1.weight.grad is None  # frozen by config
    gradients = [p.grad for p in model.network.backbone.backbone.bottom_up.res3.parameters()]
    assert all(gradient is not None and gradient.abs().sum() > 0 for gradient in gradients)


def uncut(model, record):
    network = copy.deepcopy(model.network)
    network.backbone = network.backbone.backbone
    return network([record])


def test_msfc_needs_a_pyramid_at_the_split_point(small_config):
    with pytest.raises(ValueError, match="needs a feature pyramid"):
        build_model(small_config(MODEL__FEATCOMP__SPLIT_POINT="res3"))


def test_split_by_hand(small_config, make_record):
    """Without a config, as another project would."""
    from d2_featcomp.codecs import QuantizedFeatureCodec, build_image_codec
    from d2_featcomp.modeling.splits import IntermediateLayerSplit

    network = build_model(small_config(MODEL__FEATCOMP__ENABLED=False)).eval()
    point = build_split_point("res3", network.backbone)
    codec = QuantizedFeatureCodec(image_codec=build_image_codec("png", bits=8), quantizer="tensor")
    model = SplitNetwork(
        network=network,
        split_point=point,
        feature_split=IntermediateLayerSplit(shapes=point.output_shape()),
        feature_codec=codec,
    ).eval()
    (output,) = model([make_record(64, 96)])
    assert output["bitstream"].description.shapes == ((32, 16, 24), (64, 8, 12))
