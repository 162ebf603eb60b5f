"""Curves of rate and quality in CSV files."""

import csv
import os
from typing import NamedTuple

__all__ = ["CurveInFile", "read_curve"]


class CurveInFile(NamedTuple):
    """What a file says of a curve."""

    rates: list  # of float, of the lines that have both
    qualities: list  # of float, as many
    images: set  # of (str, str), data set and number of images; empty where the file does not say it


def read_curve(path, rate, quality, curve=None, seed=None):
    """Reads a curve from a CSV file.

    Args:
        path (str): CSV file.
        rate, quality (str): columns, in upper or lower case unless two differ in nothing else.
        curve (str or None): which lines, by the column "curve"; None takes all, if they are of one.
        seed (str or None): which of these, by the column "seed"; None takes all, if they are of one.

    Returns:
        CurveInFile

    Raises:
        FileNotFoundError: no such file. ValueError: no such column, curve or seed, no line that has
            both, or no number.
    """
    lines, names = _read_lines(path)
    columns_of_pair = [_find_column(path, names, wanted) for wanted in (rate, quality)]
    columns = {name.strip().lower(): name for name in names}
    lines = _select(path, lines, columns, curve, seed)
    rates, qualities = [], []
    for line in lines:
        pair = [line[column] for column in columns_of_pair]
        if all(pair):
            try:
                rates.append(float(pair[0]))
                qualities.append(float(pair[1]))
            except ValueError as error:
                raise ValueError(f"{path}: {error}") from error
    if not rates:
        of_curve = f" of curve {curve!r}" if curve is not None else ""
        raise ValueError(
            f"{path}: no line{of_curve} has both {rate!r} and {quality!r}: there is nothing to compare"
        )
    images = set()
    if {"dataset", "images"} <= columns.keys():
        images = {(line[columns["dataset"]], line[columns["images"]]) for line in lines}
    return CurveInFile(rates, qualities, {pair for pair in images if all(pair)})


def _read_lines(path):
    """(list[dict], list[str]): the lines of a file, and the names of its columns."""
    if not os.path.isfile(path):
        raise FileNotFoundError(f"no file {path!r}")
    with open(path, newline="", encoding="utf-8-sig") as file:
        try:
            reader = csv.DictReader(file, skipinitialspace=True)  # "rate, AP", as people write
            return list(reader), [name for name in reader.fieldnames or () if name]
        except (csv.Error, UnicodeDecodeError) as error:
            raise ValueError(f"{path}: no CSV file ({error})") from error


def _find_column(path, names, wanted):
    """Finds a column by its name, in upper or lower case where that is not ambiguous."""
    exact = [name for name in names if name.strip() == wanted]
    found = exact or [name for name in names if name.strip().lower() == wanted.lower()]
    if not found:
        raise ValueError(f"{path}: no column {wanted!r}; there are {', '.join(names) or 'none'}")
    if len(found) > 1:
        raise ValueError(f"{path}: {wanted!r} is the name of several columns ({', '.join(found)})")
    return found[0]


def _select(path, lines, columns, curve, seed):
    """Lines of one curve and seed, the only ones where none is named."""
    for kind, wanted in (("curve", curve), ("seed", seed)):
        if kind in columns:
            lines = _select_by(path, lines, columns[kind], kind, wanted)
        elif wanted is not None:
            raise ValueError(f"{path}: no column {kind!r} to find {wanted!r} in")
    return lines


def _select_by(path, lines, column, kind, wanted):
    """Lines of one curve or seed (`kind`), the only one where none is `wanted`."""
    names = list(dict.fromkeys(line[column] for line in lines if line[column]))
    if wanted is None and len(names) > 1:
        raise ValueError(
            f"{path} holds several {kind}s: name one of {', '.join(map(repr, names))} by "
            f"--anchor-{kind} or --test-{kind}"
        )
    if wanted is not None and wanted not in names:
        raise ValueError(
            f"{path}: no {kind} {wanted!r}; there are {', '.join(map(repr, names)) or 'none'}"
        )
    found = wanted if wanted is not None else names[0] if names else ""
    return [line for line in lines if line[column] == found]
