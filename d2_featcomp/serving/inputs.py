"""Inputs of the edge program: images, folders, patterns, videos, cameras."""

import contextlib
import glob
import os

import numpy as np
from PIL import Image

from ..deploy.naming import name_files
from ..images import IMAGE_SUFFIXES, list_images, read_picture

__all__ = ["CAMERA", "VIDEO_SUFFIXES", "list_inputs", "name_inputs", "read_all_frames", "read_frames"]

VIDEO_SUFFIXES = (".mp4", ".avi", ".mkv", ".mov", ".webm", ".m4v")
CAMERA = "camera:"


def list_inputs(given):
    """Lists the files and cameras that a user names.

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
    once = {entry if entry.startswith(CAMERA) else os.path.abspath(entry): entry for entry in found}
    return list(once.values())


def name_inputs(entries):
    """Names files and cameras.

    Args:
        entries (sequence[str]): from :func:`list_inputs`.

    Returns:
        list[str]: a name for each, no two equal: "camera0", or see :func:`name_files`.
    """
    files = [entry for entry in entries if not entry.startswith(CAMERA)]
    names = dict(zip(files, name_files(files), strict=True))
    return [names.get(entry, f"camera{entry[len(CAMERA) :]}") for entry in entries]


def read_frames(entry, name=None):
    """Reads the pictures of a file or camera.

    Args:
        entry (str): from :func:`list_inputs`.
        name (str or None): of the entry, from :func:`name_inputs`; None takes the file's stem.

    Yields:
        (str, ndarray): a name that tells the frame, the entry's and for videos and cameras a number,
        and the picture, (H, W, 3) uint8 RGB, upright.

    Raises:
        ValueError: it cannot be decoded. ImportError: a video or camera without the library for it.
    """
    name = name_inputs([entry])[0] if name is None else name
    if entry.startswith(CAMERA):
        yield from _camera(entry, name)
    elif entry.lower().endswith(VIDEO_SUFFIXES):
        yield from _video(entry, name)
    else:
        try:
            yield name, read_picture(entry)
        except (OSError, SyntaxError, Image.DecompressionBombError) as error:
            raise ValueError(f"{entry!r} is no image that can be read ({error})") from error


def read_all_frames(given):
    """Iterates over :func:`read_frames` all of :func:`list_inputs`, which is called at once."""
    entries = list_inputs(given)
    named = zip(entries, name_inputs(entries), strict=True)
    return (frame for entry, name in named for frame in read_frames(entry, name))


def _video(path, name):
    try:
        import av
    except ImportError as error:
        raise ImportError("video files need PyAV: pip install 'd2_featcomp[hevc]'") from error
    try:
        with av.open(path) as container:
            for number, frame in enumerate(container.decode(video=0)):
                picture = frame.to_ndarray(format="rgb24")
                # Players turn it so, counterclockwise: phones record as they are held.
                turned = np.rot90(picture, round(frame.rotation / 90))
                yield f"{name}_{number:06d}", np.ascontiguousarray(turned)
    except (av.error.FFmpegError, IndexError) as error:
        raise ValueError(f"{path!r} is no video that can be read ({error})") from error


def _camera(entry, name):
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
            yield f"{name}_{count:06d}", np.ascontiguousarray(frame[:, :, ::-1])
            count += 1


class _Released:
    def __init__(self, camera):
        self.close = camera.release
