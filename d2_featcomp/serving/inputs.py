"""Inputs of the edge program: images, folders, patterns, videos, cameras."""

import contextlib
import glob
import math
import os
import sys
import time
from typing import NamedTuple

import numpy as np

from ..deploy.naming import name_files
from ..errors import describe_import_error
from ..images import IMAGE_SUFFIXES, list_images, read_picture

__all__ = [
    "CAMERA",
    "VIDEO_SUFFIXES",
    "CutShortError",
    "Frame",
    "Sampling",
    "count_all_frames",
    "count_frames",
    "describe_left_out",
    "end_where_cut",
    "is_video",
    "list_inputs",
    "name_inputs",
    "read_all_frames",
    "read_frames",
    "read_timed_frames",
    "require_limit",
]

VIDEO_SUFFIXES = (".mp4", ".avi", ".mkv", ".mov", ".webm", ".m4v")
CAMERA = "camera:"
_OF_THIS_PROJECT = (".json", ".d2fc")  # that lie beside images
_MISSING_SECONDS = 1.0  # at the end of a video that is cut short; fewer may be rounding


class CutShortError(ValueError):
    """A video or camera has ended before its end; the pictures before were good."""


class Frame(NamedTuple):
    """A picture of a file or camera.

    Attributes:
        name (str): the entry's and, for videos and cameras, the number of the frame, from 0.
        picture (ndarray): (H, W, 3) uint8 RGB, upright.
        time (float or None): seconds since the first frame of the video or camera; None of an image.
    """

    name: str
    picture: np.ndarray
    time: float | None


