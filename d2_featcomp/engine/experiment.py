"""Experiments: trainings, settings to measure, goals, all in one YAML, run with one command.

A file, with its keys:

    title: heads the table and the plot
    config_file: of all trainings, relative to the experiment's own folder
    trainings:                       # each by tools/train_net.py's steps
      detector:
        overrides: {MODEL.FEATCOMP.TRAIN.STEPS: [1]}
      msfc:
        start: detector              # another training whose weights it starts from
        config_file: other.yaml      # in place of the one above
        overrides: {...}             # config key: value
      given:
        checkpoint: folder/file.pth  # below DETECTRON2_DATASETS; nothing is trained
    settings:                        # what is measured, on the test set
      - name: MSFC, n = 2
        training: msfc               # whose weights
        curve: MSFC                  # line in the plot; without one: a horizontal line
        overrides: {MODEL.FEATCOMP.CODEC.BITS: 2}
    plot: {x: BPFE, y: box AP}       # columns; this is the default
    columns: [box AP50, kB/image]    # of the table; by default all that are measured but box AP50
    pictures: {setting: "MSFC, n = 2", reference: detector, count: 4}
    goals:                           # bounds: at_least, at_most
      - {setting: "MSFC, n = 2", column: box AP, at_least: 30}
      - {setting: "MSFC, n = 2", column: box AP, minus: plain, at_least: -2}
      - {setting: "MSFC, n = 2", times_fewer_bits_than: JPEG pyramid, at_least: 10}
"""

import dataclasses
import glob
import hashlib
import json
import logging
import os
import re
import shutil

import yaml
from detectron2.data import DatasetCatalog
from detectron2.modeling import build_backbone

from ..data.datasets.scenes import data_root
from ..evaluation.tradeoff import (
    COLUMNS,
    DEFAULT_COLUMNS,
    format_table,
    plot_curves,
    rate_for_accuracy,
    rows_of,
    write_csv,
)
from ..files import write_text
from ..modeling import FEATURE_SPLIT_REGISTRY, build_feature_codec, build_feature_split
from .command_line import setup_config
from .demo import build_for_inference, draw_images
from .steps import evaluate, train_steps

__all__ = ["Experiment", "Goal", "Setting", "Training", "read_experiment", "run_experiment"]


@dataclasses.dataclass(frozen=True)
class Training:
    """One training: `name`, `config_file` (path), `start` (name of another or ""), `overrides`; or a
    `checkpoint` (path) that is there already."""

    name: str
    config_file: str
    start: str = ""
    checkpoint: str = ""
    overrides: dict = dataclasses.field(default_factory=dict)


@dataclasses.dataclass(frozen=True)
class Setting:
    """One measurement: `name`, `training` (whose weights), `curve` (or ""), `overrides`."""

    name: str
    training: str
    curve: str = ""
    overrides: dict = dataclasses.field(default_factory=dict)


@dataclasses.dataclass(frozen=True)
class Goal:
    """A bound on a column of a setting, on its difference to another setting (`minus`), or on how many
    times fewer bits it needs than a curve at the same accuracy (`times_fewer_bits_than`)."""

    setting: str
    column: str = ""
    minus: str = ""
    times_fewer_bits_than: str = ""
    at_least: float = float("-inf")
    at_most: float = float("inf")


@dataclasses.dataclass(frozen=True)
class Experiment:
    """What an experiment file says; see the top of this module."""

    title: str
    trainings: dict
    settings: dict
    goals: list
    pictures: dict
    columns: tuple
    x: str
    y: str


def read_experiment(path):
    """Reads an experiment file, and checks all of it.

    Args:
        path (str): YAML, see the top of this module.

    Returns:
        Experiment

    Raises:
        FileNotFoundError: it, or a config file that it names, does not exist.
        ValueError: something in it is unknown, missing or out of range.
    """
    if not os.path.isfile(path):
        raise FileNotFoundError(f"no experiment file {path!r}")
    with open(path, encoding="utf-8") as file:
        try:
            data = yaml.safe_load(file)
        except (yaml.YAMLError, UnicodeDecodeError) as error:
            raise ValueError(f"{path}: {error}") from error
    try:
        experiment = _parse(data, os.path.dirname(path))
        _check(experiment)
    except (TypeError, KeyError, AttributeError) as error:
        raise ValueError(f"{path}: {error}") from error
    except (ValueError, ImportError) as error:
        raise type(error)(f"{path}: {error}") from error
    return experiment


