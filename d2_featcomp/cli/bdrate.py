"""Computes the BD-rate of two curves in CSV files.

    featcomp bdrate anchor.csv test.csv --rate bpfe --quality bbox/AP

The BD-rate says how many percent more bits one curve needs than the other for the same quality, on
average; negative numbers save bits. Any CSV file with a header and one line per point will do, such as
those of featcomp sweep. If a file has several curves in a column "curve", or several seeds in a column
"seed", name one.
"""

import argparse
import warnings

TAKES_IMPORTS = False


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("anchor", help="CSV file of the curve to compare with")
    parser.add_argument("test", help="CSV file of the other curve; may be the same file")
    parser.add_argument("--rate", required=True, help="column of the rate, in any unit, e.g. bpfe")
    parser.add_argument("--quality", required=True, help="column of the quality, larger is better")
    parser.add_argument("--anchor-curve", metavar="NAME", help="which curve, if it has several")
    parser.add_argument("--test-curve", metavar="NAME", help="which curve, if it has several")
    parser.add_argument("--anchor-seed", metavar="SEED", help="which seed, if the anchor has several")
    parser.add_argument("--test-seed", metavar="SEED", help="which seed, if the test has several")
    parser.add_argument(
        "--method",
        default="cubic",
        choices=("cubic", "pchip", "akima"),
        help="how curves are fitted (default: cubic, as in the papers; pchip for curves that saturate)",
    )


def run(args: argparse.Namespace) -> None:
    from ..evaluation import bd_rate
    from ..evaluation.curve_files import read_curve

    columns = args.rate, args.quality
    anchor = read_curve(args.anchor, *columns, args.anchor_curve, args.anchor_seed)
    test = read_curve(args.test, *columns, args.test_curve, args.test_seed)
    if anchor.images and test.images and anchor.images != test.images:
        told = [
            ", ".join(f"{count} of {name}" for name, count in sorted(each.images))
            for each in (anchor, test)
        ]
        print(
            f"warning: the curves were measured on other images, {told[0]} and {told[1]}: a BD-rate "
            "compares what the same images need"
        )
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        percent = bd_rate(anchor.rates, anchor.qualities, test.rates, test.qualities, method=args.method)
    for warning in caught:
        print(f"warning: {warning.message}")
    print(f"BD-rate: {percent:+.2f} %")
