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
        once: true                   # with the first of the seeds only, for trainings that start from it
      given:
        checkpoint: folder/file.pth  # below DETECTRON2_DATASETS; nothing is trained
    settings:                        # what is measured, on the test set
      - name: MSFC, n = 2
        training: msfc               # whose weights
        curve: MSFC                  # line in the plot; without one: a horizontal line
        overrides: {MODEL.FEATCOMP.CODEC.BITS: 2}
    plot: {x: BPFE, y: box AP}       # columns; this is the default. y may be a list: a plot each
    columns: [box AP50, kB/image]    # of the table; by default all that are measured but box AP50
    seeds: [1, 2, 3]                 # every training is done with each; tables and plots show means
    bd_rates:                        # how many percent more bits a curve needs than another
      - {anchor: JPEG pyramid, test: MSFC, columns: [box AP, mask AP], method: pchip}
      - {anchor: JPEG pyramid, test: MSFC, columns: [box AP], points: 5}  # of each curve, the first
    # reference: the uncut network, to draw beside; may be left out
    pictures: {setting: "MSFC, n = 2", reference: detector, count: 4}
    goals:                           # bounds: at_least, at_most
      - {setting: "MSFC, n = 2", column: box AP, at_least: 30}
      - {setting: "MSFC, n = 2", column: box AP, minus: plain, at_least: -2}
      - {setting: "MSFC, n = 2", times_fewer_bits_than: JPEG pyramid, at_least: 10}
      - {bd_rate: MSFC, anchor: JPEG pyramid, column: box AP, at_most: -50}
