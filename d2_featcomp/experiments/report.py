"""The report of a plan's measurements: tables, CSV, JSON, plots, BD-rates, goals."""

import contextlib
import csv
import logging
import os

import torch
from detectron2.utils import comm

from ..codecs import IMAGE_CODEC_REGISTRY
from ..engine.command_line import make_plain_config
from ..evaluation.bd_rate_tables import OF_MEANS, format_bd_rates, write_bd_rates
from ..evaluation.bjontegaard_delta import compare_curves
from ..evaluation.feature_rate import find_rate_file
from ..evaluation.tradeoff import (
    COLUMNS,
    DEFAULT_COLUMNS,
    average_rows,
    format_table,
    list_other_metrics,
    make_rows,
    plot_curves,
)
from ..evaluation.tradeoff import write_csv as write_rows
from ..files import write_csv, write_text
from .curves import has_rates
from .differences import Differences, format_differences, write_differences
from .goals import check_goal
from .html_report import write_html_report
from .keys import describe_versions
from .schema import BDRate, file_name
from .strict_json import format_json

__all__ = ["Report"]

# Of these, another column says the same with the sign of the others: larger is better.
_LOWER_IS_BETTER = ("RMSE",)
_RATES = {"BPFE": "BPFE", "bpp": "bits/pixel"}  # file name -> column


