"""Small streams of format 1: shared by its tests."""

import struct
import tracemalloc
import zlib

import pytest

from d2_featcomp.codecs import (
    BitstreamError,
    FeatureBitstream,
    ImageSizes,
    decompress_stream,
)

SIZES = ImageSizes((192, 256), (180, 240), (480, 640))
MEGABYTE = 1 << 20


# ---- the layout, written a second time -----------------------------------------------------------


def varint(value):
    """Unsigned LEB128 in its shortest form."""
    low, high = value % 128, value // 128
    return bytes([low]) if high == 0 else bytes([low + 128]) + varint(high)


def text(characters):
    return bytes([len(characters)]) + characters


FIELDS = {
    "magic": b"D2FC",
    "version": b"\x01",
    "flags": b"\x01",
    "bits": b"\x04",
    "quantizer": b"\x01",
    "split": text(b"MSFC"),
    "codec": text(b"raw"),
    "fingerprint": b"\x01\xfe\x80\x7f",
    "sizes": b"".join(map(varint, (192, 256, 180, 240, 480, 640))),
    "feature_elements": varint(86016),
    "count": b"\x01",
    "shape": varint(2) + varint(1) + varint(3),
    "length": varint(2 * 3),
    "ranges": struct.pack("<2e", -1.0, 1.0),
    "payload": bytes.fromhex("03 69 cf"),
}


def sealed(body):
    """`body` with a valid checksum."""
    return body + struct.pack("<I", zlib.crc32(body))


def stream_of(**fields):
    """The bytes of a small stream, some of its fields replaced, with a valid checksum."""
    assert set(fields) <= set(FIELDS)
    return sealed(b"".join({**FIELDS, **fields}.values()))


def refuse(data, match=None, peak=MEGABYTE, limits=None):
    """Asserts that neither reading nor decoding accepts `data`, and that little memory is taken."""
    tracemalloc.start()
    try:
        with pytest.raises(BitstreamError, match=match) as caught:
            stream = FeatureBitstream.from_bytes(data, **({"limits": limits} if limits else {}))
            decompress_stream(stream)
        used = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert type(caught.value) is BitstreamError
    assert used < peak


# ---- yesterday's bytes ---------------------------------------------------------------------------

# raw, 4 bits, one range for each channel; two tensors: 2 x 1 x 3 and 1 x 2 x 2.
STORED = bytes.fromhex(
    "44324643 01 01 04 03 044d534643 03726177 01fe807f"
    "c001 8002 b401 f001 e003 8005 80a005 02"
    "020103 06  010202 04"
    "00bc 003c  0000 0047  00c0 00b8"
    "07f0af  05af"
    "d6e07cfc"
)