def _parse(data, folder):
    known = {"title", "config_file", "trainings", "settings", "goals", "pictures", "plot", "columns"}
    if set(data) - known:
        raise ValueError(f"unknown keys {sorted(set(data) - known)}: known are {sorted(known)}")
    trainings = {}
    for name, entry in data["trainings"].items():
        entry = {"config_file": data.get("config_file", ""), **(entry or {})}
        entry["config_file"] = os.path.normpath(os.path.join(folder, entry["config_file"]))
        if entry.get("checkpoint"):
            entry["checkpoint"] = os.path.join(data_root(), entry["checkpoint"])
        trainings[name] = Training(name, **entry)
    settings = {entry["name"]: Setting(**entry) for entry in data["settings"]}
    if len(settings) != len(data["settings"]):
        raise ValueError("two settings have the same name")
    plot = {"x": "BPFE", "y": "box AP", **data.get("plot", {})}
    return Experiment(
        title=data.get("title", ""),
        trainings=trainings,
        settings=settings,
        goals=[Goal(**goal) for goal in data.get("goals", [])],
        pictures=data.get("pictures", {}),
        columns=tuple(data.get("columns", DEFAULT_COLUMNS)),
        **plot,
    )


def _check(experiment):
    seen = set()
    for training in experiment.trainings.values():
        _known("training", training.start, {"", *seen})
        seen.add(training.name)
        _config(training)
        if training.checkpoint and training.start:
            raise ValueError(f"training {training.name!r}: give start or checkpoint, not both")
    for names in (experiment.trainings, experiment.settings):
        if len({_file_name(name) for name in names}) != len(names):
            raise ValueError("two names differ in nothing but punctuation: they would share a folder")
    curves, built = {setting.curve for setting in experiment.settings.values()}, set()
    for setting in experiment.settings.values():
        _known("training", setting.training, seen)
        cfg = _config(experiment.trainings[setting.training], setting.overrides)
        if len(cfg.DATASETS.TEST) != 1:
            raise ValueError(f"setting {setting.name!r}: DATASETS.TEST must name one data set")
        _known("split", cfg.MODEL.FEATCOMP.SPLIT, dict(FEATURE_SPLIT_REGISTRY))
        build_feature_codec(cfg, FEATURE_SPLIT_REGISTRY.get(cfg.MODEL.FEATCOMP.SPLIT))
        part = _split_settings(cfg)
        if part not in built:
            built.add(part)
            build_feature_split(cfg, build_backbone(cfg))
    for goal in experiment.goals:
        _known("setting", goal.setting, experiment.settings)
        _known("setting", goal.minus, {"", *experiment.settings})
        _known("curve", goal.times_fewer_bits_than, curves)
        if bool(goal.column) == bool(goal.times_fewer_bits_than):
            raise ValueError(f"a goal needs either column or times_fewer_bits_than: {goal}")
        bounds = goal.at_least, goal.at_most
        if not all(isinstance(bound, (int, float)) for bound in bounds):
            raise ValueError(f"at_least and at_most must be numbers: {goal}")
        if bounds == (float("-inf"), float("inf")):
            raise ValueError(f"a goal needs at_least or at_most: {goal}")
    used = (experiment.x, experiment.y, *(goal.column for goal in experiment.goals))
    for column in (*used, *experiment.columns):
        _known("column", column, {"", *COLUMNS})
    if experiment.pictures:
        for key in experiment.pictures:
            _known("key of pictures", key, {"setting", "reference", "count"})
        _known("setting", experiment.pictures["setting"], experiment.settings)
        _known("training", experiment.pictures["reference"], experiment.trainings)


def _split_settings(cfg):
    """Tells settings apart by what their splits are built from: all but the codec's quality."""
    codec = cfg.MODEL.FEATCOMP.CODEC
    rest = {key: value for key, value in cfg.MODEL.FEATCOMP.items() if key not in ("CODEC", "TRAIN")}
    return str((cfg.MODEL.BACKBONE, rest, codec.BITS == 8, codec.QUANTIZER))


def _known(kind, name, names):
    if name not in names:
        raise ValueError(f"unknown {kind} {name!r}: known are {', '.join(sorted(filter(None, names)))}")


def _config(training, overrides=None, **more):
    pairs = {**training.overrides, **(overrides or {}), **more}
    return setup_config(training.config_file, [part for pair in pairs.items() for part in pair])


