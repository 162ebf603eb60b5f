"""Runs a plan: trains, measures, compares, draws."""

import contextlib
import glob
import logging
import os
import shutil
import time

from detectron2.data import DatasetCatalog
from detectron2.utils import comm

from ..deploy.demo import draw_images, remove_drawn
from ..engine.inference import build_for_inference
from ..engine.steps import train_stages
from ..evaluation.rate_budget import OperatingPoint, choose_within_budget
from .html_report import MOST_PICTURES
from .keys import digest_imports, digest_training_data, find_differences, hash_file, pick_trained_keys
from .marks import keep_beside, read_mark, write_mark
from .measure import measure_settings
from .report import Report
from .schema import UNCOMPRESSED, file_name, make_config
from .seeds import name_repeat
from .subsets import limit_images

__all__ = [
    "choose_setting",
    "find_trainings",
    "measure_alone",
    "open_run",
    "run_experiment",
    "run_plan",
    "run_sweep",
    "train_alone",
]

REPORT_PERIOD = 60  # seconds at least between reports of what was measured so far


def run_experiment(experiment, output, *, retrain=False, trained_in=None):
    """As :func:`run_plan`.

    Returns:
        list[str]: the goals that were missed, in words; empty on all processes but the main one.
    """
    report = run_plan(experiment, output, retrain=retrain, trained_in=trained_in)
    verdicts = report.check_goals() if comm.is_main_process() else []
    for reached, words in verdicts:
        logging.getLogger("d2_featcomp").info("%s: %s", "reached" if reached else "MISSED", words)
    return [words for reached, words in verdicts if not reached]


def run_sweep(sweep, output, *, method="cubic", command=()):
    """As :func:`run_plan`.

    Returns:
        dict: name of a point -> {group: {metric: value}}; empty on all processes but the main one.
    """
    return run_plan(sweep, output, method=method, command=command).results


def run_plan(plan, output, *, method="cubic", command=(), retrain=False, trained_in=None):
    """Trains, measures and draws what a plan asks for; goes on where an earlier call stopped.

    Several processes, as under Detectron2's `launch`, share the images of measurements; trainings are
    done by one.

    Args:
        plan (Plan): to run.
        output (str): folder; gets what :class:`Report` writes, `pictures/`, `trainings/`, `settings/`
            with what evaluators write, and the cache of measurements, `records/`.
        method (str): of BD-rates that the plan does not list, see :func:`bd_rate`.
        command (sequence[str]): for the summary.
        retrain (bool): train again what was trained with other settings; the old is kept beside.
        trained_in (str or None): output of another plan, whose trainings of the same names are used;
            what it lacks is trained there, too. None: `output`.

    Returns:
        Report: of all that was measured.

    Raises:
        FileNotFoundError: a `checkpoint` does not exist, or `trained_in` holds no trainings.
        ValueError: a training found in `output` was made with other settings, and `retrain` is False.
        OSError: the disk is full or not writable.
    """
    run = open_run(plan, output, retrain, trained_in)
    report = Report(plan, output, method=method, command=command)
    written = time.monotonic()
    for training in plan.trainings.values():
        if comm.is_main_process() and report.results and time.monotonic() - written > REPORT_PERIOD:
            report.write()
            written = time.monotonic()
        run.train(training)
        if configs := run.build_configs(training.name):
            report.configs |= configs
            report.results |= measure_settings(configs, run.records)
    if comm.is_main_process():
        if report.results:
            report.write()
        panels = run.draw(**plan.pictures) if plan.pictures else {}
        if report.results:
            report.write_html(panels)
        report.log()
    return report


def train_alone(plan, output, names, *, retrain=False, trained_in=None):
    """Does some trainings of a plan, and measures nothing.

    Args:
        plan (Plan), output (str), retrain (bool), trained_in (str or None): see :func:`run_plan`.
        names (sequence[str]): of trainings, in this order, or of those of all seeds; what they start
            from must be done.

    Raises:
        ValueError: there is no training of that name, or the one that it starts from is not done.
        Others: see :func:`run_plan`.
    """
    names = find_trainings(plan, names)
    run = open_run(plan, output, retrain, trained_in)
    for index, name in enumerate(names):
        start = plan.trainings[name].start
        if start and start not in names[:index] and not run.is_trained(plan.trainings[start]):
            raise ValueError(f"training {name!r} starts from {start!r}, which is not done yet")
    for name in names:
        run.train(plan.trainings[name])


def measure_alone(plan, output, names, *, retrain=False, trained_in=None):
    """Measures the networks of some trainings of a plan, for a later :func:`run_plan`; writes no report.

    Args:
        plan (Plan), output (str), retrain (bool), trained_in (str or None): see :func:`run_plan`.
        names (sequence[str]): of trainings that are done, or of those of all seeds.

    Raises:
        ValueError: there is no training of that name, it is not done, or nothing of it is measured.
        Others: see :func:`run_plan`.
    """
    names = find_trainings(plan, names)
    run = open_run(plan, output, retrain, trained_in)
    for name in names:
        if not run.is_trained(plan.trainings[name]):
            raise ValueError(f"training {name!r} is not done yet: there is nothing to measure")
    configs = {name: run.build_configs(name) for name in names}
    for name, of_one in configs.items():
        if not of_one:
            raise ValueError(f"no curve, level or anchor of the plan measures training {name!r}")
    for of_one in configs.values():
        measure_settings(of_one, run.records)


