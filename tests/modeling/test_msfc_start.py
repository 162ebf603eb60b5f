"""MSFC starts from principal components and least squares."""

import pytest
import torch
from test_msfc import PyramidOnly
from torch import nn

from d2_featcomp.engine import setup_config
from d2_featcomp.modeling import build_feature_split
from d2_featcomp.modeling.splits.base import compute_distillation_loss
from d2_featcomp.modeling.splits.msfc_start import start_from_components

CHANNELS, SOURCES = 16, 3


def build(*overrides, pooled=True):
    torch.manual_seed(0)
    settings = {
        "MODEL.DEVICE": "cpu",
        "MODEL.FEATCOMP.SSFC.CHANNELS": SOURCES,
        "MODEL.FEATCOMP.MSFF.LEVEL": "p3",
        "MODEL.FEATCOMP.MSFR.DIRECTION": "top_down",
        "MODEL.FEATCOMP.MSFR.LATERAL": True,
    }
    for key, value in zip(overrides[::2], overrides[1::2], strict=True):
        settings[f"MODEL.FEATCOMP.{key}"] = value
    flat = [str(part) for item in settings.items() for part in item]
    backbone = PyramidOnly(CHANNELS)
    if not pooled:  # as RetinaNet's p6
        backbone.top_block = nn.Identity()
        backbone.top_block.num_levels = 1
    return build_feature_split(setup_config("configs/msfc_R50.yaml", flat), backbone).eval()


