"""Codecs of colour images: of the "cloud-only" anchor."""

import numpy as np
import pytest
import torch

from d2_featcomp.codecs import (
    IMAGE_CODEC_REGISTRY,
    BitstreamError,
    FeatureBitstream,
    ImageSizes,
    QuantizedFeatureCodec,
    build_image_codec,
    compress_stream,
)

QUALITIES = {  # poor to good
    "jpeg420": (10, 60, 95),
    "jpegxl_rgb": (15, 3, 0.2),
    "avif420": (10, 50, 95),
    "hevc420": (45, 28, 10),
}
SIZES = [(1, 1), (3, 5), (16, 16), (17, 41), (64, 96)]


def installed(name):
    try:
        IMAGE_CODEC_REGISTRY.get(name).require_library()
    except ImportError:
        return False
    return True


pytestmark = pytest.mark.parametrize(
    "name",
    [
        pytest.param(n, marks=pytest.mark.skipif(not installed(n), reason=f"no library of {n}"))
        for n in QUALITIES
    ],
)


def picture(shape):
    """Slow waves, of other lengths in each channel, that 4:2:0 hardly harms."""
    y, x = np.mgrid[: shape[0], : shape[1]]
    waves = [np.sin(x / 9 + k) + np.cos(y / (7 + k) + x / 31) for k in range(3)]
    return np.round(127.5 + 60 * np.stack(waves, axis=2)).astype(np.uint8)


def decoded(codec, data, shape):
    return type(codec).decode(data, shape=shape, bits=8, lossless=False)


def test_every_colour_codec_is_covered_here(name):
    colour = {codec for codec, kind in IMAGE_CODEC_REGISTRY if kind.layout == "colour"}
    assert colour == set(QUALITIES)


@pytest.mark.parametrize("shape", SIZES)
def test_images_come_back(name, shape):
    image = picture(shape)
    codec = build_image_codec(name, bits=8, quality=QUALITIES[name][-1])
    data = codec.encode(image)
    assert isinstance(data, bytes) and data == codec.encode(np.asfortranarray(image))
    result = decoded(codec, data, image.shape)
    assert (result.shape, result.dtype) == (image.shape, np.uint8)
    error = np.abs(result.astype(int) - image)
    assert error.mean() <= 4, error.mean()


def test_channels_keep_their_places(name):
    image = np.zeros((32, 32, 3), np.uint8)
    image[..., 0], image[..., 2] = 200, 40
    codec = build_image_codec(name, bits=8)
    mean = decoded(codec, codec.encode(image), image.shape).mean(axis=(0, 1))
    assert np.abs(mean - [200, 0, 40]).max() < 12


def test_better_quality_costs_bytes_and_saves_error(name):
    image, sizes, errors = picture((64, 96)), [], []
    image = np.clip(image + np.random.default_rng(0).normal(0, 12, image.shape), 0, 255).astype(np.uint8)
    for quality in QUALITIES[name]:
        codec = build_image_codec(name, bits=8, quality=quality)
        data = codec.encode(image)
        sizes.append(len(data))
        errors.append(np.square(decoded(codec, data, image.shape).astype(float) - image).mean())
    assert sizes == sorted(sizes) and errors == sorted(errors, reverse=True)
    assert sizes[0] < sizes[-1] / 2


def test_damage_is_refused_or_decoded_and_nothing_else(name):
    image = picture((17, 41))
    codec, rng = build_image_codec(name, bits=8), np.random.default_rng(0)
    data = codec.encode(image)
    damaged = [data[:length] for length in (0, 1, 10, len(data) // 2, len(data) - 1)]
    for _ in range(30):
        copy = np.frombuffer(data, np.uint8).copy()
        copy[rng.integers(len(copy))] ^= rng.integers(1, 256, dtype=np.uint8)
        damaged.append(copy.tobytes())
    refused = 0
    for bad in damaged:
        try:
            assert decoded(codec, bad, image.shape).shape == image.shape
        except BitstreamError:
            refused += 1
    assert refused >= 3


@pytest.mark.parametrize("other", [(15, 41, 3), (19, 41, 3), (17, 43, 3), (64, 64, 3), (1, 1, 3)])
def test_a_payload_of_another_size_is_refused(name, other):
    codec = build_image_codec(name, bits=8)
    with pytest.raises(BitstreamError):
        decoded(codec, codec.encode(picture((17, 41))), other)


def test_other_settings_are_refused(name):
    for bits in (4, 7, 9, 32):
        with pytest.raises(ValueError, match=r"cannot carry .* bits"):
            build_image_codec(name, bits=bits)
    with pytest.raises(ValueError, match=r"CODEC\.QUALITY"):
        build_image_codec(name, bits=8, quality=101)


def test_through_the_bitstream(name):
    image = torch.from_numpy(picture((17, 41))).permute(2, 0, 1).float()
    codec = QuantizedFeatureCodec(
        image_codec=build_image_codec(name, bits=8, quality=QUALITIES[name][-1]),
        quantizer="fixed",
        value_range=(0.0, 255.0),
    )
    fields = {
        "split": "Image",
        "fingerprint": bytes(4),
        "sizes": ImageSizes((17, 41), (17, 41), (17, 41)),
        "feature_elements": image.numel(),
    }
    stream = FeatureBitstream.from_bytes(compress_stream([image], codec, **fields).to_bytes())
    assert stream.payload_bits < 8 * image.numel()
    (restored,) = codec.decompress(stream.tensors, [image.shape])
    assert (restored - image).abs().mean() <= 4
    noise = torch.randint(0, 256, (3, 4, 4), generator=torch.Generator().manual_seed(0)).float()
    tensors = codec.compress([noise])
    assert tensors[0].fixed_length  # never larger than raw, and then exact
    assert torch.equal(codec.decompress(tensors, [noise.shape])[0], noise)
    with pytest.raises(ValueError, match="3 channels, not 4"):
        codec.compress([torch.zeros(4, 8, 8)])


def test_qp_is_that_of_the_frame(name):
    """At QP 0 to 51 each step changes the stream; x265 would otherwise code intra frames 3 QP finer."""
    if name != "hevc420":
        pytest.skip("no QP")
    image = picture((64, 96))
    image = np.clip(image + np.random.default_rng(0).normal(0, 30, image.shape), 0, 255).astype(np.uint8)
    sizes = [len(build_image_codec(name, bits=8, quality=qp).encode(image)) for qp in (0, 1, 2, 3, 4, 5)]
    assert sizes == sorted(set(sizes), reverse=True)