class Report:
    """The measurements of a plan. :meth:`write` writes, into `output`:

        results.csv: the columns of the tables, a line a point, with all digits.
        curves.csv: each point's seed, images and settings, rates in detail, and every metric; no rates
            of features for points that send images, or answers.
        per_image.csv: a line a point and image.
        results.json, summary.json: results and configs; title, command, versions, BD-rates; null for
            numbers that are not finite.
        table.md, bd_rates.csv, bd_rates.md; curves.png and .svg, or one pair a plot.
        differences.csv, differences.md: if the plan asks for any; else those of an earlier plan go.

    Args:
        plan (Plan): that was run.
        output (str): folder.
        method (str): of BD-rates that the plan does not list.
        command (sequence[str]): for the summary.

    Attributes:
        configs (dict): name of a point -> CfgNode.
        results (dict): name of a point -> {group: {metric: value}}, of those that were measured.
    """

    def __init__(self, plan, output, *, method="cubic", command=()):
        self.plan, self.output = plan, output
        self.method, self.command = method, command
        self.configs, self.results = {}, {}
        self._differences = Differences(plan)

    def _path(self, name):
        return os.path.join(self.output, name)

    def write(self):
        """Writes all files."""
        plan = self.plan
        bd_rates = self.bd_rates()
        write_rows(self.rows(), self._path("results.csv"))
        self._write_curves()
        self._write_images()
        results = {
            name: {"config": make_plain_config(self.configs[name]), "results": self.results[name]}
            for name in self._measured()
        }
        self._write_json({"title": plan.title, "settings": results}, "results.json")
        self._write_json(self._summary(bd_rates), "summary.json")
        write_text(f"{self.table()}\n", self._path("table.md"))
        write_bd_rates(bd_rates, self._path("bd_rates.csv"))
        write_text(f"{format_bd_rates(bd_rates)}\n", self._path("bd_rates.md"))
        if plan.differences:
            differences = self.differences()
            write_differences(differences, self._path("differences.csv"))
            write_text(f"{format_differences(differences)}\n", self._path("differences.md"))
        else:
            for name in ("differences.csv", "differences.md"):
                with contextlib.suppress(FileNotFoundError):
                    os.remove(self._path(name))
        for stem, x, y in self.plots():
            self._draw(stem, x, y)

    def write_html(self, panels=None):
        """Writes report.html, of what :meth:`write` wrote and of the folder "pictures".

        Args:
            panels (dict or None): name of a picture to show -> list of (caption, (H, W, 3) uint8 RGB),
                which a slider compares, or an empty one.
        """
        write_html_report(self, self._path("report.html"), panels)

    def differences(self):
        """Computes the plan's differences, list[dict] as :func:`format_differences` takes them."""
        return self._differences.compute_all(self._folders())

    def _folders(self):
        return {name: self.configs[name].OUTPUT_DIR for name in self._measured()}

    def log(self):
        """Logs the tables, and the paths of what was written."""
        logger = logging.getLogger("d2_featcomp")
        logger.info("%s\n\n%s\n", self.plan.title, self.table())
        bd_rates = self.bd_rates()
        if bd_rates:
            logger.info("More bits for the same quality (BD-rate)\n\n%s\n", format_bd_rates(bd_rates))
        if self.plan.differences:
            logger.info("Differences\n\n%s\n", format_differences(self.differences()))
        plots = [f"{stem}.png" for stem, _, _ in self.plots()]
        names = ["results.csv", "results.json", "curves.csv", "per_image.csv", "summary.json", *plots]
        there = [name for name in names if os.path.exists(self._path(name))]
        logger.info("%s: %s", self.output, ", ".join(there))
        for name in (*(["pictures"] if self.plan.pictures else []), "report.html"):
            if os.path.exists(self._path(name)):
                logger.info("%s", self._path(name))

    def _write_json(self, data, name):
        write_text(format_json(data, indent=1), self._path(name))

    def _measured(self):
        return [name for name in self.plan.points if name in self.results]

    def rows(self):
        """Tables what was measured.

        Returns:
            dict: name of a point -> {column: value}; metrics without a column are `group/metric`. Points
            that send images, or answers, lack the columns of features' elements.
        """
        results = {name: self.results[name] for name in self._measured()}
        rows, more = make_rows(results), list_other_metrics(results)
        for name in self._without_features():
            for column in _OF_FEATURES:
                rows[name].pop(column, None)
        return {name: {**row, **more[name]} for name, row in rows.items()}

    def _without_features(self):
        """set[str]: points that were measured and send images, or answers."""
        curves = {curve.name for curve in self.plan.curves if not curve.sends_features}
        return {name for name in self._measured() if self.plan.points[name].curve in curves}

    def qualities(self):
        """Lists the columns of quality that were measured; larger is better."""
        found = dict.fromkeys(column for row in self.rows().values() for column in row)
        ordered = [column for column in COLUMNS if column in found]
        ordered += [column for column in found if column not in COLUMNS]
        return [
            column
            for column in ordered
            if COLUMNS.get(column, ("",))[0] != "feature_rate" and column not in _LOWER_IS_BETTER
        ]

    def means(self):
        """Computes (rows, spreads) by label: means over the seeds, and standard deviations."""
        repeats = {}
        for name, row in self.rows().items():
            repeats.setdefault(self.plan.points[name].label, []).append(row)
        return average_rows(repeats)

    def table(self):
        """Formats the table in Markdown."""
        means, spreads = self.means()
        more = [column for column in self.qualities() if column not in COLUMNS]
        return format_table(means, self.plan.columns or (*DEFAULT_COLUMNS, *more), spreads)

    def plots(self):
        """Lists the plots, (str, str, str): of each the file's stem, and the columns x and y."""
        plan = self.plan
        if len(plan.ys) == 1:
            return [("curves", plan.x, plan.ys[0])]
        if plan.ys:
            return [(f"curves_{file_name(y)}", plan.x, y) for y in plan.ys]
        return [
            (f"{file_name(quality)}_{stem}", rate, quality)
            for quality in self.qualities()
            for stem, rate in _RATES.items()
        ]

    def _draw(self, stem, x, y):
        rows = self.means()[0]
        repeats = {}
        for seed in self.plan.seeds if len(self.plan.seeds) > 1 else ():
            for curve, points in self.curves(x, y, seed).items():
                repeats.setdefault(curve, []).append(points)
        labels = {point.label for point in self.plan.levels}
        plot_curves(
            self.curves(x, y),
            {label: row[y] for label, row in rows.items() if label in labels and y in row},
            self._path(stem),
            x=x,
            y=y,
            title=self.plan.title,
            repeats=repeats,
            anchors={curve.name for curve in self.plan.curves if curve.anchor},
        )

    def curves(self, x, y, seed=None):
        """Gathers the curves' points.

        Args:
            x, y (str): columns that they must have, see :meth:`rows`.
            seed (int or None): of several; None takes the means.

        Returns:
            dict: curve -> list of rows; empty ones are left out.
        """
        if seed is None:
            rows = self.means()[0]
        else:
            rows = {
                p.label: row for n, row in self.rows().items() if (p := self.plan.points[n]).seed == seed
            }
        found = {
            curve.name: [
                rows[point.name]
                for point in curve.points
                if point.name in rows and {x, y} <= rows[point.name].keys()
            ]
            for curve in self.plan.curves
        }
        return {name: points for name, points in found.items() if points}

    def _wanted_bd_rates(self):
        """(list[BDRate], column of the rate): the plan's own; without any, of all curves against all
        anchors, by bytes of the whole bitstream, which images and features have in common."""
        if self.plan.bd_rates:
            return self.plan.bd_rates, self.plan.x
        long_enough = [curve for curve in self.plan.curves if len(curve.points) > 1]
        wanted = [
            BDRate(anchor.name, test.name, tuple(self.qualities()), self.method)
            for test in long_enough
            for anchor in long_enough
            if anchor.anchor and not test.anchor
        ]
        return wanted, "kB/image"

    def bd_rates(self):
        """Computes the BD-rates, list[dict] as :func:`format_bd_rates` takes them."""
        seeds = self.plan.seeds or (None,)
        wanted, rate = self._wanted_bd_rates()
        return [
            {
                "anchor": each.anchor,
                "test": each.test,
                "column": column,
                "points": each.points or "all",
                "method": each.method,
                "seed": seed,
                **self.compute_bd_rate(each, rate, column, seed),
            }
            for each in wanted
            for column in each.columns
            for seed in (*seeds, *([OF_MEANS] if len(seeds) > 1 else []))
        ]

    def compute_bd_rate(self, wanted, rate, column, seed):
        """Computes a BD-rate.

        Args:
            wanted (BDRate): the curves.
            rate, column (str): columns of the rate and of the quality.
            seed (int, str or None): of several, or OF_MEANS, their means; None where there is one.

        Returns:
            dict: see :func:`compare_curves`.
        """
        curves = self.curves(rate, column, None if seed == OF_MEANS else seed)
        pairs = [
            [(row[rate], row[column]) for row in curves.get(curve, [])[: wanted.points or None]]
            for curve in (wanted.anchor, wanted.test)
        ]
        return compare_curves(*pairs, method=wanted.method)

    def compute_difference(self, setting, minus, column):
        """Computes the difference of two points that were measured, see :meth:`Differences.compute`."""
        return self._differences.compute(setting, minus, column, self._folders())

    def check_goals(self):
        """Checks each goal, list[(bool, str)]: whether it was reached, and what was measured, in
        words."""
        return [check_goal(goal, self) for goal in self.plan.goals]

    def _write_curves(self):
        names = self._measured()
        rates = dict.fromkeys(m for n in names for m in self.results[n].get("feature_rate", {}))
        metrics = dict.fromkeys(
            (group, metric)
            for name in names
            for group, found in self.results[name].items()
            if group != "feature_rate"
            for metric in found
        )
        anchors = {curve.name: curve.anchor for curve in self.plan.curves}
        others, rows = self._without_features(), []
        for name in names:
            groups, point = self.results[name], self.plan.points[name]
            left_out = {rate for rate in rates if name in others and _is_of_features(rate)}
            rows.append(
                [
                    point.curve,
                    int(anchors[point.curve]) if point.curve else "",
                    name,
                    "" if point.seed is None else point.seed,
                    *self.configs[name].DATASETS.TEST,
                    len(self._read_images(name)) - 1 if "feature_rate" in groups else "",
                    *_describe_setting(self.configs[name]),
                    *(
                        "" if rate in left_out else groups.get("feature_rate", {}).get(rate, "")
                        for rate in rates
                    ),
                    *(groups.get(group, {}).get(metric, "") for group, metric in metrics),
                ]
            )
        shown = (f"{group}/{metric}" for group, metric in metrics)
        head = ["curve", "anchor", "setting", "seed", "dataset", "images", *_SETTING, *rates, *shown]
        write_csv(head, rows, self._path("curves.csv"))

    def _write_images(self):
        """The rates of each image, as the evaluators of all points wrote them."""
        head, rows = (), []
        for name in self._measured():
            if "feature_rate" not in self.results[name]:
                continue
            head, *images = self._read_images(name)
            rows += [[name, *image] for image in images]
        write_csv(["setting", *head], rows, self._path("per_image.csv"))

    def _read_images(self, name):
        with open(find_rate_file(self.configs[name]), newline="", encoding="utf-8") as file:
            return list(csv.reader(file))

    def _summary(self, bd_rates):
        return {
            "title": self.plan.title,
            "command": list(self.command),
            "seed": self.configs[self._measured()[0]].SEED,
            "versions": describe_versions(),
            "images": self.plan.images or "all",
            "processes": comm.get_world_size(),
            "threads": torch.get_num_threads(),
            "settings": {name: make_plain_config(self.configs[name]) for name in self._measured()},
            "bd_rates": bd_rates,
        }


