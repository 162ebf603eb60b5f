"""Bitstreams that earlier releases wrote: they are read, or refused for their version."""

import glob
import importlib.util
import os
import struct
import zlib

import pytest
import torch

from d2_featcomp.codecs import (
    IMAGE_CODEC_REGISTRY,
    BitstreamError,
    FeatureBitstream,
    decompress_stream,
    describe_stream,
)

FOLDER = "tests/fixtures"
FILES = sorted(glob.glob(f"{FOLDER}/*.d2fc"))

spec = importlib.util.spec_from_file_location("writer", f"{FOLDER}/write_bitstreams.py")
writer = importlib.util.module_from_spec(spec)
spec.loader.exec_module(writer)


def read(path):
    with open(path, "rb") as file:
        return file.read()


@pytest.mark.parametrize("version", [1, 2])
def test_every_codec_has_one(version):
    found = [os.path.basename(path).split(".") for path in FILES]
    stored = {name for name, of_version, _ in found if of_version == f"v{version}"}
    assert stored == set(writer.BITSTREAMS)
    codecs = {entry[0] for entry in writer.BITSTREAMS.values()}
    assert codecs == {name for name, _ in IMAGE_CODEC_REGISTRY}
    assert {entry[4] for entry in writer.BITSTREAMS.values()} == {
        *("MSFC", "Pyramid", "QLayer", "Layer", "BaF", "Image")
    }


@pytest.mark.parametrize("path", FILES, ids=os.path.basename)
def test_stored_bitstreams_are_read(path):
    name, version, _ = os.path.basename(path).split(".")
    codec, bits, _, quantizer, split, shapes = writer.BITSTREAMS[name]
    data = read(path)
    stream = FeatureBitstream.from_bytes(data)
    assert f"v{stream.version}" == version
    if stream.version == 2:
        described = describe_stream(
            writer.codec_of(name), split=split, shapes=shapes, feature_elements=1
        )
        stream = stream.described(described)
    assert (stream.codec, stream.bits, stream.split) == (codec, bits, split)
    assert stream.quantizer == ("none" if bits == 32 else quantizer)
    assert stream.shapes == tuple(shapes)
    assert stream.sizes.original == (480, 640) and stream.fingerprint == b"\x01\x02\x03\x04"
    assert stream.to_bytes() == data
    try:
        IMAGE_CODEC_REGISTRY.get(codec).require_library()
    except ImportError:
        pytest.skip(f"no library of {codec}")
    step = 2 / (2**bits - 1)
    for tensor, shape in zip(decompress_stream(stream, writer.codec_of(name)), shapes, strict=True):
        error = (tensor - writer.features(shape)).abs()
        # Half a step, and the rounding of a range to 16 bits; lossy codecs add what they are set to.
        assert error.max() <= (step / 2 + 2e-3 if stream.lossless else 0.5)
        assert error.mean() <= (step / 2 if stream.lossless else 0.05)
    if bits == 32:
        assert torch.equal(tensor, writer.features(shapes[-1]))


@pytest.mark.parametrize(("version", "position"), [(1, 4), (2, 2)])
def test_a_later_version_is_refused_by_name(version, position):
    path = next(path for path in FILES if f".v{version}." in path)
    body = bytearray(read(path)[:-4])
    assert body[position] == version
    body[position] = 7
    later = bytes(body) + struct.pack("<I", zlib.crc32(body))
    with pytest.raises(BitstreamError, match="format version 7, this program reads 1 and 2"):
        FeatureBitstream.from_bytes(later)


@pytest.mark.parametrize("name", writer.BITSTREAMS)
def test_both_formats_hold_the_same(name):
    try:
        codec = writer.codec_of(name)
    except ImportError as error:
        pytest.skip(str(error))
    old = FeatureBitstream.from_bytes(read(f"{FOLDER}/{name}.v1.d2fc"))
    new = FeatureBitstream.from_bytes(read(f"{FOLDER}/{name}.v2.d2fc")).described(old.description)
    restored = [decompress_stream(stream, codec) for stream in (old, new)]
    assert all(torch.equal(x, y) for x, y in zip(*restored, strict=True))
    assert new.total_bits <= old.total_bits - 8 * 18
