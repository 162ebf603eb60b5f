"""What the edge program takes: images, folders, patterns, videos, cameras."""

import contextlib
import glob
import os

import numpy as np
from detectron2.data.detection_utils import read_image
from PIL import Image

from ..data.datasets.image_folders import IMAGE_SUFFIXES, list_images

__all__ = ["CAMERA", "VIDEO_SUFFIXES", "all_frames", "frames_of", "list_inputs"]

VIDEO_SUFFIXES = (".mp4", ".avi", ".mkv", ".mov", ".webm", ".m4v")
CAMERA = "camera:"


def list_inputs(given):
    """
    Args:
        given (sequence[str]): images, folders of images, patterns such as `photos/*.jpg`, video files,
            or `camera:0` for the first camera.

    Returns:
        list[str]: of files and cameras, each once.

    Raises:
        FileNotFoundError: nothing is there. ValueError: a file is neither image nor video.
    """
    found = {}
    for entry in given:
        if entry.startswith(CAMERA):
            found[entry] = None
        elif os.path.isdir(entry):
            found |= dict.fromkeys(list_images(entry))
        else:
            paths = [entry] if os.path.exists(entry) else sorted(glob.glob(entry, recursive=True))
            if not paths:
                raise FileNotFoundError(f"no image, folder or video {entry!r}")
            for path in paths:
                if not path.lower().endswith((*IMAGE_SUFFIXES, *VIDEO_SUFFIXES)):
                    raise ValueError(f"{path!r} is neither an image nor a video, by its name")
                found[path] = None
    return list(found)


def frames_of(entry):
    """
    Args:
        entry (str): from :func:`list_inputs`.

    Yields:
        (str, ndarray): a name that tells the frame, and the picture, (H, W, 3) uint8 RGB.

    Raises:
        ValueError: it cannot be decoded. ImportError: a video or camera without the library for it.
    """
    if entry.startswith(CAMERA):
        yield from _camera(entry)
    elif entry.lower().endswith(VIDEO_SUFFIXES):
        yield from _video(entry)
    else:
        try:
            yield _stem(entry), read_image(entry, format="RGB")
        except (OSError, SyntaxError, Image.DecompressionBombError) as error:
            raise ValueError(f"{entry!r} is no image that can be read ({error})") from error


def all_frames(given):
    """Iterates over :func:`frames_of` all of :func:`list_inputs`, which is called at once."""
    return (frame for entry in list_inputs(given) for frame in frames_of(entry))


def _stem(path):
    return os.path.splitext(os.path.basename(path))[0]


def _video(path):
    try:
        import av
    except ImportError as error:
        raise ImportError("video files need PyAV: pip install 'd2_featcomp[hevc]'") from error
    try:
        with av.open(path) as container:
            for number, frame in enumerate(container.decode(video=0)):
                yield f"{_stem(path)}_{number:06d}", frame.to_ndarray(format="rgb24")
    except (av.error.FFmpegError, IndexError) as error:
        raise ValueError(f"{path!r} is no video that can be read ({error})") from error


def _camera(entry):
    try:
        import cv2
    except ImportError as error:
        raise ImportError("cameras need OpenCV: pip install 'd2_featcomp[demo]'") from error
    number = entry[len(CAMERA) :]
    if not number.isdecimal():
        raise ValueError(f"{entry!r}: name a camera by its number, e.g. {CAMERA}0")
    camera = cv2.VideoCapture(int(number))
    with contextlib.closing(_Released(camera)):
        count = 0
        while True:
            there, frame = camera.read()
            if not there:
                if not count:
                    raise ValueError(f"{entry!r}: no camera of that number gives pictures")
                return
            yield f"camera{number}_{count:06d}", np.ascontiguousarray(frame[:, :, ::-1])
            count += 1


class _Released:
    def __init__(self, camera):
        self.close = camera.release
