"""Differences of average precision between points of a plan, with intervals; and the files that these
are computed from, which evaluators write into the points' folders (see
`evaluation/average_precision.py`)."""

import glob
import math
import os
import shutil

from tabulate import tabulate

from ..evaluation.average_precision import (
    ImageMatches,
    find_interval,
    require_same_images,
    sample_average_precision,
)
from ..evaluation.coco import name_matches
from ..evaluation.tradeoff import COLUMNS
from ..files import write_csv

__all__ = [
    "Differences",
    "copy_matches",
    "describe_interval",
    "format_differences",
    "remove_matches",
    "write_differences",
]

_FIELDS = ("setting", "minus", "column", "difference", "low", "high", "images", "note")


def _find_matches(stem):
    return glob.glob(glob.escape(stem) + name_matches("*"))


def remove_matches(stem):
    """Removes the files of matches whose paths begin with `stem`."""
    for path in _find_matches(stem):
        os.remove(path)


def copy_matches(source, target):
    """Copies files of matches, from paths that begin with `source` to such that begin with `target`;
    what was there is removed."""
    remove_matches(target)
    for path in _find_matches(source):
        os.makedirs(os.path.dirname(target), exist_ok=True)
        shutil.copyfile(path, target + path.removeprefix(source))


class Differences:
    """Computes the differences that a plan asks for, and others of its points.

    Args:
        plan (Plan): that is measured.
    """

    def __init__(self, plan):
        self._plan = plan
        self._samples = {}  # (folder, column) -> matches, sampled average precision

    def compute_all(self, folders):
        """Computes those of the plan.

        Args:
            folders (dict): name of a point that was measured -> its OUTPUT_DIR.

        Returns:
            list[dict]: as :func:`format_differences` takes them, of points that were measured.
        """
        return [
            self.compute(test, minus, column, folders)
            for wanted in self._plan.differences
            for column in wanted.columns
            for test, minus in self._pairs(wanted)
            if test in folders and minus in folders
        ]

    def _pairs(self, wanted):
        """Pairs names of points, those of one seed with one another."""
        labels = [wanted.setting]
        if wanted.curve:
            curves = {curve.name: curve for curve in self._plan.curves}
            labels = [point.name for point in curves[wanted.curve].points]
        names = {(point.label, point.seed): name for name, point in self._plan.points.items()}
        seeds = self._plan.seeds or (None,)
        return [(names[label, seed], names[wanted.minus, seed]) for label in labels for seed in seeds]

    def compute(self, test, minus, column, folders):
        """Computes one difference.

        Args:
            test, minus (str): names of points.
            column (str): of average precision.
            folders (dict): see :meth:`compute_all`.

        Returns:
            dict: "setting", "minus", "column"; "difference", "low" and "high" in percent points, the
            bounds of a 95 % interval; "images", how many were resampled; "note", why there is none.
        """
        found = {"setting": test, "minus": minus, "column": column}
        nothing = dict.fromkeys(("difference", "low", "high"), math.nan)
        try:
            (matches, values), (others, anchor) = (
                self._sample(folders[name], column) for name in (test, minus)
            )
            require_same_images(matches, others)
        except FileNotFoundError as error:
            note = (
                f"no {error.filename!r}: there were no detections, or an earlier release measured this; "
                "measure it into a new folder"
            )
            return {**found, **nothing, "images": 0, "note": note}
        except ValueError as error:
            return {**found, **nothing, "images": 0, "note": str(error)}
        differences = values - anchor
        low, high = find_interval(differences[1:])
        measured = {"difference": float(differences[0]), "low": low, "high": high}
        return {**found, **measured, "images": len(matches.image_ids), "note": ""}

    def _sample(self, folder, column):
        if (folder, column) not in self._samples:
            task, metric, _ = COLUMNS[column]
            matches = ImageMatches.load(os.path.join(folder, "inference", name_matches(task)))
            self._samples[folder, column] = matches, sample_average_precision(matches, metric)
        return self._samples[folder, column]


def describe_interval(entry):
    """str: the interval of a difference, e.g. "-1.2 to +0.4"."""
    return "-" if math.isnan(entry["low"]) else f"{entry['low']:+.1f} to {entry['high']:+.1f}"


def format_differences(found):
    """Formats differences as a table.

    Args:
        found (list[dict]): as :meth:`Differences.compute` gives them.

    Returns:
        str: in Markdown; below it notes.
    """
    cells = [
        [
            *(entry[field] for field in ("setting", "minus", "column")),
            "-" if math.isnan(entry["difference"]) else f"{entry['difference']:+.1f}",
            describe_interval(entry),
            entry["images"],
        ]
        for entry in found
    ]
    head = ["setting", "minus", "column", "difference", "95 % interval", "images"]
    align = ("left", "left", "left", "right", "right", "right")
    table = tabulate(cells, head, tablefmt="pipe", colalign=align, disable_numparse=True)
    notes = dict.fromkeys(f"- {entry['setting']}: {entry['note']}" for entry in found if entry["note"])
    return "\n".join([table, *([""] if notes else []), *notes])


def write_differences(found, path):
    """Writes what :func:`format_differences` takes, a line an entry, in one piece."""
    write_csv(_FIELDS, ([entry[field] for field in _FIELDS] for entry in found), path)
