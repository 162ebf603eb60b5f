"""HEVC intra coding by x265, in process through PyAV (an optional package)."""

from fractions import Fraction

import numpy as np

from .image_codec import IMAGE_CODEC_REGISTRY, BitstreamError, ImageCodec

try:
    import av
except ImportError:  # reported when the codec is built
    av = None

__all__ = ["HevcCodec"]

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
_DECODER_MARGIN = 128  # px


def _frame_depth(depth):
    """Smallest sample format of x265 that holds `depth` bits."""
    return next(bits for bits in _FORMATS if depth <= bits)


@IMAGE_CODEC_REGISTRY.register()
class HevcCodec(ImageCodec):
    """HEVC, one intra frame. Lossless by default; QUALITY is the quantization parameter, 0 to 51.

    EFFORT 0 to 8 is the x265 preset, ultrafast to veryslow; default 5, medium.
    """

    name = "hevc"
    bit_depths = range(2, 13)
    quality_range = (0, 51)
    quality_meaning = "HEVC quantization parameter QP; larger is worse; leave it out for lossless"
    effort_range = (0, len(_PRESETS) - 1)
    default_effort = 5

    @classmethod
    def require_library(cls):
        if av is None or "libx265" not in av.codecs_available:
            raise ImportError("codec 'hevc' needs PyAV with libx265: pip install 'd2_featcomp[hevc]'")

    @classmethod
    def sample_depth(cls, bits):
        return _frame_depth(bits)

    def _encode(self, samples):
        height, width = samples.shape
        samples = np.pad(
            samples,
            ((0, max(0, _MIN_SIDE - height)), (0, max(0, _MIN_SIDE - width))),
            mode="edge",
        )
        mode = "lossless=1" if self.lossless else f"qp={int(self.quality)}"
        encoder = av.CodecContext.create("libx265", "w")
        encoder.height, encoder.width = samples.shape
        encoder.pix_fmt = _FORMATS[_frame_depth(self.bits)]
        encoder.time_base = Fraction(1, 25)
        encoder.options = {
            "preset": _PRESETS[int(self.effort)],
            "x265-params": f"{mode}:keyint=1:info=0:log-level=none:pools=none:frame-threads=1",
        }
        frame = av.VideoFrame.from_ndarray(samples, format=encoder.pix_fmt)
        return b"".join(bytes(packet) for f in (frame, None) for packet in encoder.encode(f))

    @staticmethod
    def _decode(data, *, shape, depth):
        height, width = shape
        decoder = av.CodecContext.create("hevc", "r")
        # The decoder pads its buffers; what is far larger than `shape` is not even allocated.
        decoder.options = {"max_pixels": str((height + _DECODER_MARGIN) * (width + _DECODER_MARGIN))}
        decoder.thread_count = 1
        packets = decoder.parse(data) + decoder.parse(None)
        frames = [frame for packet in (*packets, None) for frame in decoder.decode(packet)]
        if len(frames) != 1 or frames[0].format.name != _FORMATS[_frame_depth(depth)]:
            raise BitstreamError(
                f"hevc payload holds {len(frames)} frames "
                f"({', '.join(frame.format.name for frame in frames)}), not one "
                f"{_FORMATS[_frame_depth(depth)]} frame"
            )
        samples = frames[0].to_ndarray()
        if samples.shape != (max(height, _MIN_SIDE), max(width, _MIN_SIDE)):
            raise BitstreamError(f"hevc payload holds a frame of {samples.shape}, not of {tuple(shape)}")
        return np.ascontiguousarray(samples[:height, :width])
