"""Checks that every registered codec of gray images must pass; a new one needs no line added here."""

import numpy as np
import pytest
from gray_codecs import (
    CLASSES,
    LOSSLESS,
    LOSSY,
    SIZES,
    case,
    decoded,
    depths,
    dtype_of,
    noise,
    qualities,
    settings,
    smooth,
)

from d2_featcomp.codecs import (
    build_image_codec,
)
from d2_featcomp.codecs.images import hevc

# ---- round trips ---------------------------------------------------------------------------------


def test_the_codecs_of_the_papers_and_their_rivals_are_registered():
    assert {"raw", "png", "jpeg", "jpegxl", "jpegls", "avif", "hevc"} <= set(CLASSES)
    assert {"raw", "png", "jpegxl", "jpegls", "hevc"} <= set(LOSSLESS)
    assert all(name == codec.name for name, codec in CLASSES.items())


@pytest.mark.parametrize("shape", SIZES)
@pytest.mark.parametrize("name, bits", [case(name, bits) for name in LOSSLESS for bits in depths(name)])
def test_lossless_codecs_are_exact(name, bits, shape):
    codec = build_image_codec(name, bits=bits)
    assert codec.lossless
    constants = [np.full(shape, value, dtype_of(bits)) for value in (0, 2**bits - 1)]
    for symbols in (noise(shape, bits), smooth(shape, bits), *constants):
        data = codec.encode(symbols)
        assert isinstance(data, bytes)
        result = decoded(codec, data, shape)
        assert result.dtype == symbols.dtype
        assert np.array_equal(result, symbols)


@pytest.mark.parametrize("shape", SIZES)
@pytest.mark.parametrize(
    "name, quality, bits", [case(*setting, bits) for setting in LOSSY for bits in depths(setting[0])]
)
def test_lossy_codecs_come_close(name, quality, bits, shape):
    codec = build_image_codec(name, bits=bits, quality=quality)
    assert not codec.lossless
    symbols = smooth(shape, bits)
    data = codec.encode(symbols)
    assert isinstance(data, bytes)
    result = decoded(codec, data, shape)
    assert (result.shape, result.dtype) == (shape, dtype_of(bits))
    assert result.max() < 2**bits
    error = np.abs(result.astype(float) - symbols) / (2**bits - 1)
    assert error.mean() <= 0.05
    assert np.array_equal(decoded(codec, data, shape), result)


@pytest.mark.parametrize("name", [case("hevc")])
@pytest.mark.parametrize(("bits", "largest"), [(10, 51), (11, 49), (12, 49)])
def test_the_largest_qp_still_shows_the_image(name, bits, largest):
    """FFmpeg decodes frames of 12 bits and a larger QP to plain gray."""
    codec, symbols = build_image_codec(name, bits=bits, quality=largest), smooth((48, 64), bits)
    error = np.abs(decoded(codec, codec.encode(symbols), symbols.shape).astype(float) - symbols)
    assert error.mean() < 0.06 * 2**bits < np.abs(symbols - symbols.mean()).mean()
    with pytest.raises(ValueError, match=rf"CODEC\.QUALITY .*hevc.*0 to {largest}"):
        build_image_codec(name, bits=bits, quality=largest + 1)


@pytest.mark.parametrize(
    "name, bits",
    [case(name, bits) for name in CLASSES if qualities(name) for bits in depths(name) if bits >= 6],
)
def test_better_quality_costs_bytes_and_saves_error(name, bits):
    symbols = smooth((64, 64), bits)
    sizes, errors = [], []
    for quality in qualities(name):
        codec = build_image_codec(name, bits=bits, quality=quality)
        data = codec.encode(symbols)
        sizes.append(len(data))
        errors.append(np.square(decoded(codec, data, symbols.shape).astype(float) - symbols).mean())
    assert sizes[0] < sizes[1]
    assert errors[0] > errors[1]


@pytest.mark.parametrize("name", [case(name) for name in CLASSES if CLASSES[name].effort_range])
def test_no_effort_changes_what_a_lossless_codec_decodes(name):
    symbols = smooth((17, 40), 5)
    for effort in CLASSES[name].effort_range:
        codec = build_image_codec(name, bits=5, effort=effort)
        result = decoded(codec, codec.encode(symbols), symbols.shape)
        assert np.abs(result.astype(int) - symbols).max() <= (0 if codec.lossless else 2)


@pytest.mark.parametrize(
    "name, quality", [case(name, quality) for name in CLASSES for quality in settings(name)]
)
def test_memory_layout_does_not_matter(name, quality):
    codec = build_image_codec(name, bits=5, quality=quality)
    symbols = noise((17, 40), 5)
    data = codec.encode(symbols)
    assert codec.encode(np.asfortranarray(symbols)) == data
    assert codec.encode(np.repeat(symbols, 2, axis=1)[:, ::2]) == data


@pytest.mark.parametrize("name", [case(name) for name in CLASSES])
def test_encoding_is_reproducible(name):
    symbols = noise((17, 40), 4)
    first, second = (build_image_codec(name, bits=4).encode(symbols) for _ in range(2))
    assert first == second


