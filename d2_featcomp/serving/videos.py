"""Videos of what was found in the frames of another one."""

import base64
import contextlib
import fractions
import io
import os

import numpy as np
import pycocotools.mask
import torch
from detectron2.structures import Boxes, Instances
from PIL import Image

from ..deploy.pictures import collect_metadata, draw_outputs

__all__ = ["VideoWriter", "draw_answer", "draw_video", "read_outputs"]

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


def draw_video(frames, path, threshold=0.5):
    """Writes a video of what was found in the frames of another one.

    Args:
        frames (iterable[(Frame, dict or None)]): of one video, with the result of each, from
            :func:`make_result`; None: the frame is shown as it is.
        path (str): of the video to write.
        threshold (float): instances of a lower score are left out.

    Returns:
        int: frames.

    Raises:
        ImportError, ValueError, OSError: see :class:`VideoWriter`.
    """
    count = 0
    with VideoWriter(path) as writer:
        for frame, answer in frames:
            writer.write(draw_answer(frame.picture, answer, threshold), frame.time)
            count += 1
    return count


def draw_answer(picture, answer, threshold=0.5):
    """Draws the JSON result of an image onto it.

    Args:
        picture (ndarray): (H, W, 3) uint8 RGB, the original image.
        answer (dict or None): from :func:`make_result`; None: nothing is known of it.
        threshold (float): instances of a lower score are left out.

    Returns:
        ndarray: as of :func:`draw_outputs`.
    """
    outputs, categories = read_outputs(answer or {}, picture.shape[:2])
    return draw_outputs(picture, outputs, collect_metadata(outputs, categories), threshold)


def read_outputs(answer, size):
    """Inverse of :func:`make_result`, of what can be drawn onto an image.

    Args:
        answer (dict): the result.
        size ((int, int)): height and width of the image.

    Returns:
        (dict, list[dict]): the network's output, with "instances" and, where there are such maps,
        "sem_seg" or "panoptic_seg"; and the categories of its instances, "id" and "name" of each.
    """
    found = answer.get("instances", [])
    names = {entry["category_id"]: entry.get("category", str(entry["category_id"])) for entry in found}
    places = {number: place for place, number in enumerate(sorted(names))}
    instances = Instances(tuple(size))
    boxes = torch.tensor([entry["bbox"] for entry in found], dtype=torch.float32).reshape(-1, 4)
    boxes[:, 2:] += boxes[:, :2]
    instances.pred_boxes = Boxes(boxes)
    instances.scores = torch.tensor([entry["score"] for entry in found])
    instances.pred_classes = torch.tensor([places[entry["category_id"]] for entry in found]).long()
    if found and all("segmentation" in entry for entry in found):
        masks = [pycocotools.mask.decode(entry["segmentation"]) for entry in found]
        instances.pred_masks = torch.from_numpy(np.stack(masks)).bool()
    outputs, maps = {"instances": instances}, answer.get("maps", {})
    if "panoptic" in maps:
        outputs["panoptic_seg"] = _read_labels(maps["panoptic"]), answer["segments"]
    elif "segmentation" in maps:
        labels = _read_labels(maps["segmentation"]).long()
        outputs["sem_seg"] = torch.nn.functional.one_hot(labels).permute(2, 0, 1)
    return outputs, [{"id": number, "name": names[number]} for number in places]


def _read_labels(data):
    with Image.open(io.BytesIO(base64.b64decode(data))) as image:
        return torch.from_numpy(np.asarray(image).astype(np.int32))
