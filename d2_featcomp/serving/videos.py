"""Videos of what was found in the frames of another one."""

import contextlib
import fractions
import os

import numpy as np

from ..deploy.pictures import collect_metadata, draw_outputs
from .outputs import read_outputs

__all__ = ["VideoWriter", "draw_answer", "draw_video"]

_TICKS = 1000  # of a second: some codecs take no finer ones
_CODECS = ("libx264", "h264", "libx265", "mpeg4")  # the first that this build of FFmpeg has


class VideoWriter(contextlib.AbstractContextManager):
    """Writes pictures of one size as a video.

    Args:
        path (str): of the file; its suffix tells the container, e.g. ".mp4".

    Raises:
        ImportError: PyAV is missing. ValueError: a suffix that is no video's. OSError: it cannot be
        written.
    """

    def __init__(self, path):
        try:
            import av
        except ImportError as error:
            raise ImportError("video files need PyAV: pip install 'd2_featcomp[hevc]'") from error
        os.makedirs(os.path.dirname(path) or ".", exist_ok=True)
        try:
            self._container = av.open(path, "w")
        except (ValueError, av.error.FFmpegError) as error:
            raise ValueError(f"{path!r} cannot be written as a video, e.g. out.mp4 ({error})") from error
        self._path, self._av, self._stream, self._last = path, av, None, -1

    def write(self, picture, seconds):
        """Adds a picture.

        Args:
            picture (ndarray): (H, W, 3) uint8 RGB, of the same size as the first one.
            seconds (float): since the start, when it is shown.
        """
        height, width = picture.shape[:2]
        even = np.pad(picture, ((0, height % 2), (0, width % 2), (0, 0)), mode="edge")
        if self._stream is None:
            self._stream = self._open_stream(even)
        if (self._stream.height, self._stream.width) != even.shape[:2]:
            raise ValueError(f"{self._path!r}: its pictures are not all of one size")
        frame = self._av.VideoFrame.from_ndarray(even, format="rgb24")
        self._last = max(self._last + 1, round(seconds * _TICKS))
        frame.pts, frame.time_base = self._last, fractions.Fraction(1, _TICKS)
        self._container.mux(self._stream.encode(frame))

    def _open_stream(self, picture):
        known = (name for name in _CODECS if name in self._av.codecs_available)
        for name in known:
            with contextlib.suppress(ValueError, self._av.error.FFmpegError):  # decodes only
                self._av.Codec(name, "w")
                stream = self._container.add_stream(name, rate=_TICKS)
                stream.height, stream.width = picture.shape[:2]
                stream.pix_fmt = "yuv420p"
                stream.codec_context.time_base = fractions.Fraction(1, _TICKS)
                stream.bit_rate = max(1_000_000, 4 * picture.shape[0] * picture.shape[1])
                return stream
        raise ImportError("this build of PyAV has no encoder for videos: pip install -U av")

    def __exit__(self, *error):
        if self._stream is not None and error[0] is None:
            self._container.mux(self._stream.encode(None))
        self._container.close()


def draw_video(frames, path, categories=(), threshold=0.5):
    """Writes a video of what was found in the frames of another one.

    Args:
        frames (iterable[(Frame, dict or None)]): of one video, with the result of each, from
            :func:`make_result`; None: the frame is shown as it is.
        path (str): of the video to write.
        categories (sequence[dict]): as :func:`read_outputs` takes them; each keeps its colour.
        threshold (float): instances of a lower score are left out.

    Returns:
        int: frames.

    Raises:
        ImportError, ValueError, OSError: see :class:`VideoWriter`.
    """
    count = 0
    with VideoWriter(path) as writer:
        for frame, answer in frames:
            writer.write(draw_answer(frame.picture, answer, categories, threshold), frame.time)
            count += 1
    return count


def draw_answer(picture, answer, categories=(), threshold=0.5):
    """Draws the JSON result of an image onto it.

    Args:
        picture (ndarray): (H, W, 3) uint8 RGB, the original image.
        answer (dict or None): from :func:`make_result`; None: nothing is known of it.
        categories (sequence[dict]): as :func:`read_outputs` takes them.
        threshold (float): instances of a lower score are left out.

    Returns:
        ndarray: as of :func:`draw_outputs`.
    """
    outputs = read_outputs(answer or {}, picture.shape[:2], categories)
    return draw_outputs(picture, outputs, collect_metadata(outputs, categories), threshold)
