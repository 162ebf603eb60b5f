"""Builds a data set of scenes from your own cut-outs and photographs, with exact masks.

    featcomp make-scenes --name my_scenes --cutouts stamps/ --backgrounds photos/

builds the data sets `my_scenes_train` and `my_scenes_val` below DETECTRON2_DATASETS (default: datasets).
Importing d2_featcomp with the same DETECTRON2_DATASETS registers them. The two parts share neither
cut-outs nor photographs.
"""

import argparse
import os
import re

TAKES_IMPORTS = False


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--name", required=True, help="name of the data set, and of its folder")
    parser.add_argument(
        "--cutouts", help="folder of images with transparent background, one sub-folder per class"
    )
    parser.add_argument("--backgrounds", help="folder of photographs")
    parser.add_argument("--classes", nargs="+", help="sub-folders to use (default: all large enough)")
    parser.add_argument(
        "--exclude", nargs="+", default=(), help="leave out cut-outs whose path contains one of these"
    )
    parser.add_argument("--train", type=int, default=2000, help="training images (default: 2000)")
    parser.add_argument("--val", type=int, default=200, help="validation images (default: 200)")
    parser.add_argument(
        "--seed", type=int, default=2021, help="seed of all random choices (default: 2021)"
    )
    parser.add_argument(
        "--check",
        action="store_true",
        help="only check whether the data set is complete: exit status 0 or 1",
    )


def run(args: argparse.Namespace) -> int:
    from ..data.datasets.scenes import find_data_root, photo_recipe
    from ..data.scenes import is_complete, write_scenes

    root = os.path.join(find_data_root(), args.name)
    require_possible(args, root)
    if args.check:
        return 0 if is_complete(root) else 1
    composers, description = photo_recipe(
        args.cutouts,
        args.backgrounds,
        classes=args.classes,
        exclude=args.exclude,
        counts={"train": args.train, "val": args.val},
        seed=args.seed,
    )()
    write_scenes(root, composers, description)
    classes = ", ".join(composers["train"].objects.classes)
    print(f"{root}: {args.train} training and {args.val} validation scenes of {classes}")
    return 0


def require_possible(args: argparse.Namespace, root: str) -> None:
    """Raises ValueError for a name that another data set has, and where something is missing."""
    from detectron2.data import DatasetCatalog

    from ..data.scenes import MANIFEST

    if not args.check and not (args.cutouts and args.backgrounds):
        raise ValueError("--cutouts and --backgrounds are needed")
    foreign = f"{args.name}_train" in DatasetCatalog and not os.path.exists(os.path.join(root, MANIFEST))
    if not re.fullmatch(r"[A-Za-z]\w*", args.name) or (
        foreign and not args.check and args.name != "photo_scenes"
    ):
        raise ValueError(f"--name {args.name!r}: choose a word that no data set has yet")
    if args.name == "scenes":
        raise ValueError("--name scenes is that of the embedded data set: choose another word")
    if min(args.train, args.val) < 1:
        raise ValueError("--train and --val must be at least 1")
