"""PyramidTransform: a latent for each level, and its start from principal components."""

import pytest
import torch
from networks import KINDS, build, dotted, listed
from test_msfc import PyramidOnly

from d2_featcomp.codecs import FeatureBitstream
from d2_featcomp.engine import setup_config
from d2_featcomp.modeling import build_feature_split
from d2_featcomp.modeling.splits.base import compute_distillation_loss

CHANNELS, SOURCES = 16, 3
PATH, SETTINGS = KINDS["levels"]
STRIDES = {"p2": 4, "p3": 8, "p4": 16, "p5": 32, "p6": 64}


def tiny(**overrides):
    return build(PATH, listed({**SETTINGS, **dotted(overrides)}))


def make_split(*channels, backbone=None):
    torch.manual_seed(0)
    settings = {
        "MODEL.DEVICE": "cpu",
        "MODEL.FEATCOMP.SPLIT": "PyramidTransform",
        "MODEL.FEATCOMP.PYRAMID_TRANSFORM.CHANNELS": channels,
    }
    cfg = setup_config("configs/msfc_R50.yaml", listed(settings))
    return build_feature_split(cfg, backbone or PyramidOnly(CHANNELS)).eval()


def make_pyramid(seed, size=(96, 128)):
    """Levels of SOURCES components each, far from mean 0, the first level ten times larger."""
    generator = torch.Generator().manual_seed(seed)
    mixing = torch.Generator().manual_seed(99)
    levels = {}
    for name in ("p2", "p3", "p4", "p5"):
        shape = (1, SOURCES, *(side // STRIDES[name] for side in size))
        mix = torch.randn(CHANNELS, SOURCES, generator=mixing)
        level = torch.einsum("dc,nchw->ndhw", mix, torch.randn(shape, generator=generator)) + 3
        levels[name] = level * (10 if name == "p2" else 1)
    levels["p6"] = levels["p5"][..., ::2, ::2]
    return levels


@pytest.mark.parametrize("size", [(64, 96), (50, 70)])
def test_every_level_has_a_latent_and_comes_back_in_its_size(size):
    split = tiny().feature_split
    sizes = {name: (-(-size[0] // s), -(-size[1] // s)) for name, s in STRIDES.items()}
    pyramid = {name: torch.rand(2, 16, *sizes[name]) for name in STRIDES}
    with torch.no_grad():
        latents = split.reduce(pyramid)
        restored = split.restore(latents, size)
    assert [y.shape[1:] for y in latents] == split.reduced_shapes(size)
    assert [len(y[0]) for y in latents] == [4, 5, 6, 7]
    assert {name: level.shape for name, level in restored.items()} == {
        name: level.shape for name, level in pyramid.items()
    }
    assert torch.equal(restored["p6"], restored["p5"][..., ::2, ::2])


def test_the_cloud_restores_what_the_edge_sent():
    network = tiny()
    image = {"image": torch.randint(0, 256, (3, 64, 96)).float(), "height": 64, "width": 96}
    (stream,) = network.edge_inference([image])
    latents = network.edge_features([image])[0].tensors
    received = FeatureBitstream.from_bytes(stream.to_bytes())
    found = network.feature_codec.decompress(received.tensors, [y.shape for y in latents])
    steps = network.feature_codec.quantize([y[None] for y in latents])[1]
    for y, y_hat, step in zip(latents, found, steps, strict=True):
        in_range = y.abs() < 1.9
        assert in_range.any() and ((y_hat - y).abs() / step[0])[in_range].max() < 0.501
    assert "instances" in network.cloud_inference([received])[0]


def test_components_are_restored():
    split = make_split(SOURCES)
    pyramids = [make_pyramid(seed) for seed in range(4)]
    moments = split.start_from_components(pyramids)
    unseen = make_pyramid(100)
    with torch.no_grad():
        latents = split.reduce(unseen)
        restored = split.restore(latents, split.find_image_size(unseen))
    for name, level in unseen.items():
        assert compute_distillation_loss({name: restored[name]}, {name: level}) < 1e-3
    for y, (mean, deviation) in zip(latents, moments, strict=True):
        torch.testing.assert_close(y.mean(dim=(0, 2, 3)), mean, atol=0.1, rtol=0)
        assert (y.std(dim=(0, 2, 3)) / deviation - 1).abs().max() < 0.5
    assert latents[0].abs().max() < 2  # almost all lie in the range of the quantizer


def test_equal_step_sizes_make_equal_errors():
    """The latents of all levels have one scale, and the range goes to those that are large."""
    split = make_split(SOURCES)
    split.start_from_components([make_pyramid(seed) for seed in range(4)])
    unseen = make_pyramid(100)
    with torch.no_grad():
        latents = split.reduce(unseen)
        size = split.find_image_size(unseen)
        exact, moved = split.restore(latents, size), split.restore([y + 0.01 for y in latents], size)
    errors = {name: (moved[name] - exact[name]).square().sum(dim=1).mean().sqrt() for name in STRIDES}
    torch.testing.assert_close(errors["p2"], errors["p5"], rtol=0.05, atol=0)
    assert latents[0].std() > 5 * latents[1].std()


def test_what_counts_more_is_restored_better():
    noise = torch.Generator().manual_seed(1)
    pyramids = [
        {name: x + torch.randn(x.shape, generator=noise) for name, x in make_pyramid(seed).items()}
        for seed in range(4)
    ]
    weights = {name: torch.where(torch.arange(CHANNELS) < 2, 100.0, 1.0) for name in STRIDES}
    errors = []
    for chosen in (None, weights):
        split = make_split(SOURCES)
        split.start_from_components(pyramids, chosen)
        with torch.no_grad():
            restored = split.restore(split.reduce(pyramids[0]), (96, 128))
        errors.append((restored["p3"] - pyramids[0]["p3"])[:, :2].square().mean().item())
    assert errors[1] < 0.7 * errors[0]


def test_channels_that_do_not_count_or_vary_leave_all_finite():
    pyramids = [make_pyramid(seed) for seed in range(2)]
    for pyramid in pyramids:
        pyramid["p3"][:, 3] = 7.0
        pyramid["p4"][:] = 7.0
    weights = {name: torch.where(torch.arange(CHANNELS) < 2, 0.0, 1.0) for name in STRIDES}
    split = make_split(CHANNELS)
    split.start_from_components(pyramids, weights)
    with torch.no_grad():
        restored = split.restore(split.reduce(pyramids[0]), (96, 128))
    for name, level in pyramids[0].items():
        torch.testing.assert_close(restored[name][:, 2:], level[:, 2:], atol=1e-2, rtol=1e-3)


def test_features_that_never_change_are_restored():
    pyramids = [{name: torch.full_like(x, 3.0) for name, x in make_pyramid(0).items()}]
    split = make_split(SOURCES)
    split.start_from_components(pyramids)
    with torch.no_grad():
        restored = split.restore(split.reduce(pyramids[0]), (96, 128))
    assert all(torch.equal(restored[name], level) for name, level in pyramids[0].items())


def test_no_images_are_refused():
    with pytest.raises(ValueError, match="no images"):
        make_split(SOURCES).start_from_components([])


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        ({"CHANNELS": (4, 5)}, "has 2 numbers for the levels p2, p3, p4, p5"),
        ({"CHANNELS": (4, 5, 17, 6)}, "CHANNELS is 17 for level p4: it must be 1 to 16"),
        ({"CHANNELS": (0,)}, "CHANNELS is 0 for level p2"),
    ],
)
def test_settings_that_cannot_be_are_refused(overrides, message):
    with pytest.raises(ValueError, match=message):
        tiny(**{f"MODEL__FEATCOMP__PYRAMID_TRANSFORM__{key}": v for key, v in overrides.items()})