def run_experiment(experiment, output):
    """Trains, measures and draws what an experiment asks for; goes on where an earlier call stopped.

    Args:
        experiment (Experiment): from :func:`read_experiment`.
        output (str): folder; gets `results.csv`, `results.json`, `table.md`, `curves.png`, `curves.svg`,
            `pictures/`, `trainings/` and `settings/`. Finished parts found there are not done again
            unless their configuration changed.

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
        for setting in experiment.settings.values():
            if setting.training == training.name:
                run.measure(setting)
    run.report()
    if experiment.pictures:
        run.draw(**experiment.pictures)
    table = format_table(run.rows(), experiment.columns)
    logger.info("%s\n\n%s\n", experiment.title, table)
    for name in ("curves.png", "curves.svg", "results.csv", "results.json", "pictures"):
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
        return os.path.join(self.output, kind, _file_name(name))

    def _weights(self, training):
        checkpoint = self.experiment.trainings[training].checkpoint
        return checkpoint or os.path.join(self._folder("trainings", training), "model_final.pth")

    def train(self, training):
        if training.checkpoint:
            self.training_keys[training.name] = _file_key(training.checkpoint)
            return
        start = {"MODEL.WEIGHTS": self._weights(training.start)} if training.start else {}
        folder = self._folder("trainings", training.name)
        key = _key(_config(training), self.training_keys.get(training.start, ""))
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
        train_steps(_config(training, OUTPUT_DIR=folder, **start), resume=resume)
        _write_json({"key": key, "complete": True}, mark)
        for step in glob.glob(os.path.join(glob.escape(folder), "step*")):
            shutil.rmtree(step)  # with optimizer states: large, and of no more use

    def measure(self, setting):
        training = self.experiment.trainings[setting.training]
        key = _key(_config(training, setting.overrides), self.training_keys[setting.training])
        if self.results.get(setting.name, {}).get("key") != key:
            logging.getLogger("d2_featcomp").info("Measuring %r", setting.name)
            cfg = self._config_of(setting)
            results = evaluate(cfg)
            self.results[setting.name] = {"key": key, "config": _plain(cfg), "results": results}
            self.report()

    def _config_of(self, setting):
        return _config(
            self.experiment.trainings[setting.training],
            setting.overrides,
            OUTPUT_DIR=self._folder("settings", setting.name),
            **{"MODEL.WEIGHTS": self._weights(setting.training)},
        )

    def rows(self):
        measured = [name for name in self.experiment.settings if name in self.results]
        return rows_of({name: self.results[name]["results"] for name in measured})

    def report(self):
        rows, experiment = self.rows(), self.experiment
        path = os.path.join(self.output, "results")
        _write_json({"title": experiment.title, "settings": self.results}, f"{path}.json")
        write_csv(rows, f"{path}.csv")
        write_text(f"{format_table(rows, experiment.columns)}\n", os.path.join(self.output, "table.md"))
        curves, levels = self._curves(rows)
        plot = os.path.join(self.output, "curves")
        plot_curves(curves, levels, plot, x=experiment.x, y=experiment.y, title=experiment.title)

    def _curves(self, rows):
        curves, levels = {}, {}
        for name, row in rows.items():
            curve = self.experiment.settings[name].curve
            if curve and {self.experiment.x, self.experiment.y} <= row.keys():
                curves.setdefault(curve, []).append(row)
            elif not curve and self.experiment.y in row:
                levels[name] = row[self.experiment.y]
        return curves, levels

    def draw(self, setting, reference, count=4):
        folder = os.path.join(self.output, "pictures")
        setting = self.experiment.settings[setting]
        cfg = self._config_of(setting)
        model = build_for_inference(cfg, cfg.MODEL.WEIGHTS)
        uncut = build_for_inference(cfg, self._weights(reference), enabled=False)
        records = DatasetCatalog.get(cfg.DATASETS.TEST[0])[:count]
        paths = [record["file_name"] for record in records]
        draw_images(cfg, model, paths, folder, reference=uncut)

    def verdict(self, goal):
        """(whether it was reached, what was measured, in words)."""
        rows = self.rows()
        row = rows[goal.setting]
        if goal.column and goal.column not in row:
            return False, f"{goal.setting}: {goal.column} was not measured"
        if goal.times_fewer_bits_than:
            x, y = self.experiment.x, self.experiment.y
            points = self._curves(rows)[0][goal.times_fewer_bits_than]
            rate = rate_for_accuracy([p[x] for p in points], [p[y] for p in points], row[y])
            value = rate / row[x]
            what = f"times fewer bits than {goal.times_fewer_bits_than} at the same {y}"
        elif goal.minus:
            value = row[goal.column] - rows[goal.minus][goal.column]
            what = f"{goal.column} minus that of {goal.minus}"
        else:
            value, what = row[goal.column], goal.column
        bounds = [f"at least {goal.at_least}"] * (goal.at_least > float("-inf"))
        bounds += [f"at most {goal.at_most}"] * (goal.at_most < float("inf"))
        words = f"{goal.setting}: {what} {value:.5g} ({' and '.join(bounds)})"
        return goal.at_least <= value <= goal.at_most, words


def _file_name(name):
    return re.sub(r"[^\w.=-]+", "_", name)


def _plain(cfg):
    return yaml.safe_load(cfg.dump())


def _key(cfg, before):
    """Tells one configuration, and all that it starts from, from another."""
    settings = {**_plain(cfg), "OUTPUT_DIR": "", "before": before}
    return hashlib.sha256(json.dumps(settings, sort_keys=True).encode()).hexdigest()[:16]


def _file_key(path):
    with open(path, "rb") as file:
        return hashlib.sha256(file.read()).hexdigest()[:16]


def _read_json(path):
    try:
        with open(path, encoding="utf-8") as file:
            return json.load(file)
    except (OSError, ValueError):
        return {}


def _write_json(data, path):
    os.makedirs(os.path.dirname(path), exist_ok=True)
    write_text(json.dumps(data, indent=1), path)
