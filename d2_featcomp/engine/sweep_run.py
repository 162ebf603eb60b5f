"""Runs a sweep: measures its curves, compares them, draws them."""

import csv
import json
import logging
import os
import platform
from importlib import metadata

import torch
from detectron2 import __version__ as detectron2_version
from detectron2.utils import comm

from ..evaluation.bjontegaard_delta import compare_curves
from ..evaluation.rate_budget import OperatingPoint, within_budget
from ..evaluation.tradeoff import (
    COLUMNS,
    format_bd_rates,
    format_table,
    plot_curves,
    rows_of,
    write_bd_rates,
)
from ..files import write_csv, write_text
from .command_line import plain_config
from .experiment import file_name
from .measurement import measure_settings

__all__ = ["choose_setting", "run_sweep"]

# Of these, another column says the same with the sign of the others: larger is better.
_LOWER_IS_BETTER = ("RMSE",)
_RATES = {"BPFE": "BPFE", "bpp": "bits/pixel"}  # file name -> column


def run_sweep(sweep, output, *, method="cubic", command=()):
    """Measures a sweep, and writes what came out of it.

    Args:
        sweep (Sweep): from :func:`plan_sweep`.
        output (str): folder; gets `curves.csv`, `per_image.csv`, `summary.json`, `table.md`,
            `bd_rates.csv`, `bd_rates.md`, plots of each metric against BPFE and against bits per pixel
            (PNG and SVG), and, in `records` and `settings`, what an interrupted sweep goes on from.
        method (str): of the BD-rates, see :func:`bd_rate`.
        command (sequence[str]): for the summary.

    Returns:
        dict: name of a point -> {group: {metric: value}}; empty on all processes but the main one.

    Raises:
        ValueError, FileNotFoundError, OSError: see :func:`measure_settings`.
    """
    os.makedirs(output, exist_ok=True)
    results = measure_settings(sweep.configs, os.path.join(output, "records"))
    if not comm.is_main_process():
        return {}
    rows = _rows(results)
    qualities = _qualities(rows)
    _write_curves(sweep, results, os.path.join(output, "curves.csv"))
    _write_images(sweep, os.path.join(output, "per_image.csv"))
    columns = [*COLUMNS, *(column for column in qualities if column not in COLUMNS)]
    table = format_table(rows, columns)
    write_text(f"{table}\n", os.path.join(output, "table.md"))
    bd_rates = _bd_rates(sweep, rows, qualities, method)
    write_bd_rates(bd_rates, os.path.join(output, "bd_rates.csv"))
    bd_table = format_bd_rates(bd_rates)
    write_text(f"{bd_table}\n", os.path.join(output, "bd_rates.md"))
    _write_summary(sweep, bd_rates, command, os.path.join(output, "summary.json"))
    plots = _draw(sweep, rows, qualities, output)
    logger = logging.getLogger("d2_featcomp")
    logger.info("%s\n\n%s\n", sweep.title, table)
    if bd_rates:
        logger.info("More bits for the same quality (BD-rate)\n\n%s\n", bd_table)
    for name in ("curves.csv", "per_image.csv", "summary.json", *plots):
        logger.info("%s", os.path.join(output, name))
    return results


def choose_setting(sweep, results, *, target_kb=None, max_drop=None, quality=""):
    """Picks the setting, not of an anchor, on the convex hull of rate and quality that meets a budget.

    Args:
        sweep (Sweep): that was measured.
        results (dict): from :func:`run_sweep`.
        target_kb (float or None): kilobytes (1000 bytes) an image, at most.
        max_drop (float or None): how much quality may fall below the uncompressed network, at most.
        quality (str): a column such as "box AP"; "" is the first that was measured.

    Returns:
        (OperatingPoint, list[str]): the setting, its rate in kB; and its config overrides.

    Raises:
        ValueError: no setting meets it, the quality is unknown, or there is no uncompressed network.
    """
    rows = _rows(results)
    known = _qualities(rows)
    quality = quality or next(iter(known), "")
    if quality not in known:
        raise ValueError(f"unknown quality {quality!r}: measured were {', '.join(known) or 'none'}")
    points = {point.name: point for curve in sweep.curves if not curve.anchor for point in curve.points}
    measured = [
        OperatingPoint(name, rows[name]["kB/image"], rows[name].get(quality, float("nan")))
        for name in points
    ]
    if max_drop is not None:
        if not sweep.levels:
            raise ValueError("a largest drop needs the uncompressed network: do not leave it out")
        least = rows[sweep.levels[0].name].get(quality, float("nan")) - max_drop
        if least != least:
            raise ValueError(f"{quality} of the uncompressed network was not measured")
        chosen = within_budget(measured, least_quality=least)
    else:
        chosen = within_budget(measured, most_rate=target_kb)
    overrides = points[chosen.name].overrides
    return chosen, [str(part) for pair in overrides.items() for part in pair]


def _rows(results):
    """As :func:`rows_of`, with the metrics of groups that it does not know as `group/metric`."""
    rows = rows_of(results)
    known = {group for group, _, _ in COLUMNS.values()}
    for name, groups in results.items():
        for group, metrics in groups.items():
            if group not in known:
                rows[name].update(
                    {
                        f"{group}/{metric}": float(value)
                        for metric, value in metrics.items()
                        if isinstance(value, (int, float))
                    }
                )
    return rows


