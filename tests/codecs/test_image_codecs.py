"""Checks that every registered codec of gray images must pass; a new one needs no line added here."""

import tracemalloc

import imagecodecs
import numpy as np
import pytest

from d2_featcomp.codecs import (
    IMAGE_CODEC_REGISTRY,
    BitstreamError,
    build_image_codec,
)
from d2_featcomp.codecs.images import hevc
from d2_featcomp.codecs.images.raw import count_fixed_length_bytes, read_fixed_length, write_fixed_length

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


# ---- damaged and foreign payloads ----------------------------------------------------------------


def damaged(data, seed):
    """Cut, lengthened, flipped, and replaced copies of `data`."""
    rng = np.random.default_rng(seed)
    for length in {0, 1, 2, 3, len(data) // 4, len(data) // 2, 3 * len(data) // 4, len(data) - 1}:
        yield data[:length]
    yield data + b"\x00"
    yield data + data
    for _ in range(40):
        copy = np.frombuffer(data, np.uint8).copy()
        copy[rng.integers(len(copy))] ^= rng.integers(1, 256, dtype=np.uint8)
        yield copy.tobytes()
    for length in (1, 7, len(data), 300):
        yield rng.bytes(length)


@pytest.mark.parametrize(
    "name, quality, bits",
    [
        case(name, quality, bits)
        for name in CLASSES
        for quality in settings(name)
        for bits in {depths(name)[0], 4, depths(name)[-1]}
    ],
)
def test_a_damaged_payload_is_decoded_or_refused_and_nothing_else(name, quality, bits):
    """Damage that a codec cannot see is the checksum's business; other errors are nobody's."""
    shape = (17, 40)
    codec = build_image_codec(name, bits=bits, quality=quality)
    for data in damaged(codec.encode(noise(shape, bits)), seed=bits):
        try:
            result = decoded(codec, data, shape)
        except BitstreamError as error:
            assert name in str(error) or "fixed-length symbols" in str(error)
        else:
            assert (result.shape, result.dtype) == (shape, dtype_of(bits))
            assert result.max() < 2**bits


@pytest.mark.parametrize("name", [case(name) for name in CLASSES])
def test_what_is_no_payload_at_all_is_refused(name):
    for data in (b"", b"\x00", b"no image", bytes(1000), np.random.default_rng(0).bytes(1000)):
        with pytest.raises(BitstreamError):
            CLASSES[name].decode(data, shape=(17, 40), bits=4, lossless=is_lossless(name, None))


@pytest.mark.parametrize(
    "name, quality, other",
    [
        case(name, quality, other)
        for name in CLASSES
        for quality in settings(name)
        for other in [(16, 40), (18, 40), (17, 39), (17, 41), (40, 17), (64, 64), (1, 1)]
        if (name, other) != ("raw", (40, 17))  # fixed-length symbols carry their number alone
    ],
)
def test_a_payload_of_another_shape_is_refused(name, quality, other):
    codec = build_image_codec(name, bits=4, quality=quality)
    data = codec.encode(noise((17, 40), 4))
    with pytest.raises(BitstreamError):
        decoded(codec, data, other)


@pytest.mark.parametrize("name", [case(name) for name in LOSSLESS if name != "raw"])
def test_a_payload_of_more_bits_is_refused(name):
    """For "raw" such a payload is of the wrong length, see below."""
    data = build_image_codec(name, bits=7).encode(np.full((17, 40), 100, np.uint8))
    with pytest.raises(BitstreamError):
        CLASSES[name].decode(data, shape=(17, 40), bits=6, lossless=True)
    bits = depths(name)[-1]
    data = build_image_codec(name, bits=bits).encode(np.full((17, 40), 300, np.uint16))
    with pytest.raises(BitstreamError):
        CLASSES[name].decode(data, shape=(17, 40), bits=8, lossless=True)


def test_a_cut_jpegls_payload_is_refused_before_it_is_decoded():
    """Its decoder would take seconds to notice."""
    data = build_image_codec("jpegls", bits=4).encode(noise((17, 40), 4))
    for length in (0, 60, len(data) // 2, len(data) - 1):
        with pytest.raises(BitstreamError, match="jpegls payload is cut short"):
            CLASSES["jpegls"].decode(data[:length], shape=(17, 40), bits=4, lossless=True)


@pytest.mark.parametrize("name", [case("hevc")])
def test_a_video_of_two_frames_is_refused(name):
    codec = build_image_codec(name, bits=4)
    data = codec.encode(noise((17, 40), 4))
    with pytest.raises(BitstreamError, match="holds 2 frames"):
        decoded(codec, data + data, (17, 40))


@pytest.mark.parametrize("name", [case("hevc")])
def test_a_long_video_is_refused_before_it_is_decoded(monkeypatch, name):
    data = build_image_codec(name, bits=4).encode(noise((17, 40), 4))
    decoded_packets = []

    class Decoder:
        def __init__(self, inner):
            object.__setattr__(self, "inner", inner)

        def __setattr__(self, key, value):
            setattr(self.inner, key, value)

        def parse(self, data):
            return self.inner.parse(data)

        def decode(self, packet):
            decoded_packets.append(packet)
            return self.inner.decode(packet)

    class Context:
        @staticmethod
        def create(*args):
            return Decoder(av_context.create(*args))

    av_context = hevc.av.CodecContext
    monkeypatch.setattr(hevc.av, "CodecContext", Context)
    assert CLASSES[name].decode(data, shape=(17, 40), bits=4, lossless=True).shape == (17, 40)
    assert len(decoded_packets) == 2  # one, and the end
    with pytest.raises(BitstreamError, match="holds 500 frames, not one"):
        CLASSES[name].decode(500 * data, shape=(17, 40), bits=4, lossless=True)
    assert len(decoded_packets) == 2


def segments(data):
    """A JPEG's list of (marker, its whole segment); the last is the scan with its data."""
    position, found = 2, []
    while True:
        length = int.from_bytes(data[position + 2 : position + 4], "big")
        end = len(data) - 2 if data[position + 1] == 0xDA else position + 2 + length
        found.append((data[position + 1], data[position:end]))
        position = end
        if found[-1][0] == 0xDA:
            return found


def test_jpegs_of_several_scans_are_refused_before_they_are_decoded(monkeypatch):
    samples = noise((17, 40), 8)
    data = imagecodecs.jpeg_encode(samples, level=90)
    parts = segments(data)
    scan, frame = parts[-1][1], next(part for marker, part in parts if marker == 0xC0)
    head = data[: -2 - len(scan)]
    progressive = head.replace(frame, b"\xff\xc2" + frame[2:])
    # After its header (2 + 8 bytes), a scan of another part of the spectrum.
    empty = scan[:7] + b"\x01\x05\x00"
    end = b"\xff\xd9"
    monkeypatch.setattr(imagecodecs, "jpeg_decode", None)  # not called
    for bad, message in [
        (progressive + scan + end, "no baseline JPEG"),
        (progressive + scan + 1000 * empty + end, "no baseline JPEG"),
        (head + scan + scan + end, "not one scan"),
        (head + scan + parts[1][1] + scan + end, "not one scan"),
        (head + frame + scan + end, "no baseline JPEG"),
        (head + scan, "not one scan"),
        (head + scan + end + end, "not one scan"),
        (head + end, "no JPEG image"),
        (b"\xff\xd8", "no JPEG image"),
    ]:
        with pytest.raises(BitstreamError, match=message):
            CLASSES["jpeg"].decode(bad, shape=(17, 40), bits=8, lossless=False)


@pytest.mark.parametrize("name", [case(name) for name in CLASSES])
def test_a_small_payload_of_a_huge_image_gets_no_memory(name):
    """The library refuses it for its size: the samples themselves are not looked at."""
    effort = CLASSES[name].effort_range and CLASSES[name].effort_range[0]
    codec = build_image_codec(name, bits=4, effort=effort)
    data = codec.encode(np.zeros((2048, 2048), np.uint8))
    tracemalloc.start()
    try:
        with pytest.raises(BitstreamError, match=r"cannot be decoded|fixed-length symbols"):
            decoded(codec, data, (8, 8))
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < 1 << 20


# ---- fixed-length symbols ------------------------------------------------------------------------


@pytest.mark.parametrize(
    "bits, symbols, packed",
    [
        (1, [1, 0, 0, 1, 1, 0, 0, 0, 1], "98 80"),
        (2, [0, 1, 2, 3, 3], "1b c0"),
        (3, [1, 2, 3, 4, 5, 6, 7, 0], "29 cb b8"),
        (4, [1, 15, 7], "1f 70"),
        (5, [1, 2, 31], "08 be"),
        (7, [127, 1], "fe 04"),
        (8, [0, 127, 255], "00 7f ff"),
        (9, [0x1FF, 0, 0x101], "ff 00 80 a0"),
        (10, [0x3FF, 0x001, 0x200], "ff 00 80 d0"),
        (12, [0xABC, 0x123], "ab 12 c3"),
        (16, [0x1234, 0xABCD], "12 ab 34 cd"),
        (4, [], ""),
    ],
)
def test_hand_worked_packing(bits, symbols, packed):
    symbols = np.array(symbols, dtype=dtype_of(bits))
    packed = bytes.fromhex(packed)
    assert write_fixed_length(symbols, bits) == packed
    assert count_fixed_length_bytes(len(symbols), bits) == len(packed)
    result = read_fixed_length(packed, len(symbols), bits)
    assert result.dtype == symbols.dtype
    assert np.array_equal(result, symbols)


def in_binary(values, bits):
    """The codes one after the other, by way of text."""
    text = "".join(format(value, f"0{bits}b") for value in values)
    text += "0" * (-len(text) % 8)
    return bytes(int(text[start : start + 8], 2) for start in range(0, len(text), 8))


@pytest.mark.parametrize("count", [1, 2, 7, 8, 9, 64, 101])
@pytest.mark.parametrize("bits", range(1, 17))
def test_packing_at_every_depth(bits, count):
    symbols = noise(count, bits, seed=count)
    symbols[-1] = 2**bits - 1
    values = symbols.tolist()
    if bits <= 8:
        expected = in_binary(values, bits)
    else:
        expected = bytes(value >> (bits - 8) for value in values)
        expected += in_binary([value % 2 ** (bits - 8) for value in values], bits - 8)
    packed = write_fixed_length(symbols, bits)
    assert packed == expected
    assert len(packed) == count_fixed_length_bytes(count, bits) == (count * bits + 7) // 8
    assert np.array_equal(read_fixed_length(packed, count, bits), symbols)


@pytest.mark.parametrize("bits", range(1, 17))
def test_packed_symbols_of_the_wrong_length_are_refused(bits):
    packed = write_fixed_length(noise(19, bits), bits)
    for data in (b"", packed[:-1], packed + b"\x00", packed + packed):
        taken = f"19 fixed-length symbols of {bits} bits take {len(packed)}"
        with pytest.raises(BitstreamError, match=taken):
            read_fixed_length(data, 19, bits)


@pytest.mark.parametrize("bits", range(2, 17))
def test_the_raw_codec_is_plain_packing(bits):
    symbols = noise((3, 5), bits)
    data = build_image_codec("raw", bits=bits).encode(symbols)
    assert data == write_fixed_length(symbols.reshape(-1), bits)
    for other in (data[:-1], data + b"\x00"):
        with pytest.raises(BitstreamError):
            CLASSES["raw"].decode(other, shape=(3, 5), bits=bits, lossless=True)