def find_trainings(plan, names):
    """Finds the trainings of these names, those of each seed where a name has none: list[str].
    ValueError where there is none."""
    found = []
    for name in names:
        repeats = [name, *(name_repeat(name, seed) for seed in plan.seeds)]
        of_name = [repeat for repeat in repeats if repeat in plan.trainings]
        if not of_name:
            raise ValueError(f"no training {name!r}: choose of {', '.join(map(repr, plan.trainings))}")
        found += of_name
    return found


def open_run(plan, output, retrain, trained_in=None):
    """Makes the folder of a plan's results, after a check of what is there: see :func:`run_plan`."""
    if trained_in and not os.path.isdir(os.path.join(trained_in, "trainings")):
        raise FileNotFoundError(f"{trained_in!r} holds no trainings: give the --output of an experiment")
    run = _Run(plan, output, retrain, trained_in)
    run.check_trainings()
    os.makedirs(output, exist_ok=True)
    return run


class _Run:
    def __init__(self, plan, output, retrain, trained_in=None):
        self.plan, self.output, self.retrain = plan, output, retrain
        self._trained_in = trained_in or output
        self.records = os.path.join(output, "records")  # cache of measurements

    def trained_in(self, name):
        """str: the folder of a training."""
        return os.path.join(self._trained_in, "trainings", file_name(name))

    def _weights(self, name):
        return self.plan.trainings[name].checkpoint or os.path.join(
            self.trained_in(name), "model_final.pth"
        )

    def build_config(self, point):
        folder = os.path.join(self.output, "settings", file_name(point.name))
        weights = self._weights(point.training)
        cfg = self.plan.build_config(point, OUTPUT_DIR=folder, MODEL__WEIGHTS=weights)
        if self.plan.images:
            cfg = limit_images(cfg, self.plan.images, self.records)
        return cfg

    def build_configs(self, training):
        """dict: name -> CfgNode, of the points that the network of a training (str) is measured at."""
        points = (point for point in self.plan.points.values() if point.training == training)
        return {point.name: self.build_config(point) for point in points}

    def check_trainings(self):
        """Before anything is done: says which finished trainings this plan does not agree with."""
        for training in self.plan.trainings.values():
            if training.checkpoint and training.name and not os.path.isfile(training.checkpoint):
                raise FileNotFoundError(
                    f"training {training.name!r}: no checkpoint {training.checkpoint!r}: put it there, "
                    "or set DETECTRON2_DATASETS to the folder below which it is"
                )
            if training.checkpoint:
                hash_file(training.checkpoint)  # FileNotFoundError
            elif not self.retrain:
                self._require_same(training, read_mark(self.trained_in(training.name)))

    def _require_same(self, training, mark):
        differences = self._compare(training, mark)
        if differences:
            folder = self.trained_in(training.name)
            raise ValueError(
                f"training {training.name!r}: {folder!r} holds one of other settings: "
                f"{'; '.join(differences)}. Give another --output folder, the settings as they were, or "
                "--retrain, which trains again and keeps the old one beside the new"
            )

    def _compare(self, training, mark):
        if mark is None:
            return []
        if "config" not in mark:
            if mark.get("complete"):
                logging.getLogger("d2_featcomp").warning(
                    "training %r was done by an earlier version, which did not note its settings: it is "
                    "taken as it is; --retrain trains it again",
                    training.name,
                )
                return []
            return ["an earlier version began it and did not note its settings"]
        cfg = make_config(training.config_file, training.overrides)
        found = find_differences(mark["config"], pick_trained_keys(cfg))
        if training.start:
            start, was = self._weights(training.start), mark["start"]
        else:
            start, was = cfg.MODEL.WEIGHTS, mark.get("weights")  # not noted by earlier releases
        with contextlib.suppress(FileNotFoundError):  # what they were may be gone
            if was is not None and was != hash_file(start):
                found.append(
                    f"it started from other weights of {training.start!r}"
                    if training.start
                    else f"MODEL.WEIGHTS {start!r} holds other weights than those it started from"
                )
        return found

    def is_trained(self, training):
        """Whether weights are there, made with these settings."""
        if training.checkpoint:
            return True
        mark = read_mark(self.trained_in(training.name))
        done = bool(mark and mark["complete"]) and os.path.exists(self._weights(training.name))
        return done and not (self.retrain and self._needs_retraining(training, mark))

    def _needs_retraining(self, training, mark):
        return bool(self._compare(training, mark) or (mark and "config" not in mark))

    def train(self, training):
        """Trains, unless that was done; on with one that was interrupted."""
        if training.checkpoint:
            return
        folder = self.trained_in(training.name)
        mark = read_mark(folder)
        if not self.retrain:
            self._require_same(training, mark)
        elif self._needs_retraining(training, mark):
            keep_beside(folder)
            mark = None
        cfg = make_config(training.config_file, training.overrides)
        if mark is not None:
            self._warn_of_changes(training, mark, cfg.DATASETS.TRAIN)
        if self.is_trained(training):
            logging.getLogger("d2_featcomp").info("Training %r is there: it is used", training.name)
            return
        if comm.get_world_size() > 1:
            raise ValueError("trainings of a plan are done by one process: run featcomp reproduce")
        start = {"MODEL.WEIGHTS": self._weights(training.start)} if training.start else {}
        made = {
            "config": pick_trained_keys(cfg),
            "start": hash_file(start.get("MODEL.WEIGHTS", "")),
            "weights": "" if training.start else hash_file(cfg.MODEL.WEIGHTS),
            "imports": digest_imports(),
            "data": digest_training_data(cfg.DATASETS.TRAIN),
        }
        write_mark({"complete": False, **made}, folder)
        logging.getLogger("d2_featcomp").info("Training %r", training.name)
        overrides = {**training.overrides, "OUTPUT_DIR": folder, **start}
        train_stages(make_config(training.config_file, overrides), resume=bool(mark))
        made["data"] = made["data"] or digest_training_data(cfg.DATASETS.TRAIN)  # drawn meanwhile
        write_mark({"complete": True, **made}, folder)
        for step in glob.glob(os.path.join(glob.escape(folder), "step*")):
            shutil.rmtree(step)  # with optimizer states: large, and of no more use

    def _warn_of_changes(self, training, mark, names):
        """Warns of other code and data than a training began with, which may or may not matter. What
        earlier releases did not note is not compared."""
        for key, what, digest in (
            ("imports", "the code of --import has", digest_imports),
            ("data", f"the data of {', '.join(names)} have", lambda: digest_training_data(names)),
        ):
            if mark.get(key) and digest() not in ("", mark[key]):
                logging.getLogger("d2_featcomp").warning(
                    "%s changed since training %r began, which is used as it is: where it matters, "
                    "remove %s to train again",
                    what,
                    training.name,
                    self.trained_in(training.name),
                )

    def draw(self, setting, reference="", count=4):
        """Draws pictures, in place of those of an earlier plan; returns their names, with the panels of
        the first, as :meth:`Report.write_html` takes them."""
        folder = os.path.join(self.output, "pictures")
        if self.plan.seeds:
            setting = name_repeat(setting, self.plan.seeds[0])
            if reference not in self.plan.trainings:
                reference = name_repeat(reference, self.plan.seeds[0])
        cfg = self.build_config(self.plan.points[setting])
        model = build_for_inference(cfg, cfg.MODEL.WEIGHTS)
        unsplit = (
            build_for_inference(cfg, self._weights(reference), enabled=False) if reference else None
        )
        records = DatasetCatalog.get(cfg.DATASETS.TEST[0])[:count]
        found = {}

        def keep(name, panels):
            if len(found) < MOST_PICTURES:
                found[name] = panels

        remove_drawn(folder)
        drawn = draw_images(cfg, model, records, folder, reference=unsplit, take_panels=keep)
        return {name: found.get(name, []) for name in drawn}


