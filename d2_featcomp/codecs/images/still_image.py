"""Still-image codecs of the package imagecodecs."""

import re

import imagecodecs
import numpy as np

from .avif_file import require_one_frame
from .base import IMAGE_CODEC_REGISTRY, BitstreamError, ImageCodec

__all__ = [
    "Avif420Codec",
    "AvifCodec",
    "Jpeg420Codec",
    "JpegCodec",
    "JpegLsCodec",
    "JpegXlCodec",
    "JpegXlRgbCodec",
    "PngCodec",
]

_END_OF_IMAGE = b"\xff\xd9"  # the last marker of a JPEG or JPEG-LS image
_ROOM = 4096  # bytes for what comes before and after the samples
# In the entropy-coded data of a JPEG: a marker other than restarts. A zero byte marks 0xff as data.
_MARKER = re.compile(rb"\xff[^\x00\xd0-\xd7\xff]")


def _frame(shape, depth):
    """Allocates the frame to decode into, so that a payload of another size is refused before it is
    given memory."""
    return np.zeros(shape, np.uint8 if depth <= 8 else np.uint16)


def _require_one_scan(data, name):
    """Refuses a JPEG that is not baseline or has several scans: each scan takes the time of the whole
    image, however few bytes it has."""
    position, frames = 2, 0
    while data[:2] == b"\xff\xd8" and data[position : position + 1] == b"\xff":
        marker, length = data[position + 1 : position + 2], data[position + 2 : position + 4]
        if len(length) < 2:
            break
        position += 2 + int.from_bytes(length, "big")
        if b"\xc0" <= marker <= b"\xcf" and marker not in (b"\xc4", b"\xc8", b"\xcc"):
            frames += 1
            if marker != b"\xc0" or frames > 1:
                raise BitstreamError(f"{name} payload is no baseline JPEG")
        if marker == b"\xda":
            end = _MARKER.search(data, position)
            if end is None or end[0] != _END_OF_IMAGE or end.end() != len(data):
                raise BitstreamError(f"{name} payload is not one scan up to its end")
            return
    raise BitstreamError(f"{name} payload holds no JPEG image")


def _require_image_chunks(data, name):
    """Refuses a PNG that holds more than its image: a chunk of text, for one, of few bytes is inflated
    to megabytes and then not used."""
    position = 8
    while position < len(data):
        if data[position + 4 : position + 8] not in (b"IHDR", b"IDAT", b"IEND"):
            raise BitstreamError(f"{name} payload holds more than an image")
        position += 12 + int.from_bytes(data[position : position + 4], "big")


@IMAGE_CODEC_REGISTRY.register()
class PngCodec(ImageCodec):
    """Lossless. EFFORT is the zlib level, 0 to 9, default 6."""

    name = "png"
    effort_range = (0, 9)
    default_effort = 6

    def _encode(self, samples):
        # Its own estimate is too small for noise in narrow images: a row takes a byte more.
        room = 2 * samples.nbytes + len(samples) + _ROOM
        return imagecodecs.png_encode(samples, level=int(self.effort), out=room)

    @classmethod
    def _decode(cls, data, *, shape, depth):
        _require_image_chunks(data, cls.name)
        return imagecodecs.png_decode(data, out=_frame(shape, depth))


@IMAGE_CODEC_REGISTRY.register()
class JpegCodec(ImageCodec):
    """Baseline JPEG, lossy. QUALITY 1 to 100, default 90."""

    name = "jpeg"
    bit_depths = range(2, 9)
    quality_range = (1, 100)
    whole_quality = True
    quality_meaning = "the usual JPEG quality; larger is better"
    default_quality = 90
    typical_qualities = (5, 10, 20, 40, 60, 80, 95)

    def _encode(self, samples):
        return imagecodecs.jpeg_encode(samples, level=int(self.quality), optimize=True)

    @classmethod
    def _decode(cls, data, *, shape, depth):
        _require_one_scan(data, cls.name)
        return imagecodecs.jpeg_decode(data, out=_frame(shape, depth))


@IMAGE_CODEC_REGISTRY.register()
class Jpeg420Codec(JpegCodec):
    """Baseline JPEG of colour images, YCbCr 4:2:0, lossy. QUALITY 1 to 100, default 90."""

    name = "jpeg420"
    layout = "colour"
    bit_depths = (8,)
    typical_qualities = (10, 30, 50, 70, 85, 95)

    def _encode(self, samples):
        return imagecodecs.jpeg_encode(
            samples,
            level=int(self.quality),
            colorspace="RGB",
            outcolorspace="YCBCR",
            subsampling="420",
            optimize=True,
        )


