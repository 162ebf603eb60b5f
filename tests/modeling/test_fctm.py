"""The anchor fctm_v1: the feature reduction of FCTM v1, by keys of MSFC."""

import pytest
import torch
from test_msfc import HEIGHT, WIDTH, PyramidOnly, make_pyramid
from torch.nn.functional import avg_pool2d, conv2d, interpolate

from d2_featcomp.codecs import FeatureBitstream, build_feature_codec
from d2_featcomp.engine import setup_config
from d2_featcomp.modeling import MSFC, build_feature_split, find_feature_split
from d2_featcomp.modeling.acceleration.folding import fold_norms

R50, R18 = "configs/fctm_v1_R50.yaml", "configs/quick/fctm_v1_R18.yaml"


def build(path=R50, *overrides, channels=256):
    torch.manual_seed(0)
    cfg = setup_config(path, ["MODEL.DEVICE", "cpu", *overrides])
    split = build_feature_split(cfg, PyramidOnly(channels)).eval()
    for name, value in (*split.named_parameters(), *split.named_buffers()):  # of no norm the fresh ones
        if ("norm" in name and value.is_floating_point()) or name.endswith("activation.weight"):
            value.data.uniform_(0.2, 1.5)
    return split


def by_hand(ssfc, x):
    """1 x 1 convolution, batch norm, PReLU."""
    norm = ssfc.conv.norm
    y = conv2d(x, ssfc.conv.weight)
    scale = norm.weight / (norm.running_var + norm.eps).sqrt()
    y = (y - norm.running_mean[:, None, None]) * scale[:, None, None] + norm.bias[:, None, None]
    return torch.where(y > 0, y, ssfc.activation.weight[:, None, None] * y)


