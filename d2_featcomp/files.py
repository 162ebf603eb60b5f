"""Files that are whole or not there."""

import csv
import io
import os
import tempfile
import uuid

__all__ = ["prepare_file", "write_bytes", "write_csv", "write_text"]


def prepare_file(path):
    """Makes sure, before long work, that its result can be written: makes the folder and tries it.

    Args:
        path (str): file to be written later; one that is there is left as it is.

    Raises:
        OSError: it is a folder, or its folder can be neither made nor written into.
    """
    if os.path.isdir(path):
        raise IsADirectoryError(f"{path!r} is a folder: give the name of a file")
    folder = os.path.dirname(os.path.abspath(path))
    try:
        os.makedirs(folder, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            pass
    except OSError as error:
        raise OSError(f"cannot write {path!r}: {error}") from error


def write_bytes(data, path):
    """Writes a file in one piece: whoever reads `path` meanwhile gets the old content or the new one.

    Args:
        data (bytes): the whole content.
        path (str): replaced if it exists; its folder must exist.

    Raises:
        OSError: it cannot be written; an older file is left as it was.
    """
    partial = f"{path}.{uuid.uuid4().hex}.partial"
    with open(partial, "wb") as file:
        file.write(data)
    os.replace(partial, path)


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
