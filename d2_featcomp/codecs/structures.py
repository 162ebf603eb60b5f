"""Parts of a feature bitstream: image sizes, coded tensors, a description; and limits."""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from .images import BitstreamError

__all__ = [
    "OWN_LIMITS",
    "CodedTensor",
    "DecodeLimits",
    "ImageSizes",
    "StreamDescription",
    "are_ranges",
]


def are_ranges(pairs: npt.NDArray[np.float16]) -> bool:
    """Says whether (k, 2) pairs are ranges that a stream may hold: finite, low not above high."""
    return bool(np.isfinite(pairs).all() and (pairs[:, 0] <= pairs[:, 1]).all())


@dataclass(frozen=True)
class ImageSizes:
    """Sizes of one image on its way into the network, each (height, width) in pixels.

    Attributes:
        padded: what the edge network computed on.
        resized: the image after resizing, before padding.
        original: the image that outputs refer to.
    """

    padded: tuple[int, int]
    resized: tuple[int, int]
    original: tuple[int, int]


@dataclass(frozen=True)
class DecodeLimits:
    """Limits of a decoder; anything beyond is refused before memory is allocated for it.

    The defaults hold for photographs of up to 16 megapixels. Masks and maps of an answer are made at the
    original size, so a server's memory for one answer is about `max_original_pixels` bytes a detection.

    Attributes:
        max_elements (int): elements of all tensors of a bitstream of format 1 together. In format 2 the
            shapes follow from the padded size.
        max_image_side (int): pixels, of any of the three image sizes.
        max_image_pixels (int): height times width, padded and resized.
        max_original_pixels (int): height times width of the original.
        max_enlargement (int): original pixels for each resized pixel.
        max_tensors (int): tensors of a bitstream.
        max_strings (int): strings of a tensor.
    """

    max_elements: int = 2**26
    max_image_side: int = 2**15
    max_image_pixels: int = 2**23
    max_original_pixels: int = 2**24
    max_enlargement: int = 256
    max_tensors: int = 16
    max_strings: int = 16

    def check_sizes(self, sizes: ImageSizes) -> None:
        """Checks the sizes of one image; for an edge, too, before it sends what a cloud would refuse.

        Args:
            sizes (ImageSizes): of the image.

        Raises:
            BitstreamError: one is beyond the limits, or the resized image larger than the padded one.
        """
        for name in ("padded", "resized", "original"):
            height, width = getattr(sizes, name)
            for side in (height, width):
                if not 1 <= side <= self.max_image_side:
                    raise BitstreamError(
                        f"feature bitstream declares an image side of {side} px ({name}); 1 to "
                        f"{self.max_image_side} are accepted (DecodeLimits.max_image_side)"
                    )
            key = "max_original_pixels" if name == "original" else "max_image_pixels"
            if height * width > getattr(self, key):
                raise BitstreamError(
                    f"feature bitstream declares an image of {height * width} pixels ({name}); at most "
                    f"{getattr(self, key)} are accepted (DecodeLimits.{key}, --max-pixels)"
                )
        if sizes.resized[0] > sizes.padded[0] or sizes.resized[1] > sizes.padded[1]:
            raise BitstreamError(
                f"feature bitstream declares a resized image of {tuple(sizes.resized)} px in a padded "
                f"one of {tuple(sizes.padded)}"
            )
        (height, width), (rows, columns) = sizes.original, sizes.resized
        if height * width > self.max_enlargement * rows * columns:
            raise BitstreamError(
                f"feature bitstream declares an original image of {height} x {width} px for a resized "
                f"one of {rows} x {columns}: at most {self.max_enlargement} times as many pixels are "
                "accepted (DecodeLimits.max_enlargement, --max-pixels)"
            )


# For bitstreams that this very program has written, of images of any size.
OWN_LIMITS = DecodeLimits(
    max_elements=2**35,
    max_image_side=2**20,
    max_image_pixels=2**40,
    max_original_pixels=2**40,
    max_enlargement=2**20,
    max_tensors=255,
    max_strings=255,
)


@dataclass(frozen=True, eq=False)
class CodedTensor:
    """One coded tensor. Comparable and hashable: equal for equal bytes.

    Attributes:
        strings (dict[str, bytes]): named parts of the payload, sorted by name; where a codec has only
            one, it is "y". Names are 1 to 255 printable ASCII characters.
        ranges (ndarray or None): float16 (k, 2), k at least 1: low and high of each range of the
            quantizer, finite, low not above high; None where the bitstream holds none.
        fixed_length (bool): whether the string "y" holds fixed-length symbols in place of the codec's
            data.

    Raises:
        ValueError: no strings, a malformed name, `fixed_length` without a string "y", or a malformed
            range.
    """

    strings: dict[str, bytes]
    ranges: np.ndarray | None = None
    fixed_length: bool = False

    def __post_init__(self) -> None:
        strings = {name: bytes(self.strings[name]) for name in sorted(self.strings)}
        if not strings or (self.fixed_length and "y" not in strings):
            raise ValueError(f"a coded tensor needs strings, and fixed-length ones a 'y': {[*strings]}")
        for name in strings:
            if not (1 <= len(name) <= 255 and name.isascii() and name.isprintable()):
                raise ValueError(f"string name {name!r} must be 1 to 255 printable ASCII characters")
        ranges = self.ranges
        if ranges is not None:
            with np.errstate(over="ignore"):
                ranges = np.asarray(ranges, dtype="<f2").reshape(-1, 2)
            if not are_ranges(ranges):
                raise ValueError("a quantizer range needs two finite float16 values, low not above high")
            ranges = ranges if len(ranges) else None
        object.__setattr__(self, "strings", strings)
        object.__setattr__(self, "ranges", ranges)
        object.__setattr__(self, "fixed_length", bool(self.fixed_length))

    @property
    def payload(self) -> bytes:
        """bytes: the strings one after the other."""
        return b"".join(self.strings.values())

    def _key(self) -> tuple[tuple[tuple[str, bytes], ...], bytes, bool]:
        ranges = b"" if self.ranges is None else self.ranges.tobytes()
        return tuple(self.strings.items()), ranges, self.fixed_length

    def __eq__(self, other: object) -> bool:
        return self._key() == other._key() if isinstance(other, CodedTensor) else NotImplemented

    def __hash__(self) -> int:
        return hash(self._key())


@dataclass(frozen=True)
class StreamDescription:
    """Settings that the fingerprint of a bitstream implies: the network that wrote or reads it knows
    this.

    Attributes:
        split (str): name of the feature split, e.g. "MSFC".
        codec (str): name of the codec, e.g. "jpegxl".
        lossless (bool): whether the codec gives back the very symbols that were coded.
        bits (int): n, 2..16, or 32 for float32 latents.
        quantizer (str): "none" (n = 32), "fixed", "tensor", "channel" or, in format 2, another of
            `QUANTIZER_REGISTRY`.
        shapes (tuple[(int, int, int)]): C, H, W of each tensor.
        feature_elements (int): elements of the features at the split point, before any reduction.
    """

    split: str
    codec: str
    lossless: bool
    bits: int
    quantizer: str
    shapes: tuple[tuple[int, int, int], ...]
    feature_elements: int

    def __post_init__(self) -> None:
        object.__setattr__(self, "shapes", tuple(tuple(map(int, shape)) for shape in self.shapes))