def make_pyramid(seed, height=96, width=128):
    """Levels that are mixtures, each its own, of three smooth maps; far from mean 0 and variance 1."""
    generator = torch.Generator().manual_seed(seed)
    mixing = torch.Generator().manual_seed(99)
    coarse = torch.randn(1, SOURCES, height // 32, width // 32, generator=generator)
    levels = {}
    for k in (2, 3, 4, 5):
        size = (height // 2**k, width // 2**k)
        smooth = nn.functional.interpolate(coarse, size=size, mode="bilinear", align_corners=False)
        mix = torch.randn(CHANNELS, SOURCES, generator=mixing)
        levels[f"p{k}"] = 0.1 * torch.einsum("dc,nchw->ndhw", mix, smooth) + 3
    levels["p6"] = nn.functional.max_pool2d(levels["p5"], 1, 2)
    return levels


def errors(split, pyramid):
    size = split.msfr.find_image_size(pyramid)
    restored = split.restore(split.reduce(pyramid), size)
    return {
        name: compute_distillation_loss({name: restored[name]}, {name: x}).item()
        for name, x in pyramid.items()
    }


TRAIN = [make_pyramid(seed) for seed in range(8)]


@pytest.mark.parametrize(
    "overrides",
    [
        ("MSFR.UPSAMPLE", "subpixel", "MSFR.NORM", "BN"),
        ("MSFR.UPSAMPLE", "subpixel"),
        ("MSFR.UPSAMPLE", "bilinear", "MSFR.NORM", "BN", "SSFC.KERNEL_SIZE", 1),
        ("MSFR.DIRECTION", "bottom_up", "MSFF.KERNEL_SIZE", 1),
        ("SSFC.NORM", "", "SSFC.DECODER_NORM", "BN", "MSFF.DOWNSAMPLE", "average"),
        ("SSFC.ACTIVATION", "prelu"),
        ("MSFF.DOWNSAMPLE", "space_to_depth", "MSFR.UPSAMPLE", "subpixel"),
    ],
)
def test_features_of_few_components_are_restored(overrides):
    split = build(*overrides)
    before = errors(split, TRAIN[0])
    assert all(value > 1 for value in before.values())  # a constant has 1
    start_from_components(split, TRAIN, lambda y: y)
    seen, unseen = errors(split, TRAIN[0]), errors(split, make_pyramid(100))
    assert all(value < 0.25 for value in seen.values()), seen
    assert all(value < 0.5 for value in unseen.values()), unseen
    (y,) = split.reduce(TRAIN[0])
    assert y.shape[1] == SOURCES and (y.std(dim=(0, 2, 3)) > 0.2).all()


@pytest.mark.parametrize("downsample", ["nearest", "average", "space_to_depth"])
def test_what_counts_more_is_restored_better(downsample):
    noise = torch.Generator().manual_seed(1)
    pyramids = [  # too much for three components
        {name: x + torch.randn(x.shape, generator=noise) for name, x in pyramid.items()}
        for pyramid in TRAIN
    ]
    alike = {name: torch.ones(CHANNELS) for name in pyramids[0]}
    found = {}
    for name in ("p3", "p4"):
        split = build("MSFF.DOWNSAMPLE", downsample, "MSFR.UPSAMPLE", "subpixel")
        start_from_components(split, pyramids, lambda y: y, alike | {name: 1000 * alike[name]})
        found[name] = errors(split, pyramids[0])
    assert found["p3"]["p3"] < 0.95 * found["p4"]["p3"]
    assert found["p4"]["p4"] < 0.95 * found["p3"]["p4"]


def test_levels_that_are_not_pooled_have_weights_of_their_own():
    split = build(pooled=False)
    pyramid = TRAIN[0] | {"p6": TRAIN[0]["p6"] * 2 - 1}
    start_from_components(split, [pyramid], lambda y: y)
    assert set(split.msfr.laterals) == {"p2", "p3", "p4", "p5", "p6"}
    assert errors(split, pyramid)["p6"] < 0.1


def test_it_is_fitted_to_what_quantization_leaves():
    def coarse(y):
        return y.round()

    exact, rounded = build("MSFR.UPSAMPLE", "subpixel"), build("MSFR.UPSAMPLE", "subpixel")
    start_from_components(exact, TRAIN, lambda y: y)
    start_from_components(rounded, TRAIN, coarse)

    def error_with_rounding(split):
        y_hats = [coarse(y) for y in split.reduce(TRAIN[0])]
        restored = split.restore(y_hats, split.msfr.find_image_size(TRAIN[0]))
        return compute_distillation_loss(restored, TRAIN[0]).item()

    assert error_with_rounding(rounded) < 0.7 * error_with_rounding(exact)


def test_the_same_images_give_the_same_weights():
    splits = build(), build()
    for split in splits:
        start_from_components(split, TRAIN[:3], lambda y: y)
    first, second = (split.state_dict() for split in splits)
    assert all(torch.equal(value, second[name]) for name, value in first.items())


def test_sizes_that_no_stride_divides():
    whole = make_pyramid(0)["p2"]
    pyramid = {f"p{k}": whole[..., : -(-72 // 2**k), : -(-124 // 2**k)] for k in (2, 3, 4, 5, 6)}
    split = build("MSFR.UPSAMPLE", "subpixel", "MSFR.NORM", "BN")
    start_from_components(split, [pyramid], lambda y: y)
    restored = split.restore(split.reduce(pyramid), (72, 124))
    assert all(restored[name].shape == x.shape for name, x in pyramid.items())
    assert all(x.isfinite().all() for x in restored.values())


@pytest.mark.parametrize(
    ("overrides", "told"),
    [
        (("MSFR.LATERAL", False), "needs MODEL.FEATCOMP.MSFR.LATERAL True"),
        (("SSFC.CHANNELS", 17), "at most 16 components.*now 17"),
        (("MSFR.NORM", "LN"), "LayerNorm: set MODEL.FEATCOMP.MSFR.NORM"),
        (("SSFC.NORM", "LN"), "LayerNorm: set MODEL.FEATCOMP.SSFC.NORM"),
    ],
)
def test_what_cannot_be_fitted_is_refused(overrides, told):
    with pytest.raises(ValueError, match=told):
        start_from_components(build(*overrides), TRAIN, lambda y: y)


def test_no_images_are_refused():
    with pytest.raises(ValueError, match="no images"):
        start_from_components(build(), [], lambda y: y)
