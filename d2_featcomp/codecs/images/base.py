"""Image codecs: one image of n-bit symbols, gray or in colour <-> bytes.

To add one, write a file beside this one with one class, register it, and import it in
`codecs/images/__init__.py`. The shared checks in tests/codecs/test_image_codecs.py then cover it.
"""

import abc
from collections.abc import Collection
from typing import Any

import numpy as np

from ...registry import Registry

__all__ = ["IMAGE_CODEC_REGISTRY", "BitstreamError", "ImageCodec", "build_image_codec"]


class BitstreamError(ValueError):
    """The bytes are no feature bitstream that this program can decode: damaged, foreign or too large."""


class CodecRegistry(Registry):
    """Registers classes by their attribute `name`."""

    def _do_register(self, name: str, obj: Any) -> None:
        super()._do_register(obj.name, obj)


IMAGE_CODEC_REGISTRY = CodecRegistry("IMAGE_CODEC")
IMAGE_CODEC_REGISTRY.__doc__ = """
Registry of image codecs, subclasses of :class:`ImageCodec`, by their `name`.
"""


class ImageCodec(abc.ABC):
    """Codes one image of n-bit symbols, gray unless its layout is "colour".

    A lossless codec codes the symbols as they are. A lossy one codes samples stretched to the full
    range of `sample_depth` bits, so that a quality setting means the same at every bit depth, and
    the decoder returns to the nearest symbol.

    Class attributes:
        name (str): the name in the registry and on the wire.
        bit_depths (collection): the values of n that it carries.
        quality_range ((float, float) or None): smallest and largest QUALITY; None: it takes none.
        whole_quality (bool): whether QUALITY is a whole number.
        quality_meaning (str): what QUALITY is, with its unit, for help and errors.
        default_quality: used when QUALITY is not given; None codes losslessly.
        typical_qualities (tuple): QUALITY of the points of a curve of rate and quality.
        effort_range ((int, int) or None): smallest and largest EFFORT; None: it takes none.
        default_effort (int or None): used when EFFORT is not given.
        layout (str): what its image is: "tiles" (a gray image, the channels side by side), "rows" (one
            row a channel) or "colour" (three channels, RGB, one image).

    Args:
        bits (int): n.
        quality (float or None): see `quality_meaning`.
        effort (int or None): larger is slower and smaller.

    Raises:
        ValueError: the bit depth, quality or effort is out of range.
        ImportError: the library behind the codec is not installed.
    """

    name = ""
    bit_depths: Collection[int] = range(2, 17)
    quality_range: tuple[float, float] | None = None
    whole_quality = False
    quality_meaning = ""
    default_quality: float | None = None
    typical_qualities: tuple[float, ...] = ()
    effort_range: tuple[int, int] | None = None
    default_effort: int | None = None
    layout = "tiles"

    def __init__(self, *, bits: int, quality: float | None = None, effort: int | None = None) -> None:
        self.require_library()
        if bits not in self.bit_depths:
            raise ValueError(
                f"codec {self.name!r} cannot carry {bits} bits: CODEC.BITS must be one of "
                f"{sorted(self.bit_depths)}"
            )
        self.bits = int(bits)
        self.quality = self._checked("QUALITY", quality, self.quality_range, self.default_quality)
        self.effort = self._checked("EFFORT", effort, self.effort_range, self.default_effort)

    def _checked(self, key: str, value: Any, allowed: tuple[float, float] | None, default: Any) -> Any:
        if value is None:
            return default
        if allowed is None:
            raise ValueError(
                f"codec {self.name!r} takes no CODEC.{key}: leave it out, or set it to None"
            )
        if isinstance(value, bool) or not isinstance(value, (int, float)):
            raise ValueError(f"CODEC.{key} must be a number, not {value!r}")
        if not allowed[0] <= value <= allowed[1]:
            meaning = f" ({self.quality_meaning})" if key == "QUALITY" else ""
            raise ValueError(
                f"CODEC.{key} {value} is out of range for codec {self.name!r}: it goes from "
                f"{allowed[0]} to {allowed[1]}{meaning}"
            )
        if value != int(value) and (key == "EFFORT" or self.whole_quality):
            raise ValueError(f"CODEC.{key} {value} must be a whole number for codec {self.name!r}")
        return value

    @classmethod  # noqa: B027 - most codecs need no more than this package does
    def require_library(cls) -> None:
        """Raises ImportError, naming what to install, if the library behind the codec is missing."""

    @property
    def lossless(self) -> bool:
        """bool: whether decoding gives back the very symbols that were encoded."""
        return self.quality is None

    @classmethod
    def sample_depth(cls, bits: int) -> int:
        """Bits of a sample in which n-bit symbols are coded by a lossy setting."""
        return 8 if bits <= 8 else 16

    def encode(self, symbols: np.ndarray) -> bytes:
        """Codes an image.

        Args:
            symbols (ndarray): (H, W), or (H, W, 3) in colour; uint8 if n <= 8, else uint16, each
                below 2^n.

        Returns:
            bytes
        """
        symbols = np.ascontiguousarray(symbols)  # some libraries take nothing else
        if self.lossless:
            return self._encode(symbols)
        return self._encode(_stretch(symbols, self.bits, self.sample_depth(self.bits)))

    @classmethod
    def decode(cls, data: bytes, *, shape: tuple[int, ...], bits: int, lossless: bool) -> np.ndarray:
        """Inverse of :meth:`encode`; needs none of the encoder's settings.

        Args:
            data (bytes): what `encode` returned.
            shape (tuple[int]): H, W, and 3 in colour.
            bits (int): n.
            lossless (bool): whether the encoder was lossless.

        Returns:
            ndarray: of that shape, uint8 if n <= 8, else uint16.

        Raises:
            BitstreamError: the data are damaged or hold something else.
            ImportError: the library behind the codec is not installed.
        """
        cls.require_library()
        depth = bits if lossless else cls.sample_depth(bits)
        dtype = np.uint8 if depth <= 8 else np.uint16
        try:
            samples = cls._decode(bytes(data), shape=shape, depth=depth)
        except BitstreamError:
            raise
        except Exception as error:  # each library has exceptions of its own
            raise BitstreamError(f"{cls.name} payload cannot be decoded: {error}") from error
        if samples.shape != tuple(shape) or samples.dtype != dtype:
            raise BitstreamError(
                f"{cls.name} payload holds {samples.dtype} samples of shape {samples.shape}, not "
                f"{np.dtype(dtype)} of {tuple(shape)}"
            )
        if not lossless:
            return _shrink(samples, bits, depth)
        if bits < 8 * samples.itemsize and samples.size and int(samples.max()) >> bits:
            raise BitstreamError(f"{cls.name} payload holds symbols of more than {bits} bits")
        return samples

    @abc.abstractmethod
    def _encode(self, samples: np.ndarray) -> bytes:
        """(H, W) uint8 or uint16 samples -> bytes."""

    @staticmethod
    @abc.abstractmethod
    def _decode(data: bytes, *, shape: tuple[int, ...], depth: int) -> np.ndarray:
        """bytes -> (H, W) uint8 or uint16 samples of `depth` bits; may raise anything."""


