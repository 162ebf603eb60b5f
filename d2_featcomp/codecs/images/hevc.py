"""HEVC intra coding by x265, in process through PyAV (an optional package)."""

from fractions import Fraction

import numpy as np

from ...errors import describe_import_error
from .base import IMAGE_CODEC_REGISTRY, BitstreamError, ImageCodec

try:
    import av
except ImportError as error:  # reported when the codec is built
    av, _IMPORT_ERROR = None, error
else:
    _IMPORT_ERROR = None

__all__ = ["Hevc420Codec", "HevcCodec"]

_PRESETS = (
    "ultrafast",
    "superfast",
    "veryfast",
    "faster",
    "fast",
    "medium",
    "slow",
    "slower",
    "veryslow",
)
_FORMATS = {8: "gray", 10: "gray10le", 12: "gray12le"}
_MIN_SIDE = 16  # px; x265 refuses smaller frames
# FFmpeg's decoder ends one table too early: at 12 bits a frame of a larger QP comes back as plain gray.
_QUALITY_RANGE_12 = (0, 49)
_DECODER_MARGIN = 128  # px


def _frame_depth(depth):
    """Finds the smallest sample format of x265 that holds `depth` bits."""
    return next(bits for bits in _FORMATS if depth <= bits)


@IMAGE_CODEC_REGISTRY.register()
class HevcCodec(ImageCodec):
    """HEVC, one intra frame. Lossless by default; QUALITY is the quantization parameter, 0 to 51; to 49
    for symbols of 11 and 12 bits.

    EFFORT 0 to 8 is the x265 preset, ultrafast to veryslow; default 5, medium.
    """

    name = "hevc"
    bit_depths = range(2, 13)
    quality_range = (0, 51)
    whole_quality = True
    quality_meaning = "HEVC quantization parameter QP; larger is worse; leave it out for lossless"
    typical_qualities = (18, 24, 30, 36, 42, 48)
    effort_range = (0, len(_PRESETS) - 1)
    default_effort = 5

    def __init__(self, *, bits, quality=None, effort=None):
        if bits in (11, 12):
            self.quality_range = _QUALITY_RANGE_12
        super().__init__(bits=bits, quality=quality, effort=effort)

    @classmethod
    def require_library(cls):
        need, how = "codec 'hevc' needs PyAV with libx265", "pip install 'd2_featcomp[hevc]'"
        if _IMPORT_ERROR is not None:
            raise ImportError(describe_import_error(_IMPORT_ERROR, need, how, "av")) from _IMPORT_ERROR
        if av is None or "libx265" not in av.codecs_available:
            raise ImportError(f"{need}: {how}")

    @classmethod
    def sample_depth(cls, bits):
        return _frame_depth(bits)

    def _encode(self, samples):
        pixel_format = self._pixel_format(self.bits)
        frame = self._frame(_pad(samples, self._frame_size(samples.shape)), pixel_format)
        mode = "lossless=1" if self.lossless else f"qp={int(self.quality)}:ipratio=1"
        encoder = av.CodecContext.create("libx265", "w")
        encoder.height, encoder.width, encoder.pix_fmt = frame.height, frame.width, pixel_format
        encoder.time_base = Fraction(1, 25)
        encoder.options = {
            "preset": _PRESETS[int(self.effort)],
            "x265-params": f"{mode}:keyint=1:info=0:log-level=none:pools=none:frame-threads=1",
        }
        return b"".join(bytes(packet) for f in (frame, None) for packet in encoder.encode(f))

    @classmethod
    def _decode(cls, data, *, shape, depth):
        height, width = shape[:2]
        decoder = av.CodecContext.create("hevc", "r")
        # The decoder pads its buffers; what is far larger than `shape` is not even allocated.
        decoder.options = {"max_pixels": str((height + _DECODER_MARGIN) * (width + _DECODER_MARGIN))}
        decoder.thread_count = 1
        packets = decoder.parse(data) + decoder.parse(None)
        if len(packets) != 1:  # each would be decoded to a frame
            raise BitstreamError(f"{cls.name} payload holds {len(packets)} frames, not one")
        frames = decoder.decode(packets[0]) + decoder.decode(None)
        pixel_format = cls._pixel_format(depth)
        found = [frame.format.name for frame in frames]
        if found != [pixel_format]:
            raise BitstreamError(
                f"{cls.name} payload holds frames {found}, not one {pixel_format} frame"
            )
        (frame,) = frames
        size = frame.height, frame.width
        if size != cls._frame_size(shape):
            raise BitstreamError(f"{cls.name} payload holds a frame of {size}, not of {tuple(shape)}")
        return np.ascontiguousarray(cls._samples(frame)[:height, :width])

    @staticmethod
    def _frame_size(shape):
        """Computes height and width of the frame in which an image of `shape` is coded."""
        return max(shape[0], _MIN_SIDE), max(shape[1], _MIN_SIDE)

    @staticmethod
    def _pixel_format(bits):
        return _FORMATS[_frame_depth(bits)]

    @staticmethod
    def _frame(samples, pixel_format):
        return av.VideoFrame.from_ndarray(samples, format=pixel_format)

    @staticmethod
    def _samples(frame):
        return frame.to_ndarray()


@IMAGE_CODEC_REGISTRY.register()
class Hevc420Codec(HevcCodec):
    """HEVC of colour images, YCbCr 4:2:0, one intra frame, lossy. QUALITY is QP, 0 to 51, default 28.

    EFFORT as of :class:`HevcCodec`.
    """

    name = "hevc420"
    layout = "colour"
    bit_depths = (8,)
    quality_meaning = "HEVC quantization parameter QP; larger is worse"
    default_quality = 28

    @staticmethod
    def _frame_size(shape):
        return tuple(max(side + side % 2, _MIN_SIDE) for side in shape[:2])

    @staticmethod
    def _pixel_format(bits):
        return "yuv420p"

    @staticmethod
    def _frame(samples, pixel_format):
        return av.VideoFrame.from_ndarray(samples, format="rgb24").reformat(format=pixel_format)

    @staticmethod
    def _samples(frame):
        return frame.to_ndarray(format="rgb24")


def _pad(samples, size):
    """Repeats the last row and column until height and width are `size`."""
    missing = [(0, full - side) for full, side in zip(size, samples.shape, strict=False)]
    return np.pad(samples, missing + [(0, 0)] * (samples.ndim - 2), mode="edge")