def test_the_edge_as_it_is_described():
    split, pyramid = build(), make_pyramid()
    levels = [avg_pool2d(pyramid[f"p{k}"], 2 ** (5 - k)) for k in (2, 3, 4, 5)]
    together = torch.cat(levels, dim=1)
    assert split.msff.attention.squeeze.out_features == 4 * 256 // 64
    fused = conv2d(
        split.msff.attention(together), split.msff.fuse.weight, split.msff.fuse.bias, padding=1
    )
    assert split.encoder.conv.kernel_size == split.decoder.conv.kernel_size == (1, 1)
    (y,) = split.reduce(pyramid)
    assert y.shape == (1, 64, HEIGHT // 32, WIDTH // 32)
    assert y.max() > 1  # no tanh
    torch.testing.assert_close(y, by_hand(split.encoder, fused), rtol=1e-4, atol=1e-5)


def test_the_cloud_starts_from_the_coarsest_level():
    split = build()
    y_hat = torch.randn(1, 64, 4, 6)
    fused = by_hand(split.decoder, y_hat)
    restored = split.restore([y_hat], (HEIGHT, WIDTH))
    torch.testing.assert_close(restored["p5"], fused, rtol=1e-4, atol=1e-5)
    enlarged = interpolate(fused, scale_factor=2.0)
    torch.testing.assert_close(restored["p4"], split.msfr.p4(enlarged) + enlarged, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(("path", "channels", "width"), [(R50, 64, 256), (R18, 32, 128)])
def test_the_codec(path, channels, width):
    cfg = setup_config(path)
    codec = build_feature_codec(cfg, MSFC)
    assert (codec.name, codec.bits, codec.quantizer, codec.lossless) == ("hevc", 10, "tensor", False)
    assert channels == cfg.MODEL.FEATCOMP.SSFC.CHANNELS
    split = build(path, channels=width)
    assert split.reduced_shapes((HEIGHT, WIDTH)) == [(channels, HEIGHT // 32, WIDTH // 32)]


def test_latents_without_bounds_have_no_fixed_range():
    with pytest.raises(ValueError, match="ACTIVATION prelu gives latents without bounds"):
        build(R50, "MODEL.FEATCOMP.CODEC.QUANTIZER", "fixed")
    with pytest.raises(ValueError, match=r"SSFC.ACTIVATION is 'gelu': choose one of 'tanh', 'prelu'"):
        build(R50, "MODEL.FEATCOMP.SSFC.ACTIVATION", "gelu")
    for quantizer in ("deviation", "narrow", "channel"):
        cfg = setup_config(R50, ["MODEL.FEATCOMP.CODEC.QUANTIZER", quantizer])
        assert build_feature_codec(cfg, MSFC).quantizer == quantizer


def test_images_keep_their_range():
    """Anchors of its sweeps are made from its config."""
    codec = {"SPLIT": "ImageSplit", "CODEC.NAME": "hevc420", "CODEC.BITS": 8}
    overrides = [part for key, value in codec.items() for part in (f"MODEL.FEATCOMP.{key}", value)]
    built = build_feature_codec(setup_config(R50, overrides), find_feature_split("ImageSplit"))
    assert (built.quantizer, built.value_range) == ("fixed", (0.0, 255.0))


def test_the_defaults_have_the_weights_they_had():
    cfg = setup_config("configs/msfc_R50.yaml")
    split = build_feature_split(cfg, PyramidOnly(8))
    ssfc = {name for name in split.state_dict() if name.startswith(("encoder", "decoder"))}
    norm = ("weight", "bias", "running_mean", "running_var", "num_batches_tracked")
    assert ssfc == {
        *("encoder.conv.weight", "decoder.conv.weight", "decoder.conv.bias"),
        *(f"encoder.conv.norm.{part}" for part in norm),
        "decoder.activation.weight",
    }
    assert build_feature_codec(cfg, split).describe().endswith("quantizer=fixed[-1.0,1.0]")


@torch.no_grad()
def test_norms_are_folded():
    split, pyramid = build(channels=32), make_pyramid(channels=32)
    (y,) = split.reduce(pyramid)
    restored = split.restore([y], (HEIGHT, WIDTH))
    assert fold_norms(split) == 2
    torch.testing.assert_close(split.reduce(pyramid)[0], y, rtol=1e-4, atol=1e-4)
    for name, level in split.restore([y], (HEIGHT, WIDTH)).items():
        torch.testing.assert_close(level, restored[name], rtol=1e-4, atol=1e-4)


def test_training_reaches_slopes_and_statistics():
    split = build(channels=16).train()
    before = {name: value.clone() for name, value in split.named_buffers()}
    restored = split.restore(split.reduce(make_pyramid(channels=16, batch=2)), (HEIGHT, WIDTH))
    sum(level.square().mean() for level in restored.values()).backward()
    for name, parameter in split.named_parameters():
        assert parameter.grad is not None and parameter.grad.abs().max() > 0, name
    for part in ("encoder", "decoder"):
        name = f"{part}.conv.norm.running_mean"
        assert not torch.equal(dict(split.named_buffers())[name], before[name])


def test_bytes_follow_qp_and_hold_the_range(networks):
    path, settings = networks.KINDS["fctm"]
    settings = {**settings, "MODEL.FEATCOMP.SSFC.CHANNELS": 32}
    network = networks.build(path, networks.listed(settings))
    record = {"image": torch.rand(3, 96, 128, generator=torch.Generator().manual_seed(0)) * 255}
    (features,) = network.edge_features([record])
    (y,) = features.tensors
    sizes = []
    for qp in (5, 25, 45):
        network.feature_codec.image_codec.quality = qp
        (stream,) = network.edge_inference([record])
        sizes.append(stream.payload_bits)
        assert stream.side_info_bits == 32
        low, high = stream.tensors[0].ranges[0]
        assert low <= y.min() and high >= y.max()
        read = FeatureBitstream.from_bytes(stream.to_bytes())
        (decoded,) = network.decode(read)
        assert low <= decoded.min() and decoded.max() <= high
        assert "instances" in network.cloud_inference([read])[0]
    assert sizes == sorted(sizes, reverse=True) and sizes[0] > sizes[2]


@pytest.mark.parametrize("quantizer", ["deviation", "narrow"])
def test_later_quantizers(quantizer, networks):
    path, settings = networks.KINDS["fctm"]
    settings = {
        **settings,
        "MODEL.FEATCOMP.CODEC.QUANTIZER": quantizer,
        "MODEL.FEATCOMP.CODEC.NAME": "png",
    }
    settings["MODEL.FEATCOMP.CODEC.QUALITY"] = None
    network = networks.build(path, networks.listed(settings))
    record = {"image": torch.rand(3, 96, 128, generator=torch.Generator().manual_seed(0)) * 255}
    (stream,) = network.edge_inference([record])
    (expected,), _, _ = network.feature_codec.quantize(
        [network.edge_features([record])[0].tensors[0][None]]
    )
    (decoded,) = network.decode(FeatureBitstream.from_bytes(stream.to_bytes()))
    assert torch.equal(decoded, expected[0])
