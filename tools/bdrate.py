#!/usr/bin/env python
"""How many percent more bits a curve needs than another for the same quality (BD-rate), from CSV files.

    tools/bdrate.py anchor.csv test.csv --rate bpfe --quality bbox/AP

Any CSV file with a header and a line a point will do, those of tools/sweep.py among them; of a file with
several curves in its column "curve", name one. Negative numbers save bits.
"""

import argparse
import csv
import os
import warnings

from d2_featcomp.engine import report_errors
from d2_featcomp.evaluation import bd_rate


def parse_args():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("anchor", help="CSV file of the curve to compare with")
    parser.add_argument("test", help="CSV file of the other curve; may be the same file")
    parser.add_argument("--rate", required=True, help="column of the rate, in any unit, e.g. bpfe")
    parser.add_argument("--quality", required=True, help="column of the quality, larger is better")
    parser.add_argument("--anchor-curve", metavar="NAME", help="which one, if the file has several")
    parser.add_argument("--test-curve", metavar="NAME", help="which one, if the file has several")
    parser.add_argument(
        "--method",
        default="cubic",
        choices=("cubic", "pchip", "akima"),
        help="how curves are fitted (default: cubic, as in the papers; pchip for curves that saturate)",
    )
    return parser.parse_args()


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


def main(args):
    anchor = read_curve(args.anchor, args.rate, args.quality, args.anchor_curve)
    test = read_curve(args.test, args.rate, args.quality, args.test_curve)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        percent = bd_rate(*anchor, *test, method=args.method)
    for warning in caught:
        print(f"warning: {warning.message}")
    print(f"BD-rate: {percent:+.2f} %")


if __name__ == "__main__":
    arguments = parse_args()
    with report_errors():
        main(arguments)
