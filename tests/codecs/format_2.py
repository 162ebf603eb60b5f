"""Small streams of format 2, which is written today: shared by its tests."""

import struct
import zlib

import numpy as np
import torch

from d2_featcomp.codecs import (
    IMAGE_CODEC_REGISTRY,
    ImageSizes,
    QuantizedFeatureCodec,
    build_image_codec,
    compress_stream,
)

SIZES = ImageSizes((192, 256), (180, 240), (480, 640))
FINGERPRINT = b"\x01\xfe\x80\x7f"
MEGABYTE = 1 << 20


def installed_codecs():
    for name, codec in IMAGE_CODEC_REGISTRY:
        try:
            codec.require_library()
        except ImportError:
            continue
        if codec.layout != "colour":
            yield name


CODECS = sorted(installed_codecs())


def codec_of(name="raw", bits=4, quantizer="fixed", **more):
    return QuantizedFeatureCodec(
        image_codec=build_image_codec(name, bits=bits, **more), quantizer=quantizer
    )


def compress(ys, codec=None, **others):
    fields = {"split": "MSFC", "fingerprint": FINGERPRINT, "sizes": SIZES, "feature_elements": 86016}
    return compress_stream(ys, codec or codec_of(), **{**fields, **others})


def ramp(*shape):
    """Latents that run from -1 to 1."""
    return torch.linspace(-1, 1, int(np.prod(shape))).reshape(shape)


def sealed(body):
    """`body` with a valid checksum."""
    return body + struct.pack("<I", zlib.crc32(body))


# ---- the layout, written a second time -----------------------------------------------------------


def varint(value):
    """Unsigned LEB128 in its shortest form."""
    low, high = value % 128, value // 128
    return bytes([low]) if high == 0 else bytes([low + 128]) + varint(high)


def size(height, width):
    return varint(height) + varint(width)


def text(characters):
    return bytes([len(characters)]) + characters


FIELDS = {
    "magic": b"D2",
    "version": b"\x02",
    "flags": b"\x0d",  # to multiples of 2^5, original follows
    "fingerprint": FINGERPRINT,
    "resized": size(180, 240),
    "padded": b"",
    "original": size(480, 640),
    "table": b"",
    "ranges": b"",
    "payload": bytes.fromhex("03 69 cf"),
}


def stream_of(**fields):
    """The bytes of a small stream, some of its fields replaced, with a valid checksum."""
    assert set(fields) <= set(FIELDS)
    return sealed(b"".join({**FIELDS, **fields}.values()))


TABLE = (
    b"\x02"  # tensors
    + (b"\x05" + text(b"") + varint(3) + text(b"z") + varint(1) + varint(2))  # 2 strings, fixed-length
    + (b"\x02" + text(b"hyper") + varint(0) + varint(0))
)
RANGES = struct.pack("<4e", -1.0, 1.0, 0.0, 7.0)
