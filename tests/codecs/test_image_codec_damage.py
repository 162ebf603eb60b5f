"""Payloads of codecs of gray images that are damaged, foreign, or promise too much."""

import struct
import tracemalloc
import zlib

import imagecodecs
import numpy as np
import pytest
from gray_codecs import CLASSES, LOSSLESS, case, decoded, depths, dtype_of, is_lossless, noise, settings

from d2_featcomp.codecs import (
    BitstreamError,
    build_image_codec,
)
from d2_featcomp.codecs.images import hevc


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


def test_pngs_with_other_chunks_are_refused_before_they_are_decoded(monkeypatch):
    """Libpng inflates each of them, of up to 8 MB: 2 MB of such chunks took minutes."""
    samples = noise((17, 40), 8)
    data = build_image_codec("png", bits=8).encode(samples)
    text = b"zTXt" + b"a\0\0" + zlib.compress(bytes(100000))
    chunk = struct.pack(">I", len(text) - 4) + text + struct.pack(">I", zlib.crc32(text))
    first = 8 + 25  # after the signature and the header
    for bad in (data[:first] + chunk + data[first:], data[:-12] + chunk + data[-12:]):
        assert np.array_equal(imagecodecs.png_decode(bad), samples)
        with monkeypatch.context() as context:
            context.setattr(imagecodecs, "png_decode", None)  # not called
            with pytest.raises(BitstreamError, match="png payload holds more than an image"):
                CLASSES["png"].decode(bad, shape=(17, 40), bits=8, lossless=True)
    assert np.array_equal(CLASSES["png"].decode(data, shape=(17, 40), bits=8, lossless=True), samples)


def test_avif_frames_of_another_size_are_refused_before_they_are_decoded(monkeypatch):
    """Its library decodes a frame of any size, and shrinks it to the one that the file declares."""
    codec, samples = build_image_codec("avif", bits=8), np.zeros((640, 1300), np.uint8)
    data, small = codec.encode(samples), codec.encode(samples[:17, :40])
    shrunk = data.replace(struct.pack(">2I", 1300, 640), struct.pack(">2I", 40, 17))
    assert imagecodecs.avif_decode(shrunk).shape == (17, 40)
    frame = small[small.index(b"mdat") + 4 :]
    longer = small[: -len(frame) - 8] + struct.pack(">I4s", 8 + 2 * len(frame), b"mdat") + 2 * frame
    lengths = struct.pack(">2I", len(small) - len(frame), len(frame))
    two = longer.replace(lengths, struct.pack(">2I", len(small) - len(frame), 2 * len(frame)))
    assert two != longer
    monkeypatch.setattr(imagecodecs, "avif_decode", None)  # not called
    for bad, message in [
        (data, r"a frame of \(640, 1300\), not of \(17, 40\)"),
        (shrunk, r"a frame of \(640, 1300\), not of \(17, 40\)"),
        (two, "something else than one AV1 frame"),
        (small.replace(b"meta", b"free"), "no AVIF file of one picture"),
        (small.replace(b"iloc", b"free"), "one picture in one piece"),
        (small.replace(lengths, struct.pack(">2I", 0, 12)), "malformed AV1 unit"),
        (small[:-1], "cut short"),
        (small + small, "no AVIF file of one picture"),
        (small.replace(frame[:4], frame[:3] + b"\xff"), "AV1 unit that is cut short"),
        (small.replace(frame[:5], frame[:4] + b"\x00"), "no still AV1 picture"),
    ]:
        with pytest.raises(BitstreamError, match=f"avif payload cannot be decoded: .*{message}"):
            decoded(codec, bad, (17, 40))


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
