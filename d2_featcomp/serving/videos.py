"""Videos of what was found in the frames of another one."""

import contextlib
import fractions
import os
import uuid

import numpy as np

from ..deploy.pictures import collect_metadata, draw_outputs
from ..errors import describe_import_error
from ..files import prepare_file
from .outputs import read_outputs

__all__ = ["VideoWriter", "draw_answer", "draw_video", "require_drawable"]

_TICKS = 1000  # of a second: some codecs take no finer ones
_CODECS = ("libx264", "h264", "libx265", "mpeg4")  # the first that this build of FFmpeg has
_QUALITY = {"libx264": "23", "libx265": "26"}  # constant; bit rates suppose a frame each tick


class VideoWriter(contextlib.AbstractContextManager):
    """Writes pictures of one size as a video.

    The file is there when it is complete; after an error, or without a picture, it is as it was, after
    an interruption it has what was written before.

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
            how = "pip install 'd2_featcomp[hevc]'"
            raise ImportError(
                describe_import_error(error, "video files need PyAV", how, "av")
            ) from error
        prepare_file(path)
        stem, suffix = os.path.splitext(path)
        self._partial = f"{stem}.{uuid.uuid4().hex}.partial{suffix}"
        try:
            self._container = av.open(self._partial, "w")
        except (ValueError, av.error.FFmpegError) as error:
            reason = str(error).replace(self._partial, path)
            raise ValueError(
                f"{path!r} cannot be written as a video, e.g. out.mp4 ({reason})"
            ) from error
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
                if name in _QUALITY:
                    stream.options = {"crf": _QUALITY[name]}
                else:
                    stream.bit_rate = max(1_000_000, 4 * picture.shape[0] * picture.shape[1])
                return stream
        raise ImportError("this build of PyAV has no encoder for videos: pip install -U av")

    def __exit__(self, kind, *error):
        ended = kind is None or issubclass(kind, KeyboardInterrupt)  # that is how cameras are stopped
        complete = ended and self._stream is not None
        try:
            if complete:
                self._container.mux(self._stream.encode(None))
            self._container.close()
            if complete:
                os.replace(self._partial, self._path)
        finally:
            with contextlib.suppress(FileNotFoundError):
                os.remove(self._partial)


def require_drawable(path, video):
    """Makes sure, before long work, that a drawn video can be written.

    Args:
        path (str): where to.
        video (str): file of the original one, which it must not be; or a camera.

    Raises:
        ImportError, ValueError, OSError: see :class:`VideoWriter`.
    """
    if os.path.exists(path) and os.path.exists(video) and os.path.samefile(path, video):
        raise ValueError(f"--draw {path!r} is the video itself: give the name of another file")
    with VideoWriter(path):  # without a picture it leaves nothing behind
        pass


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
