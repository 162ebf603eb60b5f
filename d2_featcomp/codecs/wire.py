"""Bytes of the two formats of a feature bitstream; `bitstream.py` documents them."""

import struct
import zlib

import numpy as np

from ..ops import BIT_DEPTHS, FLOAT_BITS
from .images import BitstreamError
from .structures import CodedTensor, ImageSizes, StreamDescription, are_ranges

__all__ = ["FINGERPRINT_BYTES", "VERSIONS", "join_parts", "parse_stream", "write_parts"]

VERSIONS = (1, 2)
FINGERPRINT_BYTES = 4
CHECKSUM_BYTES = 4
MAGIC = b"D2"
MAGIC_1 = b"D2FC"
QUANTIZERS = ("none", "fixed", "tensor", "channel")
_VARINT_MAX_BYTES = 5

# Flags of format 1 and 2.
_LOSSLESS = 1
_PADDING, _EXPLICIT_PADDING = 0b111, 1
_ORIGINAL, _TABLE, _FIXED_LENGTH = 1 << 3, 1 << 4, 1 << 5


def write_parts(stream):
    """Returns (header, side information, payload) of a FeatureBitstream, bytes, without the checksum.

    Raises:
        ValueError: a field cannot be written in the stream's format.
    """
    header = (_header_1 if stream.version == 1 else _header_2)(stream)
    ranges = (tensor.ranges for tensor in stream.tensors if tensor.ranges is not None)
    side_info = b"".join(pairs.tobytes() for pairs in ranges)
    return header, side_info, b"".join(tensor.payload for tensor in stream.tensors)


def join_parts(parts):
    """Joins the result of :func:`write_parts` and appends the checksum."""
    body = b"".join(parts)
    return body + struct.pack("<I", zlib.crc32(body))


def parse_stream(data, limits):
    """Parses bytes of either format.

    Args:
        data (bytes): one whole bitstream.
        limits (DecodeLimits): what to refuse.

    Returns:
        dict: arguments of FeatureBitstream.

    Raises:
        BitstreamError: as :meth:`FeatureBitstream.from_bytes`.
    """
    if data[: len(MAGIC)] != MAGIC:
        raise BitstreamError("these bytes are no feature bitstream: they do not begin with D2")
    body, checksum = data[:-CHECKSUM_BYTES], data[-CHECKSUM_BYTES:]
    old = body.startswith(MAGIC_1)
    position = len(MAGIC_1 if old else MAGIC)
    if len(body) <= position:
        raise BitstreamError("feature bitstream is cut short")
    if struct.pack("<I", zlib.crc32(body)) != checksum:
        raise BitstreamError("feature bitstream is damaged or cut short: its checksum is wrong")
    version = body[position]
    if version != (1 if old else 2):
        raise BitstreamError(
            f"feature bitstream has format version {version}, this program reads 1 and 2: use matching "
            "releases of d2_featcomp on both sides"
        )
    reader = _Reader(body, position + 1, limits)
    return _parse_1(reader) if old else _parse_2(reader)


class _Reader:
    """Reads the fields of a bitstream one after the other."""

    def __init__(self, body, position, limits):
        self.body, self.position, self.limits = body, position, limits

    @property
    def left(self):
        return len(self.body) - self.position

    def take(self, count):
        if count > self.left:
            raise BitstreamError("feature bitstream is cut short")
        self.position += count
        return self.body[self.position - count : self.position]

    def varint(self):
        value = 0
        for index in range(_VARINT_MAX_BYTES):
            (byte,) = self.take(1)
            value |= (byte & 0x7F) << (7 * index)
            if byte < 0x80:
                if index and byte == 0:
                    break
                return value
        raise BitstreamError("feature bitstream holds a malformed number")

    def size(self):
        return self.varint(), self.varint()

    def text(self):
        (length,) = self.take(1)
        try:
            return self.take(length).decode("ascii")
        except UnicodeDecodeError as error:
            raise BitstreamError("feature bitstream holds a malformed name") from error

    def checked_count(self, count):
        if not 1 <= count <= self.limits.max_tensors:
            raise BitstreamError(
                f"feature bitstream declares {count} tensors; 1 to {self.limits.max_tensors} are "
                "accepted"
            )
        return count

    def ranges(self, pairs):
        if not pairs:
            return None
        ranges = np.frombuffer(self.take(4 * pairs), dtype="<f2").reshape(pairs, 2)
        if not are_ranges(ranges):
            raise BitstreamError("feature bitstream holds a malformed quantizer range")
        return ranges

    def require_payload(self, length):
        if self.left != length:
            raise BitstreamError(
                f"feature bitstream declares {length} payload bytes but holds {self.left}"
            )


