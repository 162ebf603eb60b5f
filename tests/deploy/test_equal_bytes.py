import numpy as np
import pytest

from d2_featcomp.codecs import build_image_codec
from d2_featcomp.deploy import equal_bytes
from d2_featcomp.deploy.equal_bytes import code_to_size


@pytest.fixture(scope="module")
def pixels():
    """A smooth image with some noise."""
    y, x = np.mgrid[:64, :96]
    waves = 127 + 80 * np.sin(x[..., None] / (5, 9, 13)) * np.cos(y[..., None] / 7)
    noise = np.random.default_rng(0).normal(0, 8, waves.shape)
    return np.uint8(np.clip(waves + noise, 0, 255))


@pytest.mark.parametrize("target", [1000, 3000])
def test_the_nearest_of_all_qualities(pixels, target):
    found = code_to_size(pixels, target, "jpeg420")
    sizes = {
        quality: len(build_image_codec("jpeg420", bits=8, quality=quality).encode(pixels))
        for quality in range(1, 101)
    }
    nearest = min(abs(np.log(size / target)) for size in sizes.values())
    assert abs(np.log(found.size / target)) == pytest.approx(nearest)
    assert found.size == sizes[found.quality] and not found.coarsest
    assert found.pixels.shape == pixels.shape and found.pixels.dtype == np.uint8
    assert found.describe() == f"JPEG 4:2:0 image, quality {found.quality}: {found.size} bytes"


def test_hevc_goes_from_large_to_small_parameters(pixels):
    pytest.importorskip("av")
    small, large = (code_to_size(pixels, target, "hevc420") for target in (300, 1500))
    assert small.quality > large.quality and small.size < large.size
    assert large.size == pytest.approx(1500, rel=0.15)
    assert small.describe() == f"HEVC 4:2:0 image, QP {small.quality}: {small.size} bytes"


def test_a_target_below_all_gets_the_coarsest_and_says_so(pixels):
    found = code_to_size(pixels, 10, "jpeg420")
    assert found.quality == 1 and found.size > 10 and found.coarsest
    assert found.describe().endswith(f": {found.size} bytes (no fewer are possible)")


def test_a_target_above_all_gets_the_finest(pixels):
    found = code_to_size(pixels, 10**6, "jpeg420")
    assert found.quality == 100 and not found.coarsest


def test_jpeg_where_hevc_is_missing(pixels, monkeypatch):
    from d2_featcomp.codecs.images import hevc

    monkeypatch.setattr(hevc, "av", None)
    assert equal_bytes.code_to_size(pixels, 1000).codec == "jpeg420"