def _qualities(rows):
    found = dict.fromkeys(column for row in rows.values() for column in row)
    ordered = [column for column in COLUMNS if column in found]
    ordered += [column for column in found if column not in COLUMNS]
    return [
        column
        for column in ordered
        if COLUMNS.get(column, ("",))[0] != "feature_rate" and column not in _LOWER_IS_BETTER
    ]


_SETTING_FIELDS = {
    "split": "MODEL.FEATCOMP.SPLIT",
    "codec": "MODEL.FEATCOMP.CODEC.NAME",
    "bits": "MODEL.FEATCOMP.CODEC.BITS",
    "quality": "MODEL.FEATCOMP.CODEC.QUALITY",
    "effort": "MODEL.FEATCOMP.CODEC.EFFORT",
    "weights": "MODEL.WEIGHTS",
}


def _value(cfg, key):
    for part in key.split("."):
        cfg = cfg[part]
    return "" if cfg is None else cfg


def _write_curves(sweep, results, path):
    rates = dict.fromkeys(m for groups in results.values() for m in groups.get("feature_rate", {}))
    metrics = dict.fromkeys(
        (group, metric)
        for groups in results.values()
        for group, found in groups.items()
        if group != "feature_rate"
        for metric in found
    )
    rows = []
    of_curves = [(curve, point) for curve in sweep.curves for point in curve.points]
    for curve, point in [*of_curves, *((None, point) for point in sweep.levels)]:
        cfg, groups = sweep.configs[point.name], results[point.name]
        cut = cfg.MODEL.FEATCOMP.ENABLED
        rows.append(
            [
                curve.name if curve else "",
                int(curve.anchor) if curve else "",
                point.name,
                *(
                    _value(cfg, key) if cut or name == "weights" else ""
                    for name, key in _SETTING_FIELDS.items()
                ),
                *(groups.get("feature_rate", {}).get(rate, "") for rate in rates),
                *(groups.get(group, {}).get(metric, "") for group, metric in metrics),
            ]
        )
    head = ["curve", "anchor", "setting", *_SETTING_FIELDS, *rates]
    write_csv([*head, *(f"{group}/{metric}" for group, metric in metrics)], rows, path)


def _write_images(sweep, path):
    """The rates of each image, as the evaluators of all settings wrote them."""
    head, rows = (), []
    for curve in sweep.curves:
        for point in curve.points:
            folder = os.path.join(sweep.configs[point.name].OUTPUT_DIR, "inference")
            with open(os.path.join(folder, "feature_rates.csv"), newline="", encoding="utf-8") as file:
                head, *images = csv.reader(file)
            rows += [[point.name, *image] for image in images]
    write_csv(["setting", *head], rows, path)


def _bd_rates(sweep, rows, qualities, method):
    """By bytes of the whole bitstream, which images and features have in common."""
    found = []
    for test in sweep.curves:
        for anchor in sweep.curves:
            if test.anchor or not anchor.anchor or len(anchor.points) < 2 or len(test.points) < 2:
                continue
            for column in qualities:
                pairs = [
                    [
                        (rows[point.name]["kB/image"], rows[point.name][column])
                        for point in curve.points
                        if column in rows[point.name]
                    ]
                    for curve in (anchor, test)
                ]
                found.append(
                    {
                        "anchor": anchor.name,
                        "test": test.name,
                        "column": column,
                        "points": "all",
                        "method": method,
                        "seed": None,
                        **compare_curves(*pairs, method=method),
                    }
                )
    return found


def _write_summary(sweep, bd_rates, command, path):
    first = next(iter(sweep.configs.values()))
    summary = {
        "title": sweep.title,
        "command": list(command),
        "seed": first.SEED,
        "versions": {
            "detectron2": detectron2_version,
            "python": platform.python_version(),
            **{name: _version_of(name) for name in _PACKAGES},
        },
        "processes": comm.get_world_size(),
        "threads": torch.get_num_threads(),
        "settings": {name: plain_config(cfg) for name, cfg in sweep.configs.items()},
        "bd_rates": [
            {**entry, "percent": entry["percent"] if entry["percent"] == entry["percent"] else None}
            for entry in bd_rates
        ],
    }
    write_text(json.dumps(summary, indent=1), path)


_PACKAGES = (
    "d2_featcomp",
    "torch",
    "torchvision",
    "numpy",
    "imagecodecs",
    "av",
    "pycocotools",
    "bjontegaard",
)


def _version_of(package):
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None


def _draw(sweep, rows, qualities, output):
    names = []
    for quality in qualities:
        for rate, column in _RATES.items():
            curves = {
                curve.name: [
                    rows[point.name]
                    for point in curve.points
                    if {column, quality} <= rows[point.name].keys()
                ]
                for curve in sweep.curves
                # Elements of an image are none of features: its bits count per pixel only.
                if rate != "BPFE" or curve.sends_features
            }
            stem = f"{file_name(quality)}_{rate}"
            plot_curves(
                {name: points for name, points in curves.items() if points},
                {
                    level.name: rows[level.name][quality]
                    for level in sweep.levels
                    if quality in rows[level.name]
                },
                os.path.join(output, stem),
                x=column,
                y=quality,
                title=sweep.title,
                anchors={curve.name for curve in sweep.curves if curve.anchor},
            )
            names += [f"{stem}.png", f"{stem}.svg"]
    return names