# ---- format 1 --------------------------------------------------------------------------------------


def _header_1(stream):
    known = stream.require_description()
    parts = [
        MAGIC_1,
        struct.pack("<4B", 1, known.lossless, known.bits, QUANTIZERS.index(known.quantizer)),
        _text(known.split),
        _text(known.codec),
        stream.fingerprint,
        *map(_varint, (*stream.sizes.padded, *stream.sizes.resized, *stream.sizes.original)),
        _varint(known.feature_elements),
        bytes([len(stream.tensors)]),
    ]
    for shape, tensor in zip(known.shapes, stream.tensors, strict=True):
        if list(tensor.strings) != ["y"]:
            raise ValueError(f"format 1 holds one string a tensor, not {[*tensor.strings]}")
        parts += map(_varint, (*shape, 2 * len(tensor.payload) + tensor.fixed_length))
    return b"".join(parts)


def _parse_1(reader):
    flags, bits, quantizer = reader.take(3)
    if flags & ~_LOSSLESS:
        raise BitstreamError(f"feature bitstream sets unknown flags {flags:#04x}")
    if bits not in BIT_DEPTHS and bits != FLOAT_BITS:
        raise BitstreamError(f"feature bitstream declares a bit depth of {bits}")
    if quantizer >= len(QUANTIZERS) or (quantizer == 0) != (bits == FLOAT_BITS):
        raise BitstreamError(f"feature bitstream declares quantizer {quantizer} at {bits} bits")
    split, codec = reader.text(), reader.text()
    fingerprint = reader.take(FINGERPRINT_BYTES)
    sizes = ImageSizes(reader.size(), reader.size(), reader.size())
    reader.limits.check_sizes(sizes)
    feature_elements = reader.varint()
    if feature_elements == 0:
        raise BitstreamError("feature bitstream declares no feature elements")
    shapes, tensors = _parse_tensors_1(reader, QUANTIZERS[quantizer])
    return {
        "fingerprint": fingerprint,
        "sizes": sizes,
        "tensors": tensors,
        "version": 1,
        "description": StreamDescription(
            split=split,
            codec=codec,
            lossless=bool(flags & _LOSSLESS),
            bits=bits,
            quantizer=QUANTIZERS[quantizer],
            shapes=shapes,
            feature_elements=feature_elements,
        ),
    }


def _parse_tensors_1(reader, quantizer):
    most = reader.limits.max_elements
    shapes, lengths, elements = [], [], 0
    for _ in range(reader.checked_count(*reader.take(1))):
        shape = (reader.varint(), reader.varint(), reader.varint())
        elements += shape[0] * shape[1] * shape[2]
        if 0 in shape or elements > most:
            raise BitstreamError(
                f"feature bitstream declares a tensor of shape {shape}: 1 to {most} elements are "
                "accepted in all"
            )
        shapes.append(shape)
        lengths.append(reader.varint())
    counts = ({"none": 0, "channel": shape[0]}.get(quantizer, 1) for shape in shapes)
    ranges = [reader.ranges(count) for count in counts]
    reader.require_payload(sum(length >> 1 for length in lengths))
    return shapes, [
        CodedTensor({"y": reader.take(length >> 1)}, pairs, bool(length & 1))
        for length, pairs in zip(lengths, ranges, strict=True)
    ]


# ---- format 2 --------------------------------------------------------------------------------------