def choose_setting(sweep, results, *, target_kb=None, max_drop=None, quality=""):
    """Picks the setting, not of an anchor, on the convex hull of rate and quality that meets a budget.

    Args:
        sweep (Plan): that was measured.
        results (dict): from :func:`run_sweep`.
        target_kb (float or None): kilobytes (1000 bytes) an image, at most.
        max_drop (float or None): how much quality may fall below the uncompressed network, at most.
        quality (str): a column such as "box AP"; "" is the first that was measured.

    Returns:
        (OperatingPoint, list[str]): the setting, its rate in kB; and its config overrides.

    Raises:
        ValueError: no setting meets it, the quality is unknown, or there is no uncompressed network.
    """
    report = Report(sweep, "")
    report.results = results
    rows, known = report.rows(), report.qualities()
    quality = quality or next(iter(known), "")
    if quality not in known:
        raise ValueError(f"unknown quality {quality!r}: measured were {', '.join(known) or 'none'}")
    points = {point.name: point for curve in sweep.curves if not curve.anchor for point in curve.points}
    measured = [
        OperatingPoint(name, rows[name]["kB/image"], rows[name].get(quality, float("nan")))
        for name in points
    ]
    if max_drop is not None:
        if UNCOMPRESSED not in rows:
            raise ValueError("a largest drop needs the uncompressed network: do not leave it out")
        least = rows[UNCOMPRESSED].get(quality, float("nan")) - max_drop
        if least != least:
            raise ValueError(f"{quality} of the uncompressed network was not measured")
        chosen = choose_within_budget(measured, least_quality=least)
    else:
        chosen = choose_within_budget(measured, most_rate=target_kb)
    overrides = points[chosen.name].overrides
    return chosen, [str(part) for pair in overrides.items() for part in pair]
