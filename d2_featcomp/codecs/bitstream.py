"""The feature bitstream: what travels from the edge to the cloud for one image.

Layout, version 1 (numbers are little-endian; "varint" is an unsigned LEB128 number of up to five
bytes, in its shortest form; "text" is one length byte and that many ASCII characters):

    field                 type            unit or values
    ------------------    ------------    ----------------------------------------------------
    magic                 4 bytes         "D2FC"
    version               uint8           1
    flags                 uint8           bit 0: image codec ran losslessly; other bits 0
    bits                  uint8           n: 2..16, or 32 for float32 features
    quantizer             uint8           0 none (n = 32), 1 fixed range, 2 a range for each
                                          tensor, 3 a range for each channel
    split                 text            name of the feature split that wrote the features
    codec                 text            name of the image codec
    fingerprint           4 bytes         of the edge half's weights
    image sizes           6 varints       padded, resized, original: height, width in pixels
    feature elements      varint          elements at the cut, before any reduction
    tensors               uint8           number of tensors, then for each:
      shape               3 varints       C, H, W
      payload length      varint          2 * bytes + 1 if packed symbols replace the image codec
    -- side information, for each tensor -----------------------------------------------------
      ranges              float16         low, high; one pair, or one for each channel; none at 32
    -- payload, for each tensor --------------------------------------------------------------
      data                bytes           of the image codec, or packed symbols
    ------------------------------------------------------------------------------------------
    checksum              uint32          CRC-32 of all bytes before it

Every byte belongs to exactly one of header (checksum included), side information and payload.
"""

import struct
import zlib
from dataclasses import dataclass, field

import numpy as np

from ..ops import BIT_DEPTHS, FLOAT_BITS
from .image_codec import BitstreamError
from .raw import packed_size

__all__ = ["CodedTensor", "DecodeLimits", "FeatureBitstream", "ImageSizes"]

MAGIC = b"D2FC"
VERSION = 1
QUANTIZERS = ("none", "fixed", "tensor", "channel")
FINGERPRINT_BYTES = 4
_CHECKSUM_BYTES = 4
_LOSSLESS_FLAG = 1
_VARINT_MAX_BYTES = 5


@dataclass(frozen=True)
class DecodeLimits:
    """What a decoder accepts; anything beyond is refused before memory is allocated for it.

    Attributes:
        max_elements (int): elements of all tensors of a bitstream together.
        max_image_side (int): pixels, of any of the three image sizes.
        max_image_pixels (int): height times width of any of them.
        max_tensors (int): tensors of a bitstream.
    """

    max_elements: int = 2**26
    max_image_side: int = 2**15
    max_image_pixels: int = 2**26
    max_tensors: int = 16


DEFAULT_LIMITS = DecodeLimits()


@dataclass(frozen=True)
class ImageSizes:
    """Sizes of one image on its way into the network, each (height, width) in pixels.

    Attributes:
        padded: what the edge network computed on.
        resized: the image after resizing, before padding.
        original: the image that outputs refer to.
    """

    padded: tuple
    resized: tuple
    original: tuple


@dataclass(frozen=True)
class CodedTensor:
    """One coded tensor.

    Attributes:
        shape ((int, int, int)): C, H, W.
        ranges (ndarray): float16 (1, 2) or (C, 2): low, high; (0, 2) for float32 features.
        payload (bytes): image codec data, or packed symbols.
        packed (bool): whether `payload` is packed symbols in place of the image codec's data.
    """

    shape: tuple
    ranges: np.ndarray
    payload: bytes
    packed: bool

    @property
    def elements(self):
        """int: C * H * W."""
        return self.shape[0] * self.shape[1] * self.shape[2]