def _header_2(stream):
    sizes, tensors = stream.sizes, stream.tensors
    padding = _padding_code(sizes)
    flags, parts = padding, [*map(_varint, sizes.resized)]
    if padding == _EXPLICIT_PADDING:
        parts += map(_varint, sizes.padded)
    if tuple(sizes.original) != tuple(sizes.resized):
        flags |= _ORIGINAL
        parts += map(_varint, sizes.original)
    if len(tensors) == 1 and tensors[0].ranges is None and [*tensors[0].strings] == ["y"]:
        flags |= _FIXED_LENGTH * tensors[0].fixed_length
    else:
        flags |= _TABLE
        parts.append(_varint(len(tensors)))
        for tensor in tensors:
            parts.append(_varint(2 * len(tensor.strings) + tensor.fixed_length))
            for name, string in tensor.strings.items():
                parts += [_text("" if name == "y" else name), _varint(len(string))]
            parts.append(_varint(0 if tensor.ranges is None else len(tensor.ranges)))
    return b"".join([MAGIC, bytes([2, flags]), stream.fingerprint, *parts])


def _padding_code(sizes):
    """0: no padding; 2 to 7: to multiples of 2^2 to 2^7, the smallest that fits; 1: another."""
    padded, resized = tuple(sizes.padded), tuple(sizes.resized)
    for code in (0, 2, 3, 4, 5, 6, 7):
        if padded == _round_up(resized, code):
            return code
    return _EXPLICIT_PADDING


def _round_up(size, code):
    return tuple(-(-side >> code) << code for side in size)


def _parse_2(reader):
    (flags,) = reader.take(1)
    if flags >= 2 * _FIXED_LENGTH:
        raise BitstreamError(f"feature bitstream sets unknown flags {flags:#04x}")
    fingerprint = reader.take(FINGERPRINT_BYTES)
    resized = reader.size()
    code = flags & _PADDING
    padded = reader.size() if code == _EXPLICIT_PADDING else _round_up(resized, code)
    original = reader.size() if flags & _ORIGINAL else resized
    sizes = ImageSizes(padded, resized, original)
    reader.limits.check_sizes(sizes)
    tensors = _parse_table(reader) if flags & _TABLE else None
    if tensors is None:
        tensors = [CodedTensor({"y": reader.take(reader.left)}, None, bool(flags & _FIXED_LENGTH))]
    return {"fingerprint": fingerprint, "sizes": sizes, "tensors": tensors, "version": 2}


def _parse_table(reader):
    rows = [_parse_row(reader) for _ in range(reader.checked_count(reader.varint()))]
    if 4 * sum(pairs for _, _, pairs in rows) > reader.left:
        raise BitstreamError("feature bitstream is cut short")
    ranges = [reader.ranges(pairs) for _, _, pairs in rows]
    reader.require_payload(sum(sum(lengths.values()) for lengths, _, _ in rows))
    return [
        CodedTensor({name: reader.take(length) for name, length in lengths.items()}, pairs, fixed)
        for (lengths, fixed, _), pairs in zip(rows, ranges, strict=True)
    ]


def _parse_row(reader):
    """({name: length}, whether fixed-length, number of ranges) of one tensor."""
    strings, fixed_length = divmod(reader.varint(), 2)
    most = reader.limits.max_strings
    if not 1 <= strings <= most:
        raise BitstreamError(
            f"feature bitstream declares {strings} strings of a tensor; 1 to {most} are accepted"
        )
    lengths = {}
    for _ in range(strings):
        name = reader.text() or "y"
        if name in lengths or not name.isprintable():
            raise BitstreamError("feature bitstream holds a malformed name")
        lengths[name] = reader.varint()
    if fixed_length and "y" not in lengths:
        raise BitstreamError("feature bitstream declares fixed-length symbols but holds none")
    return lengths, bool(fixed_length), reader.varint()


def _varint(value):
    if not 0 <= value < 1 << (7 * _VARINT_MAX_BYTES):
        raise ValueError(f"a feature bitstream cannot hold the number {value}")
    out = bytearray()
    while value >= 0x80:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    out.append(value)
    return bytes(out)


def _text(text):
    encoded = text.encode("ascii")
    return bytes([len(encoded)]) + encoded
