"""Measures curves of rate against quality, with anchors, in one command.

    featcomp sweep --config msfc_R50 --anchor-weights output/step1/model_final.pth \\
        MODEL.WEIGHTS output/model_final.pth

measures the config's own codec: a lossless one at several bit depths, a lossy one at several qualities,
one of variable rate at several rates. As anchors it measures the image and all features coded by common
codecs, and the network before it was split. Choose other curves by options, or describe them in a YAML
file (--curves; its keys are in d2_featcomp/experiments/plan.py). --output gets tables (CSV), BD-rates,
plots, a summary and report.html. The same command continues where it was stopped; other curves may be
added. --target-kb and --max-drop choose among the settings on the convex hull of quality over rate.
"""

import argparse
import sys
from typing import Any

from .options import (
    add_config_file,
    add_launch_options,
    add_overrides,
    add_verbose,
    split_list,
)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add_config_file(parser)
    parser.add_argument("--output", default="output/sweep", help="folder (default: output/sweep)")
    parser.add_argument("--curves", metavar="YAML", help="file of curves, instead of these options:")
    listed: Any = {"type": split_list, "metavar": "A,B"}
    parser.add_argument("--codecs", **listed, help="one curve each (default: the config's codec)")
    parser.add_argument(
        "--bits",
        **listed,
        help="bit depths: points of lossless codecs (default: 2,3,4,6,8; CODEC.BITS for learned, and "
        "for the config's codec if it is lossy)",
    )
    parser.add_argument(
        "--qualities",
        **listed,
        help="points of lossy codecs (default: the usual ones of the codec; for the config's codec also "
        "CODEC.QUALITY)",
    )
    parser.add_argument(
        "--anchors",
        **listed,
        help="some of image, features, raw, answers, image:CODEC, features:CODEC; or none (default: "
        "image,features,raw)",
    )
    parser.add_argument(
        "--anchor-weights",
        metavar="WEIGHTS",
        help="checkpoint of the network before it was split, for anchors and the uncompressed network",
    )
    parser.add_argument(
        "--bd-method",
        default="cubic",
        choices=("cubic", "pchip", "akima"),
        help="how curves are fitted for BD-rates (default: cubic)",
    )
    parser.add_argument(
        "--target-kb", type=float, help="print the best setting of at most this many kB per image"
    )
    parser.add_argument(
        "--max-drop", type=float, help="print the smallest setting that loses at most this much quality"
    )
    parser.add_argument(
        "--quality",
        default="",
        help='quality for these two, e.g. "mask AP" (default: the first one measured)',
    )
    parser.add_argument(
        "--images", type=int, metavar="N", help="measure only the first N images of the test set"
    )
    add_launch_options(parser)
    add_verbose(parser)
    add_overrides(parser)


def run(args: argparse.Namespace) -> None:
    from ..engine import run_processes

    run_processes(sweep, args)


def sweep(args: argparse.Namespace) -> None:
    """What each of the processes does."""
    from ..engine import setup_terminal
    from ..experiments import choose_setting, plan_sweep, run_sweep
    from ..experiments.schema import UNCOMPRESSED

    if args.target_kb is not None and args.max_drop is not None:
        raise ValueError("give either --target-kb or --max-drop")
    sweep = plan_sweep(describe(args), args.config_file, args.opts, args.output)
    if args.max_drop is not None and UNCOMPRESSED not in sweep.points:
        raise ValueError("--max-drop needs the uncompressed network: do not leave it out")
    setup_terminal(args.output, verbose=args.verbose)
    results = run_sweep(sweep, args.output, method=args.bd_method, command=sys.argv)
    if results and (args.target_kb is not None or args.max_drop is not None):
        budget = {"target_kb": args.target_kb, "max_drop": args.max_drop, "quality": args.quality}
        point, overrides = choose_setting(sweep, results, **budget)
        print(f"{point.name}: {point.rate:.4g} kB an image, quality {point.quality:.4g}")
        print(" ".join(overrides))


def describe(args: argparse.Namespace) -> dict[str, Any]:
    """The sweep that the flags ask for, as a file has it."""
    from ..experiments import read_sweep

    flags = {"codec": args.codecs, "bits": args.bits, "quality": args.qualities}
    given = {key: value for key, value in flags.items() if value is not None}
    if args.curves and given:
        raise ValueError("give either --curves or --codecs, --bits and --qualities")
    description = read_sweep(args.curves) if args.curves else {"curves": [given]}
    for key, kind in (("bits", int), ("quality", float)):
        if key in given:
            try:
                given[key] = [kind(value) for value in given[key]]
            except ValueError as error:
                raise ValueError(f"--{key} takes numbers with commas between them: {error}") from error
    if args.anchors is not None:
        description["anchors"] = [] if args.anchors == ["none"] else args.anchors
        description.setdefault("uncompressed", bool(description["anchors"]))
    if args.images is not None:
        if args.images < 1:
            raise ValueError(f"--images takes a number from 1, not {args.images}")
        description["images"] = args.images
    if args.anchor_weights:
        description["anchor_weights"] = args.anchor_weights
    return description
