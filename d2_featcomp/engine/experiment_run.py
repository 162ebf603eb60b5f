"""Runs an experiment: trains, measures, compares, draws."""

import glob
import hashlib
import json
import logging
import os
import shutil
import statistics

from detectron2.data import DatasetCatalog

from ..evaluation.bjontegaard_delta import compare_curves
from ..evaluation.tradeoff import (
    OF_MEANS,
    format_bd_rates,
    format_table,
    mean_rows,
    plot_curves,
    rate_for_accuracy,
    rows_of,
    write_bd_rates,
    write_csv,
)
from ..files import write_text
from .command_line import plain_config
from .digests import file_digest
from .experiment import config_of, file_name, seeded
from .inference import build_for_inference
from .measurement import measure_settings
from .steps import train_steps

__all__ = ["run_experiment"]


def run_experiment(experiment, output):
    """Trains, measures and draws what an experiment asks for; goes on where an earlier call stopped.

    Args:
        experiment (Experiment): from :func:`read_experiment`.
        output (str): folder; gets `results.csv`, `results.json`, `table.md`, `curves.png`, `curves.svg`
            (for several plots `curves_<column>.png` and `.svg`), where asked for `bd_rates.csv` and
            `bd_rates.md`, `pictures/`, `trainings/` and `settings/`. Finished parts found there are not
            done again unless their configuration changed.

    Returns:
        list[str]: the goals that were missed, in words.

    Raises:
        FileNotFoundError: a `checkpoint` does not exist. OSError: the disk is full or not writable.
    """
    logger = logging.getLogger("d2_featcomp")
    for training in experiment.trainings.values():
        if training.checkpoint and not os.path.isfile(training.checkpoint):
            raise FileNotFoundError(f"training {training.name!r}: no checkpoint {training.checkpoint!r}")
    os.makedirs(output, exist_ok=True)
    run = _Run(experiment, output)
    for training in experiment.trainings.values():
        run.train(training)
        run.measure(
            setting for setting in experiment.settings.values() if setting.training == training.name
        )
    run.report()
    if experiment.pictures:
        run.draw(**experiment.pictures)
    logger.info("%s\n\n%s\n", experiment.title, run.table())
    if experiment.bd_rates:
        logger.info("More bits for the same quality (BD-rate)\n\n%s\n", format_bd_rates(run.bd_rates()))
    plots = [f"{stem}{end}" for stem in run.plots() for end in (".png", ".svg")]
    for name in (*plots, "results.csv", "results.json", "pictures"):
        logger.info("%s", os.path.join(output, name))
    verdicts = [run.verdict(goal) for goal in experiment.goals]
    for reached, words in verdicts:
        logger.info("%s: %s", "reached" if reached else "MISSED", words)
    return [words for reached, words in verdicts if not reached]