def _stretch(symbols: np.ndarray, bits: int, depth: int) -> np.ndarray:
    """Stretches n-bit symbols to the full range of `depth` bits."""
    top, full = 2**bits - 1, 2**depth - 1
    stretched = (symbols.astype(np.uint32) * full + top // 2) // top
    return stretched.astype(np.uint8 if depth <= 8 else np.uint16)


def _shrink(samples: np.ndarray, bits: int, depth: int) -> np.ndarray:
    """Inverse of :func:`_stretch`, to the nearest symbol."""
    top, full = 2**bits - 1, 2**depth - 1
    symbols = (np.minimum(samples, full).astype(np.uint32) * top + full // 2) // full
    return symbols.astype(np.uint8 if bits <= 8 else np.uint16)


def build_image_codec(
    name: str, *, bits: int, quality: float | None = None, effort: int | None = None
) -> ImageCodec:
    """Builds a registered codec.

    Args:
        name (str): e.g. "jpegxl".
        bits (int): n, the bit depth of the symbols.
        quality (float or None): the codec's own scale; None is its default.
        effort (int or None): the codec's own scale; None is its default.

    Returns:
        ImageCodec

    Raises:
        ValueError: unknown codec, or a setting out of its range.
        ImportError: the library behind the codec is not installed.
    """
    return find_image_codec(name)(bits=bits, quality=quality, effort=effort)


def find_image_codec(name: str) -> type[ImageCodec]:
    """Returns the registered class; ValueError, listing those there are, for an unknown name."""
    if name not in IMAGE_CODEC_REGISTRY:
        known = ", ".join(sorted(codec for codec, _ in IMAGE_CODEC_REGISTRY))
        raise ValueError(f"unknown image codec {name!r}: choose one of {known}")
    return IMAGE_CODEC_REGISTRY.get(name)
