"""Curves of rate and quality in CSV files."""

import csv
import os

__all__ = ["read_curve"]


def read_curve(path, rate, quality, curve=None):
    """Reads a curve from a CSV file.

    Args:
        path (str): CSV file.
        rate, quality (str): columns, in upper or lower case.
        curve (str or None): which lines, by the column "curve"; None takes all, if they are of one.

    Returns:
        (list[float], list[float]): rates and qualities, of the lines that have both.

    Raises:
        FileNotFoundError: no such file. ValueError: no such column or curve, or no number.
    """
    if not os.path.isfile(path):
        raise FileNotFoundError(f"no file {path!r}")
    with open(path, newline="", encoding="utf-8-sig") as file:
        try:
            lines = list(csv.DictReader(file))
        except (csv.Error, UnicodeDecodeError) as error:
            raise ValueError(f"{path}: no CSV file ({error})") from error
    columns = {name.lower(): name for name in lines[0] if name} if lines else {}
    for wanted in (rate, quality):
        if wanted.lower() not in columns:
            raise ValueError(
                f"{path}: no column {wanted!r}; there are {', '.join(columns.values()) or 'none'}"
            )
    if "curve" in columns:
        lines = _select_curve(path, lines, columns["curve"], curve)
    elif curve is not None:
        raise ValueError(f"{path}: no column 'curve' to find {curve!r} in")
    rates, qualities = [], []
    for line in lines:
        pair = line[columns[rate.lower()]], line[columns[quality.lower()]]
        if all(pair):
            try:
                rates.append(float(pair[0]))
                qualities.append(float(pair[1]))
            except ValueError as error:
                raise ValueError(f"{path}: {error}") from error
    return rates, qualities


def _select_curve(path, lines, column, curve):
    names = list(dict.fromkeys(line[column] for line in lines if line[column]))
    if curve is None and len(names) > 1:
        raise ValueError(
            f"{path} holds several curves: name one of {', '.join(map(repr, names))} by --anchor-curve "
            "or --test-curve"
        )
    if curve is not None and curve not in names:
        raise ValueError(f"{path}: no curve {curve!r}; there are {', '.join(map(repr, names))}")
    wanted = curve if curve is not None else names[0] if names else ""
    return [line for line in lines if line[column] == wanted]