_SETTING = (
    *("split", "codec", "quantizer", "bits", "quality", "quality_meaning", "effort"),
    *("rate", "target_kb", "weights"),
)


def _is_of_features(metric):
    """Whether a metric of the rate is by elements of features: BPFE, its parts, compression ratio."""
    return metric.startswith("BPFE") or metric == "times_smaller"


_OF_FEATURES = [column for column, (_, metric, _) in COLUMNS.items() if _is_of_features(metric)]


def _describe_setting(cfg):
    """list: a value for each of `_SETTING`; the quality's meaning is the codec's: QP, distance, ...; the
    rate is that of codecs with several."""
    featcomp = cfg.MODEL.FEATCOMP
    if not featcomp.ENABLED:
        return [*("" for _ in _SETTING[:-1]), cfg.MODEL.WEIGHTS]
    codec = featcomp.CODEC
    meaning, rate = "", None
    if codec.QUALITY is not None and codec.NAME in IMAGE_CODEC_REGISTRY:
        meaning = IMAGE_CODEC_REGISTRY.get(codec.NAME).quality_meaning
    if has_rates(codec.NAME):
        rate = None if codec.TARGET_KB else codec.RATE
    values = [featcomp.SPLIT, codec.NAME, codec.QUANTIZER, codec.BITS, codec.QUALITY, meaning]
    values += [codec.EFFORT, rate, codec.TARGET_KB or None]
    return [*("" if value is None else value for value in values), cfg.MODEL.WEIGHTS]
