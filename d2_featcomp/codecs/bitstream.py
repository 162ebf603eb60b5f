"""The feature bitstream: the bytes from the edge to the cloud for one image.

Numbers are little-endian; "varint" is an unsigned LEB128 number of up to five bytes, in its shortest
form; "size" is two varints, height and width in pixels; "text" is one length byte and that many ASCII
characters. A stream can be written in one way only: any other is refused.

Format 2, which is written today. What the fingerprint implies (split, codec, bit depth, quantizer,
shapes) is not in it: the network that reads the stream knows it, see :class:`StreamDescription`.

    field                 type            unit or values
    ------------------    ------------    ----------------------------------------------------
    magic                 2 bytes         "D2"
    version               uint8           2
    flags                 uint8           bits 0-2: padding, p
                                            0     the padded size is the resized size
                                            2-7   the resized size, up to multiples of 2^p; the
                                                  smallest p that gives the padded size
                                            1     neither: the padded size follows
                                          bit 3: the original size follows; else it is the
                                                 resized size
                                          bit 4: a table follows; else there is one tensor of one
                                                 string "y" without ranges
                                          bit 5: that string is fixed-length symbols; 0 if bit 4
                                          other bits 0
    fingerprint           4 bytes         of the edge sub-model, preprocessing and codec
    resized               size
    padded                size            only if p = 1
    original              size            only if bit 3; differs from the resized size
    table                                 only if bit 4:
      tensors             varint          number of tensors, then for each:
        strings           varint          2 * number of strings, + 1 if "y" is fixed-length symbols
        for each string                   in the order of their names, "y" among them
          name            text            printable ASCII; "" means "y"
          length          varint          bytes
        ranges            varint          number of ranges
    -- side information, for each tensor -----------------------------------------------------
      ranges              float16         low, high of each range
    -- payload, for each tensor, for each string ---------------------------------------------
      data                bytes           of the codec, or fixed-length symbols
    ------------------------------------------------------------------------------------------
    checksum              uint32          CRC-32 of all bytes before it

Format 1, which is read (and, once read, written back) as ever:

    field                 type            unit or values
    ------------------    ------------    ----------------------------------------------------
    magic                 4 bytes         "D2FC"
    version               uint8           1
    flags                 uint8           bit 0: image codec ran losslessly; other bits 0
    bits                  uint8           n: 2..16, or 32 for float32 latents
    quantizer             uint8           0 none (n = 32), 1 fixed range, 2 a range for each
                                          tensor, 3 a range for each channel
    split                 text            name of the feature split that wrote the stream
    codec                 text            name of the image codec
    fingerprint           4 bytes         of the edge sub-model's weights
    image sizes           3 sizes         padded, resized, original
    feature elements      varint          elements at the split point, before any reduction
    tensors               uint8           number of tensors, then for each:
      shape               3 varints       C, H, W
      payload length      varint          2 * bytes + 1 if fixed-length symbols replace the codec's
    -- side information, for each tensor -----------------------------------------------------
      ranges              float16         low, high; one pair, or one for each channel; none at 32
    -- payload, for each tensor --------------------------------------------------------------
      data                bytes           of the image codec, or fixed-length symbols
    ------------------------------------------------------------------------------------------
    checksum              uint32          CRC-32 of all bytes before it

Every byte belongs to exactly one of header (checksum included), side information and payload.
"""

import dataclasses
from dataclasses import dataclass

from .images import BitstreamError
from .images.raw import count_fixed_length_bytes
from .structures import CodedTensor, DecodeLimits, ImageSizes, StreamDescription
from .wire import CHECKSUM_BYTES, FINGERPRINT_BYTES, VERSIONS, join_parts, parse_stream, write_parts

__all__ = ["CodedTensor", "DecodeLimits", "FeatureBitstream", "ImageSizes", "StreamDescription"]

VERSION = VERSIONS[-1]  # that is written
DEFAULT_LIMITS = DecodeLimits()


