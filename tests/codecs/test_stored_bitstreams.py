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
    FeatureCodec,
)
from d2_featcomp.codecs.bitstream import VERSION

FOLDER = "tests/fixtures"
FILES = sorted(glob.glob(f"{FOLDER}/*.d2fc"))

spec = importlib.util.spec_from_file_location("writer", f"{FOLDER}/write_bitstreams.py")
writer = importlib.util.module_from_spec(spec)
spec.loader.exec_module(writer)


def read(path):
    with open(path, "rb") as file:
        return file.read()


def test_every_codec_has_one():
    stored = {os.path.basename(path).split(".")[0] for path in FILES}
    assert stored == set(writer.BITSTREAMS)
    codecs = {entry[0] for entry in writer.BITSTREAMS.values()}
    assert codecs == {name for name, _ in IMAGE_CODEC_REGISTRY}
    assert {entry[4] for entry in writer.BITSTREAMS.values()} == {
        *("MSFC", "Pyramid", "QLayer", "Layer", "BaF", "Image")
    }


@pytest.mark.parametrize("path", FILES, ids=os.path.basename)
def test_stored_bitstreams_are_read(path):
    name, version, _ = os.path.basename(path).split(".")
    assert version == f"v{VERSION}", "a later format reads this one, or says that it does not"
    codec, bits, _, quantizer, split, shapes = writer.BITSTREAMS[name]
    data = read(path)
    stream = FeatureBitstream.from_bytes(data)
    assert (stream.codec, stream.bits, stream.split) == (codec, bits, split)
    assert stream.quantizer == ("none" if bits == 32 else quantizer)
    assert [tensor.shape for tensor in stream.tensors] == shapes
    assert stream.sizes.original == (480, 640) and stream.fingerprint == b"\x01\x02\x03\x04"
    assert stream.to_bytes() == data
    try:
        IMAGE_CODEC_REGISTRY.get(codec).require_library()
    except ImportError:
        pytest.skip(f"no library of {codec}")
    step = 2 / (2**bits - 1)
    for tensor, shape in zip(FeatureCodec.decompress(stream), shapes, strict=True):
        error = (tensor - writer.features(shape)).abs()
        # Half a step, and the rounding of a range to 16 bits; lossy codecs add what they are set to.
        assert error.max() <= (step / 2 + 2e-3 if stream.lossless else 0.5)
        assert error.mean() <= (step / 2 if stream.lossless else 0.05)
    if bits == 32:
        assert torch.equal(tensor, writer.features(shapes[-1]))


def test_a_later_version_is_refused_by_name():
    body = bytearray(read(FILES[0])[:-4])
    body[4] = VERSION + 1
    later = bytes(body) + struct.pack("<I", zlib.crc32(body))
    with pytest.raises(BitstreamError, match=f"version {VERSION + 1}, this program reads {VERSION}"):
        FeatureBitstream.from_bytes(later)
