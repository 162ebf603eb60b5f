"""Marks of trainings: what each was made with, beside its weights."""

import json
import logging
import os

from ..files import write_text

__all__ = ["keep_beside", "read_mark", "write_mark"]


def _mark(folder):
    return os.path.join(folder, "key.json")


def read_mark(folder):
    """Reads the mark in the folder of a training; None where nothing was done yet.

    Raises:
        ValueError: it is damaged.
    """
    try:
        with open(_mark(folder), encoding="utf-8") as file:
            mark = json.load(file)
        nothing_done = not mark.get("complete") and "config" in mark and len(os.listdir(folder)) == 1
        return None if nothing_done else mark
    except FileNotFoundError:
        return None
    except ValueError as error:
        raise ValueError(f"{_mark(folder)} is damaged ({error}): move {folder!r} away") from error


def write_mark(mark, folder):
    """Writes the mark of a training, a dict, into its folder."""
    os.makedirs(folder, exist_ok=True)
    write_text(json.dumps(mark, indent=1), _mark(folder))


def keep_beside(folder):
    """Moves the folder of a training aside, to `FOLDER.old1` or the next free name; logs it."""
    number = 1
    while os.path.exists(f"{folder}.old{number}"):
        number += 1
    os.rename(folder, f"{folder}.old{number}")
    logging.getLogger("d2_featcomp").warning("What was in %s is now in %s.old%d", folder, folder, number)
