"""Lists the data sets that this project knows, and builds those that can be built.

    featcomp datasets
    featcomp datasets --build scenes photo_scenes

Data sets are below DETECTRON2_DATASETS (default: datasets). `scenes` is drawn from a seed, in a few
minutes. `photo_scenes` is composed from three Debian packages, which are downloaded with apt-get but not
installed. Download others from their authors. Your own data sets are made by featcomp make-scenes,
registered as in Detectron2, or any folder of images: images:FOLDER, images:FOLDER:FILE.json.
"""

import argparse

TAKES_IMPORTS = False


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--build",
        nargs="+",
        default=[],
        metavar="NAME",
        help="build these data sets: scenes, photo_scenes",
    )


def run(args: argparse.Namespace) -> None:
    from tabulate import tabulate

    from ..data.known import build_data_set, list_data_sets

    for name in args.build:
        print(f"{name}: {build_data_set(name)}")
    if args.build:
        return
    rows = [
        [known.name, "there" if known.present else "missing", known.registered, known.how]
        for known in list_data_sets()
    ]
    head = ["folder", "state", "names for DATASETS.TRAIN and DATASETS.TEST", "how to get it"]
    print(tabulate(rows, head, tablefmt="plain", maxcolwidths=[None, None, 44, 44]))