@dataclass(frozen=True)
class FeatureBitstream:
    """The coded features of one image. Self-contained: the model and these bytes give the outputs.

    Attributes:
        split (str): name of the feature split, e.g. "MSFC".
        codec (str): name of the image codec, e.g. "jpegxl".
        lossless (bool): whether the image codec ran losslessly.
        bits (int): n, 2..16, or 32 for float32 features.
        quantizer (str): "none", "fixed", "tensor" or "channel".
        fingerprint (bytes): 4 bytes that tell the edge half's weights.
        sizes (ImageSizes): of the image.
        feature_elements (int): elements of the features at the cut, before any reduction.
        tensors (list[CodedTensor]): the coded tensors.
    """

    split: str
    codec: str
    lossless: bool
    bits: int
    quantizer: str
    fingerprint: bytes
    sizes: ImageSizes
    feature_elements: int
    tensors: list = field(default_factory=list)

    @property
    def header_bits(self):
        """int: bits that are neither side information nor payload, the checksum among them."""
        return 8 * (len(self._header()) + _CHECKSUM_BYTES)

    @property
    def side_info_bits(self):
        """int: bits of the quantizer ranges, 32 for each."""
        return 8 * sum(tensor.ranges.nbytes for tensor in self.tensors)

    @property
    def payload_bits(self):
        """int: bits of the coded symbols."""
        return 8 * sum(len(tensor.payload) for tensor in self.tensors)

    @property
    def packed_bits(self):
        """int: what `payload_bits` would be with every symbol packed into `bits` bits."""
        return 8 * sum(packed_size(tensor.elements, self.bits) for tensor in self.tensors)

    @property
    def total_bits(self):
        """int: eight times the length of :meth:`to_bytes`."""
        return self.header_bits + self.side_info_bits + self.payload_bits

    @property
    def bpfe(self):
        """float: total bits per feature element (at the cut, before any reduction)."""
        return self.total_bits / self.feature_elements

    def _header(self):
        sizes = (*self.sizes.padded, *self.sizes.resized, *self.sizes.original)
        parts = [
            MAGIC,
            struct.pack(
                "<4B",
                VERSION,
                _LOSSLESS_FLAG if self.lossless else 0,
                self.bits,
                QUANTIZERS.index(self.quantizer),
            ),
            _text(self.split),
            _text(self.codec),
            self.fingerprint,
            *map(_varint, sizes),
            _varint(self.feature_elements),
            struct.pack("<B", len(self.tensors)),
        ]
        for tensor in self.tensors:
            parts += map(_varint, (*tensor.shape, 2 * len(tensor.payload) + tensor.packed))
        return b"".join(parts)

    def to_bytes(self):
        """Returns the bytes to send or store (see the layout at the top of this module)."""
        ranges = [tensor.ranges.astype("<f2").tobytes() for tensor in self.tensors]
        payloads = [tensor.payload for tensor in self.tensors]
        body = b"".join([self._header(), *ranges, *payloads])
        return body + struct.pack("<I", zlib.crc32(body))

    @classmethod
    def from_bytes(cls, data, limits=DEFAULT_LIMITS):
        """Parses and checks the bytes of :meth:`to_bytes`; decodes no payload yet.

        Args:
            data (bytes): one whole bitstream.
            limits (DecodeLimits): what to refuse.

        Returns:
            FeatureBitstream

        Raises:
            BitstreamError: damaged, cut short, followed by other bytes, of another format version,
                inconsistent, or beyond the limits.
        """
        data = bytes(data)
        if data[: len(MAGIC)] != MAGIC:
            raise BitstreamError("these bytes are no feature bitstream: they do not begin with D2FC")
        body, checksum = data[:-_CHECKSUM_BYTES], data[-_CHECKSUM_BYTES:]
        if len(body) <= len(MAGIC):
            raise BitstreamError("feature bitstream is cut short")
        version = body[len(MAGIC)]
        if struct.pack("<I", zlib.crc32(body)) != checksum:
            raise BitstreamError("feature bitstream is damaged or cut short: its checksum is wrong")
        if version != VERSION:
            raise BitstreamError(
                f"feature bitstream has format version {version}, this program reads {VERSION}: "
                "use matching releases of d2_featcomp on both sides"
            )
        return _Reader(body, limits).bitstream()