@dataclass(frozen=True, eq=False)
class FeatureBitstream:
    """The coded latents of one image: the network and these bytes give the outputs.

    Two are equal, and have the same hash, if and only if their bytes are equal.

    Attributes:
        fingerprint (bytes): 4 bytes that tell which network wrote it.
        sizes (ImageSizes): of the image.
        tensors (tuple[CodedTensor]): the coded tensors.
        version (int): of the format, 2; 1 if it was read from such bytes.
        description (StreamDescription or None): what the fingerprint implies; on the wire in format 1
            only.

    Raises:
        ValueError: another version, or a fingerprint of another length.
    """

    fingerprint: bytes
    sizes: ImageSizes
    tensors: tuple[CodedTensor, ...]
    version: int = VERSION
    description: StreamDescription | None = None

    def __post_init__(self) -> None:
        if self.version not in VERSIONS:
            raise ValueError(f"format version {self.version} is unknown: use one of {VERSIONS}")
        if len(self.fingerprint) != FINGERPRINT_BYTES:
            raise ValueError(f"a fingerprint has {FINGERPRINT_BYTES} bytes, not {len(self.fingerprint)}")
        object.__setattr__(self, "tensors", tuple(self.tensors))

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, FeatureBitstream):
            return NotImplemented
        return self.to_bytes() == other.to_bytes()

    def __hash__(self) -> int:
        return hash(self.to_bytes())

    def described(self, description: StreamDescription | None) -> "FeatureBitstream":
        """Returns a copy with a description (StreamDescription), that of the network that reads it."""
        return dataclasses.replace(self, description=description)

    def require_description(self) -> StreamDescription:
        """Returns the description; ValueError if there is none."""
        if self.description is None:
            raise ValueError(
                "this feature bitstream does not say what it holds: the network that reads it does "
                "(streams of edge_inference, and in results of cloud_inference, are described)"
            )
        return self.description

    @property
    def split(self) -> str:
        """str: name of the feature split."""
        return self.require_description().split

    @property
    def codec(self) -> str:
        """str: name of the codec."""
        return self.require_description().codec

    @property
    def lossless(self) -> bool:
        """bool: whether the codec gives back the very symbols that were coded."""
        return self.require_description().lossless

    @property
    def bits(self) -> int:
        """int: n, 2..16, or 32 for float32 latents."""
        return self.require_description().bits

    @property
    def quantizer(self) -> str:
        """str: "none", "fixed", "tensor", "channel" or, in format 2, another of `QUANTIZER_REGISTRY`."""
        return self.require_description().quantizer

    @property
    def feature_elements(self) -> int:
        """int: elements of the features at the split point, before any reduction."""
        return self.require_description().feature_elements

    @property
    def shapes(self) -> tuple[tuple[int, int, int], ...]:
        """tuple[(int, int, int)]: C, H, W of each tensor."""
        return self.require_description().shapes

    @property
    def header_bits(self) -> int:
        """int: bits that are neither side information nor payload, the checksum among them."""
        return 8 * (len(write_parts(self)[0]) + CHECKSUM_BYTES)

    @property
    def side_info_bits(self) -> int:
        """int: bits of the quantizer ranges, 32 for each."""
        return 8 * sum(t.ranges.nbytes for t in self.tensors if t.ranges is not None)

    @property
    def payload_bits(self) -> int:
        """int: bits of the coded symbols."""
        return 8 * sum(len(string) for tensor in self.tensors for string in tensor.strings.values())

    @property
    def fixed_length_bits(self) -> int:
        """int: what `payload_bits` would be with fixed-length symbols."""
        shapes = self.require_description().shapes
        return 8 * sum(
            count_fixed_length_bytes(channels * h * w, self.bits) for channels, h, w in shapes
        )

    packed_bits = fixed_length_bits  # earlier name

    @property
    def total_bits(self) -> int:
        """int: eight times the length of :meth:`to_bytes`."""
        return self.header_bits + self.side_info_bits + self.payload_bits

    @property
    def bpfe(self) -> float:
        """float: total bits per feature element (at the split point, before any reduction)."""
        return self.total_bits / self.feature_elements

    def to_bytes(self) -> bytes:
        """Returns the bytes to send or store (see the layout at the top of this module).

        Raises:
            ValueError: format 1 without a description, or a number that no field can hold.
        """
        return join_parts(write_parts(self))

    @classmethod
    def from_bytes(cls, data: bytes, limits: DecodeLimits = DEFAULT_LIMITS) -> "FeatureBitstream":
        """Parses and checks the bytes of :meth:`to_bytes`; decodes no payload yet.

        Args:
            data (bytes): one whole bitstream, of format 1 or 2.
            limits (DecodeLimits): what to refuse.

        Returns:
            FeatureBitstream: with a description if it is of format 1.

        Raises:
            BitstreamError: damaged, cut short, followed by other bytes, of another format version,
                inconsistent, or beyond the limits.
        """
        data = bytes(data)
        stream = cls(**parse_stream(data, limits))
        if stream.to_bytes() != data:
            raise BitstreamError("feature bitstream is not written in its shortest form")
        return stream