def test_jpegxl_at_distance_0_is_lossless():
    assert build_image_codec("jpegxl", bits=4, quality=0).lossless
    assert not build_image_codec("jpegxl", bits=4, quality=0.5).lossless


@pytest.mark.parametrize(
    "name, bits, samples",
    [
        case("jpeg", 2, [0, 85, 170, 255]),
        case("jpeg", 3, [0, 36, 73, 109, 146, 182, 219, 255]),
        case("jpeg", 8, list(range(256))),
        case("jpegxl", 9, [0, 128, 256, 385]),  # steps of 65535 / 511 = 128.2485
        case("jpegxl", 16, [0, 1, 2, 3]),
        case("avif", 9, [0, 2, 4, 6]),  # steps of 1023 / 511 = 2.002
        case("avif", 11, [0, 2, 4, 6]),  # steps of 4095 / 2047 = 2.0005
        case("hevc", 4, list(range(0, 256, 17))),
    ],
)
def test_lossy_codecs_see_symbols_stretched_to_the_full_range(monkeypatch, name, bits, samples):
    """Hand-worked samples; those of the largest symbols are the largest that a sample can be."""
    codec = build_image_codec(name, bits=bits, quality=20)
    seen = []
    monkeypatch.setattr(codec, "_encode", lambda image: seen.append(image) or b"")
    monkeypatch.setattr(CLASSES[name], "_decode", lambda data, shape, depth: seen[0])
    symbols = np.arange(2**bits, dtype=dtype_of(bits)).reshape(2, -1)
    codec.encode(symbols)
    assert seen[0].reshape(-1)[: len(samples)].tolist() == samples
    assert seen[0].max() == 2 ** CLASSES[name].sample_depth(bits) - 1
    assert np.array_equal(decoded(codec, b"", symbols.shape), symbols)


# ---- settings out of range -----------------------------------------------------------------------


def test_an_unknown_codec_is_refused_with_the_list_of_known_ones():
    with pytest.raises(ValueError, match="unknown image codec 'jpegxs'") as caught:
        build_image_codec("jpegxs", bits=4)
    assert all(name in str(caught.value) for name in CLASSES)


@pytest.mark.parametrize(
    "name, bits",
    [
        case(name, bits)
        for name in CLASSES
        for bits in (-1, 0, 1, 9, 13, 17, 32, 33)
        if bits not in CLASSES[name].bit_depths
    ],
)
def test_a_bit_depth_out_of_range_is_refused(name, bits):
    with pytest.raises(ValueError, match=rf"{name}.* {bits} bits.*CODEC\.BITS"):
        build_image_codec(name, bits=bits)


@pytest.mark.parametrize("key", ["quality", "effort"])
@pytest.mark.parametrize("name", [case(name) for name in CLASSES])
def test_a_setting_out_of_range_is_refused(name, key):
    allowed = getattr(CLASSES[name], f"{key}_range")
    if allowed is None:
        with pytest.raises(ValueError, match=rf"'{name}' takes no CODEC\.{key.upper()}"):
            build_image_codec(name, bits=4, **{key: 1})
        return
    low, high = allowed
    for value in (low - 1, low - 0.01, high + 0.01, high + 1, float("nan"), float("inf")):
        with pytest.raises(ValueError, match=rf"CODEC\.{key.upper()} .*{name}.*{low} to {high}"):
            build_image_codec(name, bits=4, **{key: value})
    for value in ("good", True, (1,)):
        with pytest.raises(ValueError, match=rf"CODEC\.{key.upper()} must be a number"):
            build_image_codec(name, bits=4, **{key: value})
    for value in allowed:
        assert getattr(build_image_codec(name, bits=4, **{key: value}), key) in (value, None)


@pytest.mark.parametrize(
    "name, key",
    [
        *[case(name, "quality") for name in ("jpeg", "avif", "hevc")],
        *[case(name, "effort") for name in ("png", "jpegxl", "avif", "hevc")],
    ],
)
def test_fractions_are_refused_where_a_library_takes_whole_numbers(name, key):
    with pytest.raises(ValueError, match=rf"CODEC\.{key.upper()} 4\.5 must be a whole number"):
        build_image_codec(name, bits=4, **{key: 4.5})
    assert getattr(build_image_codec(name, bits=4, **{key: 4.0}), key) == 4


def test_some_codecs_take_no_quality_and_some_no_effort():
    """So that the branch above for such codecs is known to run."""
    assert {"raw", "png", "jpegls"} <= {name for name in CLASSES if not CLASSES[name].quality_range}
    assert {"raw", "jpeg", "jpegls"} <= {name for name in CLASSES if not CLASSES[name].effort_range}


def test_a_missing_library_is_one_clear_error(monkeypatch):
    monkeypatch.setattr(hevc, "av", None)
    for call in (
        lambda: build_image_codec("hevc", bits=4),
        lambda: build_image_codec("hevc", bits=99),
        lambda: CLASSES["hevc"].decode(b"", shape=(4, 4), bits=4, lossless=True),
    ):
        with pytest.raises(ImportError, match=r"pip install 'd2_featcomp\[hevc\]'") as caught:
            call()
        assert "\n" not in str(caught.value)
        assert caught.value.__cause__ is None