class _Reader:
    """Reads the fields of a bitstream one after the other."""

    def __init__(self, body, limits):
        self.body = body
        self.limits = limits
        self.position = len(MAGIC) + 1

    def bitstream(self):
        flags, bits, quantizer = self.take(3)
        if flags & ~_LOSSLESS_FLAG:
            raise BitstreamError(f"feature bitstream sets unknown flags {flags:#04x}")
        if bits not in BIT_DEPTHS and bits != FLOAT_BITS:
            raise BitstreamError(f"feature bitstream declares a bit depth of {bits}")
        if quantizer >= len(QUANTIZERS) or (quantizer == 0) != (bits == FLOAT_BITS):
            raise BitstreamError(f"feature bitstream declares quantizer {quantizer} at {bits} bits")
        split, codec = self.text(), self.text()
        fingerprint = self.take(FINGERPRINT_BYTES)
        sizes = [self.image_side() for _ in range(6)]
        pixels = max(height * width for height, width in zip(sizes[::2], sizes[1::2], strict=True))
        if pixels > self.limits.max_image_pixels:
            raise BitstreamError(
                f"feature bitstream declares an image of {pixels} pixels; at most "
                f"{self.limits.max_image_pixels} are accepted"
            )
        feature_elements = self.varint()
        if feature_elements == 0:
            raise BitstreamError("feature bitstream declares no feature elements")
        tensors = self.tensors(QUANTIZERS[quantizer])
        return FeatureBitstream(
            split=split,
            codec=codec,
            lossless=bool(flags & _LOSSLESS_FLAG),
            bits=bits,
            quantizer=QUANTIZERS[quantizer],
            fingerprint=fingerprint,
            sizes=ImageSizes(tuple(sizes[:2]), tuple(sizes[2:4]), tuple(sizes[4:])),
            feature_elements=feature_elements,
            tensors=tensors,
        )

    def tensors(self, quantizer):
        (count,) = self.take(1)
        if not 1 <= count <= self.limits.max_tensors:
            raise BitstreamError(
                f"feature bitstream declares {count} tensors; 1 to {self.limits.max_tensors} are "
                "accepted"
            )
        shapes, lengths, packed, elements = [], [], [], 0
        for _ in range(count):
            shape = (self.varint(), self.varint(), self.varint())
            elements += shape[0] * shape[1] * shape[2]
            if 0 in shape or elements > self.limits.max_elements:
                raise BitstreamError(
                    f"feature bitstream declares a tensor of shape {shape}: 1 to "
                    f"{self.limits.max_elements} elements are accepted in all"
                )
            shapes.append(shape)
            length = self.varint()
            lengths.append(length >> 1)
            packed.append(bool(length & 1))
        ranges = [self.ranges(quantizer, shape[0]) for shape in shapes]
        if len(self.body) - self.position != sum(lengths):
            raise BitstreamError(
                f"feature bitstream declares {sum(lengths)} payload bytes but holds "
                f"{len(self.body) - self.position}"
            )
        payloads = [self.take(length) for length in lengths]
        return [CodedTensor(*parts) for parts in zip(shapes, ranges, payloads, packed, strict=True)]

    def take(self, count):
        if self.position + count > len(self.body):
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

    def image_side(self):
        side = self.varint()
        if not 1 <= side <= self.limits.max_image_side:
            raise BitstreamError(
                f"feature bitstream declares an image side of {side} px; 1 to "
                f"{self.limits.max_image_side} are accepted"
            )
        return side

    def text(self):
        (length,) = self.take(1)
        try:
            return self.take(length).decode("ascii")
        except UnicodeDecodeError as error:
            raise BitstreamError("feature bitstream holds a malformed name") from error

    def ranges(self, quantizer, channels):
        pairs = {"none": 0, "fixed": 1, "tensor": 1, "channel": channels}[quantizer]
        ranges = np.frombuffer(self.take(4 * pairs), dtype="<f2").reshape(pairs, 2)
        if not np.isfinite(ranges).all() or (ranges[:, 0] > ranges[:, 1]).any():
            raise BitstreamError("feature bitstream holds a malformed quantizer range")
        return ranges


def _varint(value):
    out = bytearray()
    while value >= 0x80:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    out.append(value)
    return bytes(out)


def _text(text):
    encoded = text.encode("ascii")
    return bytes([len(encoded)]) + encoded
