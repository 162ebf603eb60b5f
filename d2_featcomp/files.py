"""Files that are whole or not there."""

import csv
import io
import os
import uuid

__all__ = ["prepare_file", "write_bytes", "write_csv", "write_text"]


def prepare_file(path):
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
        with open(partial, "wb"):
            pass
        os.remove(partial)
    except OSError as error:
        raise OSError(f"cannot write {str(path)!r}: {error}") from error


def write_bytes(data, path):
    """Writes a file in one piece: whoever reads `path` meanwhile gets the old content or the new one.

    Args:
        data (bytes): the whole content.
        path (str): replaced if it exists; its folder must exist.

    Raises:
        OSError: it cannot be written; an older file is left as it was.
    """
    partial = _partial(path)
    with open(partial, "wb") as file:
        file.write(data)
    os.replace(partial, path)


def _partial(path):
    """The name of a file until it is whole."""
    return f"{path}.{uuid.uuid4().hex}.partial"


def write_text(text, path):
    """Writes a UTF-8 file in one piece, see :func:`write_bytes`.

    Args:
        text (str): the whole content.
        path (str): replaced if it exists; its folder must exist.
    """
    write_bytes(text.encode(), path)


def write_csv(head, rows, path):
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