"""

import dataclasses
import os
import re

import yaml
from detectron2.modeling import build_backbone

from ..data.datasets.scenes import data_root
from ..evaluation.tradeoff import COLUMNS, DEFAULT_COLUMNS
from ..modeling import FEATURE_SPLIT_REGISTRY, build_feature_codec, build_feature_split
from .command_line import setup_config

__all__ = [
    "BDRate",
    "Experiment",
    "Goal",
    "Setting",
    "Training",
    "config_of",
    "file_name",
    "read_experiment",
]


@dataclasses.dataclass(frozen=True)
class Training:
    """One training: `name`, `config_file` (path), `start` (name of another or ""), `overrides`; or a
    `checkpoint` (path) that is there already. Done with every seed unless `once`."""

    name: str
    config_file: str
    start: str = ""
    checkpoint: str = ""
    overrides: dict = dataclasses.field(default_factory=dict)
    once: bool = False


@dataclasses.dataclass(frozen=True)
class Setting:
    """One measurement: `name`, `training` (whose weights), `curve` (or ""), `overrides`; where the
    experiment has seeds, `seed` and `repeats`, the name that the settings of all seeds share."""

    name: str
    training: str
    curve: str = ""
    overrides: dict = dataclasses.field(default_factory=dict)
    seed: int | None = None
    repeats: str = ""

    @property
    def label(self):
        """str: its name in tables."""
        return self.repeats or self.name


@dataclasses.dataclass(frozen=True)
class BDRate:
    """BD-rates of the curve `test` against the curve `anchor`, by each of `columns`, with `method`; of
    the first `points` settings of each curve, or of all (0). A goal takes the first that fits it."""

    anchor: str
    test: str
    columns: tuple
    method: str = "cubic"
    points: int = 0


@dataclasses.dataclass(frozen=True)
class Goal:
    """A bound on a column of a setting, on its difference to another setting (`minus`), on how many
    times fewer bits it needs than a curve at the same accuracy (`times_fewer_bits_than`), or on the
    BD-rate by a column of the curve `bd_rate` against the curve `anchor`."""

    setting: str = ""
    column: str = ""
    bd_rate: str = ""
    anchor: str = ""
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
    seeds: tuple
    bd_rates: tuple
    x: str
    ys: tuple

    @property
    def y(self):
        """str: the column of the first plot."""
        return self.ys[0]


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


_KEYS = (
    "title",
    "config_file",
    "trainings",
    "settings",
    "goals",
    "pictures",
    "plot",
    "columns",
    "seeds",
    "bd_rates",
)


def _parse(data, folder):
    if set(data) - set(_KEYS):
        raise ValueError(f"unknown keys {sorted(set(data) - set(_KEYS))}: known are {sorted(_KEYS)}")
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
    ys = plot.pop("y")
    seeds = tuple(data.get("seeds", ()))
    if not all(isinstance(seed, int) and seed >= 0 for seed in seeds) or len(set(seeds)) != len(seeds):
        raise ValueError(f"seeds must be distinct whole numbers from 0, not {list(seeds)}")
    return Experiment(
        title=data.get("title", ""),
        trainings=_with_seeds(trainings, seeds, _seeded_training(trainings)),
        settings=_with_seeds(settings, seeds, _seeded_setting),
        goals=[Goal(**goal) for goal in data.get("goals", [])],
        pictures=data.get("pictures", {}),
        columns=tuple(data.get("columns", DEFAULT_COLUMNS)),
        seeds=seeds,
        bd_rates=tuple(
            BDRate(**{**entry, "columns": tuple(entry["columns"])}) for entry in data.get("bd_rates", [])
        ),
        ys=(ys,) if isinstance(ys, str) else tuple(ys),
        **plot,
    )


def seeded(name, seed):
    """The name of what was done with one of several seeds."""
    return f"{name}, seed {seed}" if name else ""


def _with_seeds(entries, seeds, repeat):
    if not seeds:
        return entries
    repeated = [
        repeat(entry, seed)
        for seed in seeds
        for entry in entries.values()
        if seed == seeds[0] or not getattr(entry, "once", False)
    ]
    return {entry.name: entry for entry in repeated}


def _seeded_training(trainings):
    once = {name for name, training in trainings.items() if training.once}

    def name(plain, seed):
        return plain if plain in once else seeded(plain, seed)

    def repeat(training, seed):
        return dataclasses.replace(
            training,
            name=name(training.name, seed),
            start=name(training.start, seed),
            overrides={**training.overrides, "SEED": seed},
        )

    return repeat


def _seeded_setting(setting, seed):
    return dataclasses.replace(
        setting,
        name=seeded(setting.name, seed),
        training=seeded(setting.training, seed),
        repeats=setting.name,
        seed=seed,
    )


def _check(experiment):
    seen = set()
    for training in experiment.trainings.values():
        _known("training", training.start, {"", *seen})
        seen.add(training.name)
        config_of(training)
        if training.checkpoint and training.start:
            raise ValueError(f"training {training.name!r}: give start or checkpoint, not both")
    for names in (experiment.trainings, experiment.settings):
        if len({file_name(name) for name in names}) != len(names):
            raise ValueError("two names differ in nothing but punctuation: they would share a folder")
    built = set()
    for setting in experiment.settings.values():
        _known("training", setting.training, seen)
        _check_setting(setting, experiment.trainings[setting.training], built)
    _check_goals(experiment)
    used = [experiment.x, *experiment.ys, *experiment.columns, *(g.column for g in experiment.goals)]
    for column in used:
        _known("column", column, {"", *COLUMNS})
    if experiment.pictures:
        for key in experiment.pictures:
            _known("key of pictures", key, {"setting", "reference", "count"})
        labels = {setting.label for setting in experiment.settings.values()}
        _known("setting", experiment.pictures["setting"], labels)
        reference = experiment.pictures.get("reference", "")
        trainings = {"", *experiment.trainings}
        _known(
            "training",
            seeded(reference, experiment.seeds[0]) if experiment.seeds else reference,
            trainings,
        )


def _check_setting(setting, training, built):
    cfg = config_of(training, setting.overrides)
    if len(cfg.DATASETS.TEST) != 1:
        raise ValueError(f"setting {setting.name!r}: DATASETS.TEST must name one data set")
    _known("split", cfg.MODEL.FEATCOMP.SPLIT, dict(FEATURE_SPLIT_REGISTRY))
    build_feature_codec(cfg, FEATURE_SPLIT_REGISTRY.get(cfg.MODEL.FEATCOMP.SPLIT))
    part = _split_settings(cfg)
    if part not in built:
        built.add(part)
        build_feature_split(cfg, build_backbone(cfg))


def _check_goals(experiment):
    labels = {setting.label for setting in experiment.settings.values()}
    curves = {setting.curve for setting in experiment.settings.values()}
    for wanted in experiment.bd_rates:
        for curve in (wanted.anchor, wanted.test):
            _known("curve", curve, curves - {""})
        for column in wanted.columns:
            _known("column", column, COLUMNS)
        _known("method", wanted.method, ("cubic", "pchip", "akima"))
        if not isinstance(wanted.points, int) or wanted.points < 0:
            raise ValueError(f"points must be a whole number from 0, not {wanted.points!r}: {wanted}")
    compared = {
        (wanted.test, wanted.anchor, c) for wanted in experiment.bd_rates for c in wanted.columns
    }
    for goal in experiment.goals:
        if goal.bd_rate or goal.anchor:
            if (goal.bd_rate, goal.anchor, goal.column) not in compared:
                raise ValueError(f"a goal's bd_rate, anchor and column must be among bd_rates: {goal}")
        else:
            _known("setting", goal.setting, labels)
        _known("setting", goal.minus, {"", *labels})
        _known("curve", goal.times_fewer_bits_than, {"", *curves})
        if bool(goal.column) == bool(goal.times_fewer_bits_than):
            raise ValueError(f"a goal needs either column or times_fewer_bits_than: {goal}")
        bounds = goal.at_least, goal.at_most
        if not all(isinstance(bound, (int, float)) for bound in bounds):
            raise ValueError(f"at_least and at_most must be numbers: {goal}")
        if bounds == (float("-inf"), float("inf")):
            raise ValueError(f"a goal needs at_least or at_most: {goal}")


def _split_settings(cfg):
    """Tells settings apart by what their splits are built from: all but the codec's quality."""
    codec = cfg.MODEL.FEATCOMP.CODEC
    rest = {key: value for key, value in cfg.MODEL.FEATCOMP.items() if key not in ("CODEC", "TRAIN")}
    return str((cfg.MODEL.BACKBONE, rest, codec.BITS == 8, codec.QUANTIZER))


def _known(kind, name, names):
    if name not in names:
        raise ValueError(f"unknown {kind} {name!r}: known are {', '.join(sorted(filter(None, names)))}")


def config_of(training, overrides=None, **more):
    """The config of a training, of one of its settings with `overrides`, and with `more` keys."""
    pairs = {**training.overrides, **(overrides or {}), **more}
    return setup_config(training.config_file, [part for pair in pairs.items() for part in pair])


def file_name(name):
    """What stands for a name in paths."""
    return re.sub(r"[^\w.=-]+", "_", name)
