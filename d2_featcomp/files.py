"""Atomic file writes."""

import contextlib
import csv
import errno
import io
import os
import re
import time
import uuid
from collections.abc import Iterable, Sequence

__all__ = [
    "prepare_file",
    "remove_partial_files",
    "sync_folder",
    "write_bytes",
    "write_csv",
    "write_text",
]

_PARTIAL = re.compile(r"\.[0-9a-f]{32}\.partial")


def prepare_file(path: str | os.PathLike[str]) -> None:
    """Makes sure, before long work, that its result can be written: makes the folder and tries it.

    Args:
        path (str): file to be written later; one that is there is left as it is.

    Raises:
        OSError: it is a folder, or its folder can be neither made nor written into.
    """
    folder, name = os.path.split(os.fspath(path))
    if os.path.isdir(path) or name in ("", ".", ".."):
        raise IsADirectoryError(f"{str(path)!r} is a folder: give the name of a file")
    partial = _partial(path)
    try:
        os.makedirs(folder or ".", exist_ok=True)
        with contextlib.suppress(FileNotFoundError):
            os.lstat(path)  # a name that is too long
        with open(partial, "wb"):
            pass
        os.remove(partial)
    except OSError as error:
        reason = error.strerror or error  # without the name of the partial file
        raise OSError(f"cannot write {str(path)!r}: {reason}") from error


def write_bytes(data: bytes, path: str | os.PathLike[str]) -> None:
    """Writes a file in one piece: whoever reads `path` meanwhile gets the old content or the new one.

    When it returns, the file is on disk: it outlives a loss of power.

    Args:
        data (bytes): the whole content.
        path (str): replaced if it exists; its folder must exist.

    Raises:
        OSError: it cannot be written, `filename` is the path; an older file is left as it was, and
        nothing beside it.
    """
    partial = _partial(path)
    try:
        with open(partial, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        os.replace(partial, path)
    except BaseException as error:  # a full disk, an interruption
        with contextlib.suppress(OSError):
            os.remove(partial)
        if isinstance(error, OSError):  # of the partial file, or of none
            error.filename = os.fspath(path)
            del error.filename2
        raise
    sync_folder(os.path.dirname(path))


def remove_partial_files(folder: str | os.PathLike[str], age: float = 3600.0) -> None:
    """Removes what writers that were killed have left in a folder; those that still write are spared.

    Args:
        folder (str): that exists.
        age (float): seconds since a partial file was last written to.
    """
    before = time.time() - age
    with os.scandir(folder) as entries:
        for entry in entries:
            with contextlib.suppress(OSError):  # another program was quicker
                if _PARTIAL.fullmatch(entry.name) and entry.stat().st_mtime < before:
                    os.remove(entry.path)


def sync_folder(folder: str | os.PathLike[str]) -> None:
    """Waits until a folder's list of files is on disk: a file that was just renamed, or made.

    Args:
        folder (str): "" for the current one. Does nothing where the system or the file system offers
            no such wait (Windows, some network file systems).
    """
    if os.name == "nt":
        return
    descriptor = os.open(folder or ".", os.O_RDONLY)
    try:
        os.fsync(descriptor)
    except OSError as error:
        if error.errno not in (errno.EINVAL, errno.ENOTSUP):
            raise
    finally:
        os.close(descriptor)


def _partial(path: str | os.PathLike[str]) -> str:
    """Path of a file until it is whole: of its own for each writer, and short, whatever the name is."""
    return os.path.join(os.path.dirname(path), f".{uuid.uuid4().hex}.partial")


def write_text(text: str, path: str | os.PathLike[str]) -> None:
    """Writes a UTF-8 file in one piece, see :func:`write_bytes`.

    Args:
        text (str): the whole content.
        path (str): replaced if it exists; its folder must exist.
    """
    write_bytes(text.encode(), path)


def write_csv(
    head: Sequence[object], rows: Iterable[Sequence[object]], path: str | os.PathLike[str]
) -> None:
    """Writes a CSV file in one piece, see :func:`write_text`.

    Args:
        head (sequence): names of the columns.
        rows (iterable[sequence]): the lines.
        path (str): replaced if it exists.
    """
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(head)
    writer.writerows(rows)
    write_text(text.getvalue(), path)