class _Run:
    def __init__(self, experiment, output):
        self.experiment = experiment
        self.output = output
        self.training_keys = {}
        self.results = _read_json(os.path.join(output, "results.json")).get("settings", {})
        self.results = {k: v for k, v in self.results.items() if k in experiment.settings}

    def _folder(self, kind, name):
        return os.path.join(self.output, kind, file_name(name))

    def _weights(self, training):
        checkpoint = self.experiment.trainings[training].checkpoint
        return checkpoint or os.path.join(self._folder("trainings", training), "model_final.pth")

    def train(self, training):
        if training.checkpoint:
            self.training_keys[training.name] = file_digest(training.checkpoint)[:16]
            return
        start = {"MODEL.WEIGHTS": self._weights(training.start)} if training.start else {}
        folder = self._folder("trainings", training.name)
        key = _key(config_of(training), self.training_keys.get(training.start, ""))
        self.training_keys[training.name] = key
        mark = os.path.join(folder, "key.json")
        state = _read_json(mark)
        if state == {"key": key, "complete": True} and os.path.exists(self._weights(training.name)):
            return
        resume = state == {"key": key, "complete": False}
        if not resume:
            shutil.rmtree(folder, ignore_errors=True)
        _write_json({"key": key, "complete": False}, mark)
        logging.getLogger("d2_featcomp").info("Training %r", training.name)
        train_steps(config_of(training, OUTPUT_DIR=folder, **start), resume=resume)
        _write_json({"key": key, "complete": True}, mark)
        for step in glob.glob(os.path.join(glob.escape(folder), "step*")):
            shutil.rmtree(step)  # with optimizer states: large, and of no more use

    def measure(self, settings):
        """Measures those settings, all of one training, that were not measured as they are now."""
        wanted, keys = {}, {}
        for setting in settings:
            training = self.experiment.trainings[setting.training]
            key = _key(config_of(training, setting.overrides), self.training_keys[setting.training])
            if self.results.get(setting.name, {}).get("key") != key:
                wanted[setting.name], keys[setting.name] = self._config_of(setting), key
        if not wanted:
            return
        logging.getLogger("d2_featcomp").info("Measuring %s", ", ".join(map(repr, wanted)))
        records = os.path.join(self.output, "records")
        for name, results in measure_settings(wanted, records).items():
            self.results[name] = {
                "key": keys[name],
                "config": plain_config(wanted[name]),
                "results": results,
            }
        self.report()
        shutil.rmtree(records)  # the results are kept

    def _config_of(self, setting):
        return config_of(
            self.experiment.trainings[setting.training],
            setting.overrides,
            OUTPUT_DIR=self._folder("settings", setting.name),
            **{"MODEL.WEIGHTS": self._weights(setting.training)},
        )

    def rows(self):
        """What was measured, by setting."""
        measured = [name for name in self.experiment.settings if name in self.results]
        return rows_of({name: self.results[name]["results"] for name in measured})

    def means(self):
        """(rows, spreads) by label: means over the seeds, and standard deviations."""
        repeats = {}
        for name, row in self.rows().items():
            repeats.setdefault(self.experiment.settings[name].label, []).append(row)
        return mean_rows(repeats)

    def table(self):
        means, spreads = self.means()
        return format_table(means, self.experiment.columns, spreads)

    def plots(self):
        """Stem of each plot's file -> its column."""
        ys = self.experiment.ys
        if len(ys) == 1:
            return {"curves": ys[0]}
        return {f"curves_{file_name(y)}": y for y in ys}

    def report(self):
        experiment = self.experiment
        path = os.path.join(self.output, "results")
        _write_json({"title": experiment.title, "settings": self.results}, f"{path}.json")
        write_csv(self.rows(), f"{path}.csv")
        write_text(f"{self.table()}\n", os.path.join(self.output, "table.md"))
        for stem, y in self.plots().items():
            curves, levels = self._curves(y)
            repeats = {}
            for seed in experiment.seeds if len(experiment.seeds) > 1 else ():
                for curve, rows in self._curves(y, seed)[0].items():
                    repeats.setdefault(curve, []).append(rows)
            plot_curves(
                curves,
                levels,
                os.path.join(self.output, stem),
                x=experiment.x,
                y=y,
                title=experiment.title,
                repeats=repeats,
            )
        if experiment.bd_rates:
            found = self.bd_rates()
            write_bd_rates(found, os.path.join(self.output, "bd_rates.csv"))
            write_text(f"{format_bd_rates(found)}\n", os.path.join(self.output, "bd_rates.md"))

    def _curves(self, y, seed=None):
        """(curve -> its rows, setting without a curve -> its `y`): means over the seeds, or of one
        seed."""
        settings = self.experiment.settings.values()
        if seed is None:
            rows = self.means()[0]
            curve_of = {setting.label: setting.curve for setting in settings}
        else:
            rows = self.rows()
            curve_of = {setting.name: setting.curve for setting in settings if setting.seed == seed}
        curves, levels = {}, {}
        for name, curve in curve_of.items():
            row = rows.get(name, {})
            if curve and {self.experiment.x, y} <= row.keys():
                curves.setdefault(curve, []).append(row)
            elif not curve and y in row:
                levels[name] = row[y]
        return curves, levels

    def bd_rates(self):
        """list[dict]: as :func:`format_bd_rates` takes them."""
        return [
            {
                "anchor": wanted.anchor,
                "test": wanted.test,
                "column": column,
                "points": wanted.points or "all",
                "method": wanted.method,
                "seed": seed,
            }
            | self._bd_rate(wanted, column, seed)
            for wanted in self.experiment.bd_rates
            for column in wanted.columns
            for seed in (
                *(self.experiment.seeds or (None,)),
                *([OF_MEANS] if len(self.experiment.seeds) > 1 else []),
            )
        ]

    def _bd_rate(self, wanted, column, seed):
        curves = self._curves(column, None if seed == OF_MEANS else seed)[0]
        points = [
            [
                (row[self.experiment.x], row[column])
                for row in curves.get(curve, [])[: wanted.points or None]
            ]
            for curve in (wanted.anchor, wanted.test)
        ]
        return compare_curves(*points, method=wanted.method)

    def draw(self, setting, reference="", count=4):
        from . import draw_images  # of d2_featcomp.deploy, which imports this package

        folder = os.path.join(self.output, "pictures")
        seed = self.experiment.seeds[0] if self.experiment.seeds else None
        if seed is not None:
            setting, reference = seeded(setting, seed), seeded(reference, seed)
        setting = self.experiment.settings[setting]
        cfg = self._config_of(setting)
        model = build_for_inference(cfg, cfg.MODEL.WEIGHTS)
        uncut = build_for_inference(cfg, self._weights(reference), enabled=False) if reference else None
        records = DatasetCatalog.get(cfg.DATASETS.TEST[0])[:count]
        draw_images(cfg, model, records, folder, reference=uncut)

    def verdict(self, goal):
        """(whether it was reached, what was measured, in words)."""
        if goal.bd_rate:
            wanted = next(
                wanted
                for wanted in self.experiment.bd_rates
                if (wanted.test, wanted.anchor) == (goal.bd_rate, goal.anchor)
                and goal.column in wanted.columns
            )
            seeds = self.experiment.seeds or (None,)
            value = statistics.fmean(
                self._bd_rate(wanted, goal.column, seed)["percent"] for seed in seeds
            )
            what = f"{goal.bd_rate}: BD-rate against {goal.anchor} by {goal.column}, in percent,"
            return _within(goal, what, value)
        rows = self.means()[0]
        row = rows[goal.setting]
        if goal.column and goal.column not in row:
            return False, f"{goal.setting}: {goal.column} was not measured"
        if goal.times_fewer_bits_than:
            x, y = self.experiment.x, self.experiment.y
            points = self._curves(y)[0][goal.times_fewer_bits_than]
            rate = rate_for_accuracy([p[x] for p in points], [p[y] for p in points], row[y])
            value = rate / row[x]
            what = f"times fewer bits than {goal.times_fewer_bits_than} at the same {y}"
        elif goal.minus:
            value = row[goal.column] - rows[goal.minus][goal.column]
            what = f"{goal.column} minus that of {goal.minus}"
        else:
            value, what = row[goal.column], goal.column
        return _within(goal, f"{goal.setting}: {what}", value)


def _within(goal, what, value):
    bounds = [f"at least {goal.at_least}"] * (goal.at_least > float("-inf"))
    bounds += [f"at most {goal.at_most}"] * (goal.at_most < float("inf"))
    return goal.at_least <= value <= goal.at_most, f"{what} {value:.5g} ({' and '.join(bounds)})"


def _key(cfg, before):
    """Tells one configuration, and all that it starts from, from another."""
    settings = {**plain_config(cfg), "OUTPUT_DIR": "", "before": before}
    return hashlib.sha256(json.dumps(settings, sort_keys=True).encode()).hexdigest()[:16]


def _read_json(path):
    try:
        with open(path, encoding="utf-8") as file:
            return json.load(file)
    except (OSError, ValueError):
        return {}


def _write_json(data, path):
    os.makedirs(os.path.dirname(path), exist_ok=True)
    write_text(json.dumps(data, indent=1), path)
