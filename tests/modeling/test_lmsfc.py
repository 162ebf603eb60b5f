import pytest
import torch
from networks import TINY, build, dotted, listed

from d2_featcomp.codecs import FeatureBitstream

CONFIG = "configs/quick/lmsfc_R18.yaml"
SETTINGS = {
    **TINY,
    "MODEL.FEATCOMP.LMSFC.CHANNELS": 6,
    "MODEL.FEATCOMP.CODEC.LEARNED.HYPER": 2,
    "MODEL.FEATCOMP.CODEC.LEARNED.HIDDEN": 8,
}


def tiny(**overrides):
    return build(CONFIG, listed({**SETTINGS, **dotted(overrides)}))


@pytest.mark.parametrize("stride", [8, 16, 32, 64])
@pytest.mark.parametrize("size", [(64, 96), (50, 70), (128, 128)])
def test_every_level_comes_back_in_its_size(stride, size):
    split = tiny(MODEL__FEATCOMP__LMSFC__STRIDE=stride).feature_split
    strides = {"p2": 4, "p3": 8, "p4": 16, "p5": 32, "p6": 64}
    sizes = {name: (-(-size[0] // s), -(-size[1] // s)) for name, s in strides.items()}
    pyramid = {name: torch.rand(2, 16, *sizes[name]) for name in strides}
    with torch.no_grad():
        (y,) = split.reduce(pyramid)
        restored = split.restore([y], size)
    assert (
        y.shape[1:] == split.reduced_shapes(size)[0] == (6, -(-size[0] // stride), -(-size[1] // stride))
    )
    assert {name: level.shape for name, level in restored.items()} == {
        name: level.shape for name, level in pyramid.items()
    }
    assert torch.equal(restored["p6"], restored["p5"][..., ::2, ::2])


def test_levels_weigh_the_same_in_the_distillation():
    split = tiny().feature_split
    target = {"p2": torch.zeros(1, 1, 8, 8), "p3": torch.zeros(1, 1, 4, 4)}
    restored = {"p2": torch.full((1, 1, 8, 8), 2.0), "p3": torch.full((1, 1, 4, 4), 1.0)}
    assert float(split.distillation_loss(restored, target)) == (4.0 + 1.0) / 2


def test_eight_bits_are_integers():
    """Latents are rounded to integers, and clipped where a symbol of 8 bits ends."""
    codec = tiny().feature_codec
    y = torch.tensor([-300.0, -1.6, -0.4, 0.0, 1.4, 90.7, 500.0]).repeat(6, 1)[:, :, None]
    found = codec.find_symbols(y).int() - 128
    assert found[0, :, 0].tolist() == [-128, -2, 0, 0, 1, 91, 127]


def test_the_cloud_restores_what_the_edge_sent():
    network = tiny()
    image = {"image": torch.randint(0, 256, (3, 64, 96)).float(), "height": 64, "width": 96}
    (stream,) = network.edge_inference([image])
    (y,) = network.edge_features([image])[0].tensors
    received = FeatureBitstream.from_bytes(stream.to_bytes())
    assert y.shape == (6, 1, 2)
    (y_hat,) = network.feature_codec.decompress(received.tensors, [y.shape])
    assert torch.equal(y_hat, y.round().clamp(-128, 127))
    assert "instances" in network.cloud_inference([received])[0]


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        ({"MODEL__FEATCOMP__LMSFC__STRIDE": 128}, "LMSFC.STRIDE is 128: choose one of 8, 16, 32, 64"),
        ({"MODEL__FEATCOMP__LMSFC__CHANNELS": 0}, "LMSFC.CHANNELS is 0: it must be at least 1"),
        ({"MODEL__FEATCOMP__CODEC__LEARNED__HYPER": 0}, "LEARNED.CONTEXT is False"),
        ({"MODEL__FEATCOMP__CODEC__LEARNED__HYPER": -1}, "LEARNED.HYPER is -1"),
    ],
)
def test_settings_that_cannot_be_are_refused(overrides, message):
    with pytest.raises(ValueError, match=message):
        tiny(**overrides)
