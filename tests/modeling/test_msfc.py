import pytest
import torch
from detectron2.layers import ShapeSpec
from detectron2.modeling.backbone.fpn import LastLevelMaxPool
from torch import nn

from d2_featcomp.codecs import FeatureCodec, build_image_codec
from d2_featcomp.codecs.bitstream import ImageSizes
from d2_featcomp.engine import setup_config
from d2_featcomp.modeling import MSFC, MSFR, build_feature_split
from d2_featcomp.modeling.splits import MSFF, SqueezeExcitation, SSFCDecoder, SSFCEncoder, SubpixelConv2d
from d2_featcomp.modeling.splits.resampling import align_size, compute_level_size

HEIGHT, WIDTH = 128, 192


class PyramidOnly(nn.Module):
    """The interface of Detectron2's FPN, without the network."""

    def __init__(self, channels=256, levels=(2, 3, 4, 5, 6)):
        super().__init__()
        self.top_block = LastLevelMaxPool()
        self._shapes = {f"p{k}": ShapeSpec(channels=channels, stride=2**k) for k in levels}

    def output_shape(self):
        return self._shapes


def make_pyramid(height=HEIGHT, width=WIDTH, channels=256, batch=1, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return {
        f"p{k}": torch.randn(batch, channels, -(-height // 2**k), -(-width // 2**k), generator=generator)
        for k in (2, 3, 4, 5, 6)
    }


def build(*overrides, channels=256):
    torch.manual_seed(0)
    cfg = setup_config("configs/msfc_R50.yaml", ["MODEL.DEVICE", "cpu", *overrides])
    return build_feature_split(cfg, PyramidOnly(channels)).eval()


def conv(module, x):
    return nn.functional.conv2d(x, module.weight, module.bias, padding=1)


def test_shapes_of_table_1_and_of_every_stage():
    split = build()
    pyramid = make_pyramid()
    fused = split.msff([pyramid[f"p{k}"] for k in (2, 3, 4, 5)])
    assert fused.shape == (1, 256, HEIGHT // 32, WIDTH // 32)
    (z,) = split.reduce(pyramid)
    assert z.shape == (1, 64, HEIGHT // 32, WIDTH // 32)
    assert split.reduced_shapes((HEIGHT, WIDTH)) == [(64, 4, 6)]
    assert z.abs().max() <= 1
    restored = split.restore([z], (HEIGHT, WIDTH))
    assert {name: x.shape for name, x in restored.items()} == {
        "p2": (1, 256, HEIGHT // 4, WIDTH // 4),
        "p3": (1, 256, HEIGHT // 8, WIDTH // 8),
        "p4": (1, 256, HEIGHT // 16, WIDTH // 16),
        "p5": (1, 256, HEIGHT // 32, WIDTH // 32),
        "p6": (1, 256, HEIGHT // 64, WIDTH // 64),
    }


def test_the_paper_s_0_0117_bits_per_feature_element_from_real_bytes():
    split = build()
    pyramid = make_pyramid()
    codec = FeatureCodec(image_codec=build_image_codec("raw", bits=4))
    stream = codec.compress(
        [z[0] for z in split.reduce(pyramid)],
        split="MSFC",
        fingerprint=b"1234",
        sizes=ImageSizes((HEIGHT, WIDTH), (HEIGHT, WIDTH), (HEIGHT, WIDTH)),
        feature_elements=sum(x[0].numel() for x in pyramid.values()),
    )
    payload = len(stream.tensors[0].payload)
    assert payload == 64 * 4 * 6 * 4 // 8
    assert 8 * payload / stream.feature_elements == pytest.approx(
        64 * 4 / (256 * (64 + 16 + 4 + 1 + 0.25)), rel=1e-12
    )
    assert round(8 * payload / stream.feature_elements, 4) == 0.0117
    assert stream.header_bits < 64 * 8


@pytest.mark.parametrize("channels", [8, 16, 32, 64, 1, 7, 48])
def test_any_number_of_sent_channels(channels):
    split = build("MODEL.FEATCOMP.SSFC.CHANNELS", channels, channels=32)
    pyramid = make_pyramid(channels=32)
    (z,) = split.reduce(pyramid)
    assert z.shape[1] == channels
    restored = split.restore([z], (HEIGHT, WIDTH))
    assert {n: x.shape for n, x in restored.items()} == {n: x.shape for n, x in pyramid.items()}


def test_squeeze_and_excitation_scales_channels():
    torch.manual_seed(0)
    attention = SqueezeExcitation(6, 3)
    x = torch.rand(2, 6, 3, 5)
    hidden = torch.relu(x.mean((2, 3)) @ attention.squeeze.weight.T + attention.squeeze.bias)
    weight = torch.sigmoid(hidden @ attention.excite.weight.T + attention.excite.bias)
    assert attention.squeeze.out_features == 2
    torch.testing.assert_close(attention(x), x * weight[:, :, None, None])


def test_msff_is_a_convolution_of_the_reweighted_concatenation():
    torch.manual_seed(0)
    msff = MSFF(levels=2, channels=4, reduction=2)
    fine, coarse = torch.rand(1, 4, 6, 10), torch.rand(1, 4, 3, 5)
    together = torch.cat([fine[:, :, ::2, ::2], coarse], dim=1)
    expected = conv(msff.fuse, msff.attention(together))
    torch.testing.assert_close(msff([fine, coarse]), expected)


def test_msff_can_keep_all_values_of_finer_levels():
    msff = MSFF(levels=3, channels=4, downsample="space_to_depth", level=1, scales=(2, 1, 1))
    fine, middle, coarse = torch.rand(1, 4, 6, 9), torch.rand(1, 4, 3, 5), torch.rand(1, 4, 2, 3)
    padded = nn.functional.pad(fine, (0, 1))
    phases = [padded[:, :, row::2, column::2] for row in (0, 1) for column in (0, 1)]
    blocks = torch.stack(phases, dim=2).flatten(1, 2)  # a channel's phases side by side
    assert torch.equal(msff.align([fine, middle, coarse])[:, :20], torch.cat([blocks, middle], dim=1))
    assert msff([fine, middle, coarse]).shape == (1, 4, 3, 5)


@pytest.mark.parametrize("scales", [(), (2, 1)])
def test_blocks_need_a_scale_for_each_level(scales):
    with pytest.raises(ValueError, match=f"3 levels by space_to_depth and has {len(scales)} scales"):
        MSFF(levels=3, channels=4, downsample="space_to_depth", level=1, scales=scales)


def test_ssfc_is_conv_bn_tanh_and_one_conv_with_prelu():
    torch.manual_seed(0)
    encoder = SSFCEncoder(in_channels=8, out_channels=3).eval()
    decoder = SSFCDecoder(in_channels=3, out_channels=8)
    encoder.conv.norm.running_mean.fill_(0.3)
    encoder.conv.norm.running_var.fill_(2.0)
    x = torch.rand(1, 8, 4, 5)
    before_norm = nn.functional.conv2d(x, encoder.conv.weight, padding=1)
    z = encoder(x)
    torch.testing.assert_close(z, torch.tanh((before_norm - 0.3) / (2.0 + 1e-5) ** 0.5))
    y = conv(decoder.conv, z)
    torch.testing.assert_close(decoder(z), torch.where(y > 0, y, 0.25 * y))
    assert sum(isinstance(m, nn.Conv2d) for m in decoder.modules()) == 1


def test_msfr_follows_equations_2_to_6():
    torch.manual_seed(0)
    msfr = MSFR(names=["p2", "p3", "p4", "p5", "p6"], strides=[4, 8, 16, 32, 64], fused=4, channels=4)
    fused = torch.randn(1, 4, 4, 6)

    def up(x, times):
        return x.repeat_interleave(times, dim=2).repeat_interleave(times, dim=3)

    p2 = up(fused, 8)
    p3 = conv(msfr.p3, p2[..., ::2, ::2]) + up(fused, 4)
    p4 = conv(msfr.p4, p3[..., ::2, ::2]) + up(fused, 2)
    p5 = conv(msfr.p5, p4[..., ::2, ::2]) + fused
    p6 = p5[..., ::2, ::2]
    got = msfr(fused, (HEIGHT, WIDTH))
    assert list(got) == ["p2", "p3", "p4", "p5", "p6"]
    for name, expected in zip(got, (p2, p3, p4, p5, p6), strict=True):
        torch.testing.assert_close(got[name], expected)


def test_msfr_top_down_starts_at_the_coarsest_level():
    torch.manual_seed(0)
    msfr = MSFR(
        names=["p4", "p5", "p6"], strides=[16, 32, 64], fused=2, channels=4, direction="top_down"
    )
    fused = torch.randn(1, 4, 4, 6)
    enlarged = fused.repeat_interleave(2, dim=2).repeat_interleave(2, dim=3)
    got = msfr(fused, (HEIGHT, WIDTH))
    torch.testing.assert_close(got["p5"], fused)
    torch.testing.assert_close(got["p4"], conv(msfr.p4, enlarged) + enlarged)
    torch.testing.assert_close(got["p6"], fused[..., ::2, ::2])


def test_msfr_with_norm():
    torch.manual_seed(0)
    msfr = MSFR(
        names=["p4", "p5"], strides=[16, 32], fused=2, channels=4, direction="top_down", norm="BN"
    ).eval()
    msfr.p4.norm.running_mean.fill_(0.5)
    fused = torch.randn(1, 4, 4, 6)
    enlarged = fused.repeat_interleave(2, dim=2).repeat_interleave(2, dim=3)
    expected = (conv(msfr.p4, enlarged) - 0.5) / (1 + 1e-5) ** 0.5 + enlarged
    torch.testing.assert_close(msfr(fused, (HEIGHT, WIDTH))["p4"], expected)


def test_msfr_subpixel_enlarges_by_its_convolutions():
    torch.manual_seed(0)
    msfr = MSFR(
        names=["p4", "p5", "p6"],
        strides=[16, 32, 64],
        fused=2,
        channels=4,
        direction="top_down",
        upsample="subpixel",
    )
    fused = torch.randn(1, 4, 4, 6)
    sixteen = conv(msfr.p4.conv, fused).reshape(1, 4, 2, 2, 4, 6)
    blocks = sixteen.permute(0, 1, 4, 2, 5, 3).reshape(1, 4, 8, 12)
    enlarged = fused.repeat_interleave(2, dim=2).repeat_interleave(2, dim=3)
    got = msfr(fused, (HEIGHT, WIDTH))
    torch.testing.assert_close(got["p4"], blocks + enlarged)
    torch.testing.assert_close(got["p6"], fused[..., ::2, ::2])


@pytest.mark.parametrize("kind", [nn.BatchNorm2d, nn.Identity])
def test_msfr_subpixel_norm(kind):
    norm = "BN" if kind is nn.BatchNorm2d else ""
    conv = SubpixelConv2d(3, 2, norm)
    assert (conv.conv.bias is None) == bool(norm)
    x = torch.randn(2, 3, 4, 5)
    plain = nn.functional.pixel_shuffle(conv.conv(x), 2)
    expected = nn.functional.batch_norm(plain, None, None, training=True) if norm else plain
    torch.testing.assert_close(conv(x), expected)


def test_a_finer_fused_map():
    """Every level is brought to the size of p3, and rebuilt from there."""
    split = build("MODEL.FEATCOMP.MSFF.LEVEL", "p3", "MODEL.FEATCOMP.SSFC.CHANNELS", 4, channels=8)
    pyramid = make_pyramid(channels=8)
    p2, p3, p4, p5 = (pyramid[f"p{k}"] for k in (2, 3, 4, 5))
    up4 = p4.repeat_interleave(2, dim=2).repeat_interleave(2, dim=3)
    up5 = p5.repeat_interleave(4, dim=2).repeat_interleave(4, dim=3)
    together = torch.cat([p2[..., ::2, ::2], p3, up4, up5], dim=1)
    torch.testing.assert_close(
        split.msff([p2, p3, p4, p5]), conv(split.msff.fuse, split.msff.attention(together))
    )
    (z,) = split.reduce(pyramid)
    assert z.shape == (1, 4, HEIGHT // 8, WIDTH // 8)
    assert split.reduced_shapes((HEIGHT, WIDTH)) == [(4, HEIGHT // 8, WIDTH // 8)]
    assert {n: x.shape for n, x in split.restore([z], (HEIGHT, WIDTH)).items()} == {
        n: x.shape for n, x in pyramid.items()
    }


@pytest.mark.parametrize("level", ["", "p3"])
@pytest.mark.parametrize(
    ("direction", "upsample"),
    [("bottom_up", "nearest"), ("top_down", "nearest"), ("top_down", "subpixel")],
)
@pytest.mark.parametrize("size", [(32, 32), (33, 65), (97, 31), (160, 224)])
def test_sizes_that_do_not_divide(level, direction, upsample, size):
    split = build(
        *("MODEL.FEATCOMP.MSFF.LEVEL", level),
        *("MODEL.FEATCOMP.MSFR.DIRECTION", direction),
        *("MODEL.FEATCOMP.MSFR.UPSAMPLE", upsample),
        channels=8,
    )
    pyramid = make_pyramid(*size, channels=8)
    assert [tuple(z.shape[1:]) for z in split.reduce(pyramid)] == split.reduced_shapes(size)
    restored = split.restore(split.reduce(pyramid), size)
    assert {n: x.shape for n, x in restored.items()} == {n: x.shape for n, x in pyramid.items()}


@pytest.mark.parametrize(("down", "expected"), [("nearest", 0.0), ("average", 2.5)])
def test_size_align_down(down, expected):
    x = torch.tensor([[0.0, 1.0], [4.0, 5.0]])[None, None]
    assert align_size(x, (1, 1), down=down).item() == expected


def test_size_align_up_and_same():
    x = torch.tensor([[0.0, 4.0]])[None, None]
    assert align_size(x, (1, 4)).flatten().tolist() == [0, 0, 4, 4]
    assert align_size(x, (1, 4), up="bilinear").flatten().tolist() == [0, 1, 3, 4]
    assert align_size(x, (1, 2)) is x
    assert compute_level_size((33, 64), 32) == (2, 2)


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("MSFR.DIRECTION", "sideways"),
        ("MSFR.UPSAMPLE", "cubic"),
        ("MSFR.UPSAMPLE", "subpixel"),  # only with DIRECTION top_down
        ("MSFF.LEVEL", "p6"),
        ("MSFF.DOWNSAMPLE", "max"),
    ],
)
def test_unknown_choices_are_named(key, value):
    with pytest.raises(ValueError, match=f"{key} is '{value}': choose one of"):
        build(f"MODEL.FEATCOMP.{key}", value)


@pytest.mark.parametrize("key", ["SSFC.NORM", "SSFC.DECODER_NORM", "MSFR.NORM"])
def test_norms_that_there_are_not_are_told_with_their_key(key):
    with pytest.raises(ValueError, match=rf"MODEL.FEATCOMP.{key} is 'Batch': choose a norm of Det"):
        build(f"MODEL.FEATCOMP.{key}", "Batch")
    with pytest.raises(ValueError, match=rf"MODEL.FEATCOMP.{key} is 'GN', for 8 channels: num_chan"):
        build(f"MODEL.FEATCOMP.{key}", "GN", "MODEL.FEATCOMP.SSFC.CHANNELS", 8, channels=8)


def test_a_backbone_without_pyramid_is_refused():
    cfg = setup_config("configs/msfc_R50.yaml", ["MODEL.DEVICE", "cpu"])
    with pytest.raises(ValueError, match="needs a feature pyramid"):
        MSFC(cfg, PyramidOnly(levels=(5, 6)))


@pytest.mark.gpu
@pytest.mark.parametrize(
    ("direction", "upsample"),
    [("bottom_up", "bilinear"), ("top_down", "bilinear"), ("top_down", "subpixel")],
)
@pytest.mark.parametrize("level", ["", "p3"])
def test_levels_are_of_one_type_under_mixed_precision(device, direction, upsample, level):
    """On GPUs autocast computes bilinear up-sampling in float32, and convolutions not."""
    split = build(
        *("MODEL.FEATCOMP.MSFF.LEVEL", level),
        *("MODEL.FEATCOMP.MSFR.DIRECTION", direction),
        *("MODEL.FEATCOMP.MSFR.UPSAMPLE", upsample),
        channels=8,
    ).to(device)
    pyramid = {name: x.to(device) for name, x in make_pyramid(channels=8).items()}
    with torch.autocast(device.type, torch.bfloat16):
        restored = split.restore(split.reduce(pyramid), (HEIGHT, WIDTH))
    assert len({x.dtype for x in restored.values()}) == 1