@IMAGE_CODEC_REGISTRY.register()
class JpegXlCodec(ImageCodec):
    """JPEG XL. Lossless by default; QUALITY above 0 is the lossy Butteraugli distance.

    EFFORT 1 to 9: 2 (default) takes less time than PNG, 7 is up to 10 % smaller at ten times the
    time.
    """

    name = "jpegxl"
    quality_range = (0, 25)
    quality_meaning = "Butteraugli distance: 0 is lossless, 1 visually lossless, larger is worse"
    effort_range = (1, 9)
    default_effort = 2

    def __init__(self, *, bits, quality=None, effort=None):
        super().__init__(bits=bits, quality=quality, effort=effort)
        if self.quality == 0:
            self.quality = None

    def _encode(self, samples):
        return imagecodecs.jpegxl_encode(
            samples,
            effort=int(self.effort),
            lossless=self.lossless,
            distance=None if self.lossless else float(self.quality),
            bitspersample=self.bits if self.lossless else None,
            usecontainer=False,
            numthreads=1,
        )

    @staticmethod
    def _decode(data, *, shape, depth):
        return imagecodecs.jpegxl_decode(data, numthreads=1, out=_frame(shape, depth))


@IMAGE_CODEC_REGISTRY.register()
class JpegXlRgbCodec(JpegXlCodec):
    """JPEG XL of colour images, lossy. QUALITY is the Butteraugli distance, above 0, default 1.

    EFFORT as of :class:`JpegXlCodec`, default 7.
    """

    name = "jpegxl_rgb"
    layout = "colour"
    bit_depths = (8,)
    quality_range = (0.01, 25)
    quality_meaning = "Butteraugli distance: 1 is visually lossless, larger is worse"
    default_quality = 1
    typical_qualities = (0.5, 1, 2, 4, 8, 15)
    default_effort = 7


@IMAGE_CODEC_REGISTRY.register()
class JpegLsCodec(ImageCodec):
    """JPEG-LS, lossless."""

    name = "jpegls"

    def _encode(self, samples):
        # Its own estimate is too small for noise: a sample takes up to four times its bits (ISO 14495-1,
        # LIMIT).
        return imagecodecs.jpegls_encode(samples, out=4 * samples.nbytes + _ROOM)

    @staticmethod
    def _decode(data, *, shape, depth):
        if not data.endswith(_END_OF_IMAGE):  # without it the decoder reads on for seconds
            raise BitstreamError("jpegls payload is cut short")
        return imagecodecs.jpegls_decode(data, out=_frame(shape, depth))


@IMAGE_CODEC_REGISTRY.register()
class AvifCodec(ImageCodec):
    """AVIF (AV1 intra), lossy. QUALITY 0 to 99, default 60; EFFORT 0 to 10, default 2."""

    name = "avif"
    bit_depths = range(2, 13)
    quality_range = (0, 99)
    whole_quality = True
    quality_meaning = "libavif quality; larger is better"
    default_quality = 60
    typical_qualities = (10, 30, 50, 70, 85, 95)
    effort_range = (0, 10)
    default_effort = 2

    @classmethod
    def sample_depth(cls, bits):
        return next(depth for depth in (8, 10, 12) if bits <= depth)

    def _encode(self, samples):
        # A gray image is always coded losslessly, whatever the level; three equal channels are not,
        # and come back as one.
        return imagecodecs.avif_encode(
            np.repeat(samples[..., None], 3, axis=2),
            level=int(self.quality),
            speed=10 - int(self.effort),
            bitspersample=self.sample_depth(self.bits),
            pixelformat="yuv400",
            numthreads=1,
        )

    @staticmethod
    def _decode(data, *, shape, depth):
        require_one_frame(data, shape[:2])
        return imagecodecs.avif_decode(data, numthreads=1, out=_frame(shape, depth))


@IMAGE_CODEC_REGISTRY.register()
class Avif420Codec(AvifCodec):
    """AVIF of colour images, YCbCr 4:2:0, lossy. QUALITY 0 to 99, default 60; EFFORT default 4."""

    name = "avif420"
    layout = "colour"
    bit_depths = (8,)
    default_effort = 4

    def _encode(self, samples):
        return imagecodecs.avif_encode(
            samples,
            level=int(self.quality),
            speed=10 - int(self.effort),
            bitspersample=8,
            pixelformat="yuv420",
            numthreads=1,
        )
