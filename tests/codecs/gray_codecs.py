"""The codecs of gray images, and images for them: shared by their tests."""

import numpy as np
import pytest

from d2_featcomp.codecs import (
    IMAGE_CODEC_REGISTRY,
)

SIZES = [(1, 1), (3, 5), (17, 40), (64, 64)]
CLASSES = {name: codec for name, codec in IMAGE_CODEC_REGISTRY if codec.layout != "colour"}


def installed(codec):
    try:
        CLASSES[codec].require_library()
    except ImportError:
        return False
    return True


def case(codec, *others):
    """Parameters of a test that is skipped where the codec's library is not installed."""
    return pytest.param(
        codec, *others, marks=pytest.mark.skipif(not installed(codec), reason=f"no library of {codec}")
    )


def depths(codec):
    return [bits for bits in CLASSES[codec].bit_depths if bits <= 16]


def qualities(codec):
    """A poor and a good QUALITY; () for a codec that takes none."""
    if CLASSES[codec].quality_range is None:
        return ()
    low, high = CLASSES[codec].quality_range
    ends = (round(low + 0.1 * (high - low)), round(low + 0.9 * (high - low)))
    return ends if "larger is better" in CLASSES[codec].quality_meaning else ends[::-1]


def is_lossless(codec, quality):
    return quality is None and CLASSES[codec].default_quality is None


def settings(codec):
    """The default, and a good QUALITY."""
    return (None, *qualities(codec)[1:])


LOSSLESS = [codec for codec in CLASSES if is_lossless(codec, None)]
LOSSY = [
    (codec, quality)
    for codec in CLASSES
    for quality in settings(codec)
    if not is_lossless(codec, quality)
]


def dtype_of(bits):
    return np.uint8 if bits <= 8 else np.uint16


def noise(shape, bits, seed=0):
    return np.random.default_rng(seed).integers(0, 2**bits, shape, dtype=dtype_of(bits))


def smooth(shape, bits):
    """Slow waves over the full range of symbols."""
    y, x = np.mgrid[: shape[0], : shape[1]]
    waves = 0.5 + 0.25 * np.sin(x / 9) + 0.25 * np.cos(y / 7 + x / 31)
    return np.round(waves * (2**bits - 1)).astype(dtype_of(bits))


def decoded(codec, data, shape):
    return type(codec).decode(data, shape=shape, bits=codec.bits, lossless=codec.lossless)