class Sampling:
    """Which frames of a video or camera are taken; images all are.

    Args:
        stride (int): N of every Nth frame, at least 1.
        fps (float or None): of these at most so many a second, the first at or after each 1 / fps.

    Raises:
        ValueError: one of them is out of range.
    """

    def __init__(self, stride=1, fps=None):
        if stride < 1:
            raise ValueError(f"--stride is {stride}: it must be at least 1")
        if fps is not None and not fps > 0:
            raise ValueError(f"--fps is {fps:g}: it must be above 0")
        self.stride, self.fps = stride, fps

    def make_test(self):
        """Makes a function for one video: number and time in seconds of a frame -> whether to take it;
        to be called for all frames in order."""
        due = 0.0
        early = min(0.002, 0.1 / self.fps) if self.fps else 0.0  # some containers count milliseconds

        def is_taken(number, seconds):
            nonlocal due
            if number % self.stride or (self.fps and seconds + early < due):
                return False
            if self.fps:  # frames may come late: then none is made up for
                due = (math.floor((seconds + early) * self.fps) + 1) / self.fps
            return True

        return is_taken

    def count(self, frames, seconds):
        """Estimates int: how many are taken of a video of so many frames and seconds."""
        taken = -(-frames // self.stride)
        return min(taken, math.ceil(seconds * self.fps)) if self.fps else taken


def require_limit(limit):
    """Raises ValueError for a --limit below 1; None is no limit."""
    if limit is not None and limit < 1:
        raise ValueError(f"--limit is {limit}: it must be at least 1")


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


def describe_left_out(given):
    """Tells what :func:`list_inputs` does not take of folders: list[str], a line for each of them."""
    lines = []
    for folder in filter(os.path.isdir, given):
        with os.scandir(folder) as entries:
            seen = sorted((entry.name, entry.is_dir()) for entry in entries if entry.name[0] != ".")
        known = (*IMAGE_SUFFIXES, *_OF_THIS_PROJECT)
        files = [n for n, is_folder in seen if not is_folder and not n.lower().endswith(known)]
        folders = [name for name, is_folder in seen if is_folder]
        told = []
        if files:
            told.append(
                f"{len(files)} files of {folder!r} are no images by their names and are left out, e.g. "
                f"{files[0]!r}"
            )
        if folders:
            told.append(f"sub-folders of {folder!r} are not looked into, e.g. {folders[0]!r}")
        lines += ["; ".join(told)] if told else []
    return lines


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


def is_video(entry):
    """Whether an entry is the file of a video, by its name."""
    return not entry.startswith(CAMERA) and entry.lower().endswith(VIDEO_SUFFIXES)


def count_frames(entry, sampling=None):
    """Counts the pictures of a file or camera, without decoding them.

    Args:
        entry (str): from :func:`list_inputs`.
        sampling (Sampling or None): which of a video are taken; None: all.

    Returns:
        int or None: of a video an estimate, where its file tells no number; None where nothing tells it.
    """
    if entry.startswith(CAMERA):
        return None
    if not is_video(entry):
        return 1
    with contextlib.suppress(Exception):  # whatever it is, is told when it is read
        import av

        with av.open(entry) as container:
            stream = container.streams.video[0]
            seconds = float(stream.duration * stream.time_base) if stream.duration else None
            if seconds is None and container.duration:
                seconds = container.duration / av.time_base
            rate = float(stream.average_rate or 0)
            frames = stream.frames or round((seconds or 0) * rate)
            seconds = seconds or (frames / rate if rate else math.inf)
            return (sampling or Sampling()).count(frames, seconds) if frames else None
    return None


def count_all_frames(entries, sampling=None, limit=None):
    """Sums :func:`count_frames`; int, at most `limit`, or None where that is not known of an entry."""
    counts = [count_frames(entry, sampling) for entry in entries]
    if None in counts:
        return limit
    return sum(counts) if limit is None else min(sum(counts), limit)


def read_frames(entry, name=None):
    """As :func:`read_timed_frames` of all frames.

    Yields:
        (str, ndarray): name and picture.
    """
    yield from (frame[:2] for frame in read_timed_frames(entry, name))


def read_timed_frames(entry, name=None, sampling=None):
    """Reads the pictures of a file or camera.

    Args:
        entry (str): from :func:`list_inputs`.
        name (str or None): of the entry, from :func:`name_inputs`; None takes the file's stem.
        sampling (Sampling or None): which frames of videos and cameras to take; None: all.

    Yields:
        Frame

    Raises:
        ValueError: it cannot be decoded. CutShortError: it ends too soon, after the pictures that are
        there. ImportError: a video or camera without the library for it.
    """
    name = name_inputs([entry])[0] if name is None else name
    is_taken = (sampling or Sampling()).make_test()
    if entry.startswith(CAMERA):
        yield from _camera(entry, name, is_taken)
    elif is_video(entry):
        yield from _video(entry, name, is_taken)
    else:
        try:
            yield Frame(name, read_picture(entry), None)
        except FileNotFoundError as error:  # since it was listed
            raise ValueError(f"{entry!r} is no image that can be read ({error})") from error


def read_all_frames(given):
    """Iterates over :func:`read_frames` all of :func:`list_inputs`, which is called at once."""
    entries = list_inputs(given)
    named = zip(entries, name_inputs(entries), strict=True)
    return (frame for entry, name in named for frame in end_where_cut(read_frames(entry, name)))


def end_where_cut(frames, tell=None):
    """Yields frames of :func:`read_timed_frames`; of a video that is cut short, those that are there.

    Args:
        frames (iterable): from there.
        tell (callable or None): takes the message for the user; None prints it.
    """
    try:
        yield from frames
    except CutShortError as error:
        print(error, file=sys.stderr) if tell is None else tell(str(error))


def _video(path, name, is_taken):
    try:
        import av
    except ImportError as error:
        how = "pip install 'd2_featcomp[hevc]'"
        raise ImportError(describe_import_error(error, "video files need PyAV", how, "av")) from error
    try:
        with av.open(path) as container:
            rate, first, end = float(container.streams.video[0].average_rate or 1), None, 0.0
            promised = _find_end(container)
            for number, frame in enumerate(container.decode(video=0)):
                seconds = number / rate if frame.time is None else frame.time
                first = seconds if first is None else first
                end = max(end, seconds + float((frame.duration or 0) * frame.time_base))
                seconds = round(seconds - first, 6)
                if not is_taken(number, seconds):
                    continue
                picture = frame.to_ndarray(format="rgb24")
                # Players turn it so, counterclockwise: phones record as they are held.
                turned = np.rot90(picture, round(frame.rotation / 90))
                yield Frame(f"{name}_{number:06d}", np.ascontiguousarray(turned), seconds)
            if first is None:
                raise ValueError(f"{path!r} holds no frame that can be decoded")
            if promised > end + _MISSING_SECONDS:
                raise CutShortError(
                    f"{path!r} ends after {end:.1f} of {promised:.1f} s: it is cut short"
                )
    except (av.error.FFmpegError, IndexError) as error:
        raise ValueError(f"{path!r} is no video that can be read ({error})") from error


def _find_end(container):
    """Seconds at which the video of an opened container ends, as its head tells; 0 where it does not."""
    import av

    stream = container.streams.video[0]
    if stream.duration:
        return float(stream.duration * stream.time_base)
    with contextlib.suppress(ValueError):
        for key, value in stream.metadata.items():  # of Matroska
            if key.partition("-")[0].upper() == "DURATION":
                hours, minutes, seconds = map(float, value.split(":"))
                return 3600 * hours + 60 * minutes + seconds
    alone = len(container.streams) == 1  # sound may be longer
    return container.duration / av.time_base if alone and container.duration else 0.0


def _camera(entry, name, is_taken):
    try:
        import cv2
    except ImportError as error:
        how = "pip install 'd2_featcomp[demo]'"
        raise ImportError(describe_import_error(error, "cameras need OpenCV", how, "cv2")) from error
    number = entry[len(CAMERA) :]
    if not number.isdecimal():
        raise ValueError(f"{entry!r}: name a camera by its number, e.g. {CAMERA}0")
    camera = cv2.VideoCapture(int(number))
    with contextlib.closing(_Released(camera)):
        count, start = 0, None
        while True:
            there, frame = camera.read()
            start = time.monotonic() if start is None else start
            seconds = round(time.monotonic() - start, 3)
            if not there:
                if not count:
                    raise ValueError(f"{entry!r}: no camera of that number gives pictures")
                raise CutShortError(f"{entry!r} gives no more pictures after {count} frames")
            if is_taken(count, seconds):
                yield Frame(f"{name}_{count:06d}", np.ascontiguousarray(frame[:, :, ::-1]), seconds)
            count += 1


class _Released:
    def __init__(self, camera):
        self.close = camera.release
