"""Checks of a plan, so that a mistake is found before hours of work, not after."""

import contextlib
import os

import torch
from detectron2.modeling import build_model

from ..engine.stage_numbers import require_stage_numbers
from ..engine.steps import choose_stages, require_data, require_stage_settings
from ..evaluation.tradeoff import AP_COLUMNS, COLUMNS
from ..modeling import FEATURE_SPLIT_REGISTRY, build_feature_codec, find_stored_name
from .schema import file_name, make_config, require_keys
from .seeds import name_repeat
from .settings import build_codec

__all__ = ["at", "check_plan"]

# What "bbox/AP75" and "kb/image" begin with, which no evaluator of one's own gives.
_GROUPS = {group for group, _, _ in COLUMNS.values()}
_GROUPS |= {column.partition("/")[0].lower() for column in COLUMNS if "/" in column}


@contextlib.contextmanager
def at(where):
    """Says where in a plan a mistake is: errors become `where: what is wrong`."""
    try:
        yield
    except (ValueError, ImportError, FileNotFoundError) as error:
        kind = type(error) if type(error) in (ImportError, FileNotFoundError) else ValueError
        raise kind(f"{where}: {error}") from error
    except (TypeError, KeyError, AttributeError, AssertionError) as error:
        raise ValueError(f"{where}: {error}") from error


def check_plan(plan):
    """Checks names, columns, bounds and every config of a plan.

    Args:
        plan (Plan): to check.

    Raises:
        ValueError, ImportError, FileNotFoundError: what is wrong, and where.
    """
    seen, configs = set(), {}
    for training in plan.trainings.values():
        with at(f"training {training.name!r}") if training.name else contextlib.nullcontext():
            _require("training", training.start, {"", *seen})
            seen.add(training.name)
            cfg = configs[training.name] = make_config(training.config_file, training.overrides)
            if training.name and not training.checkpoint:
                require_stage_settings(cfg)
                require_data(cfg.DATASETS.TRAIN)
                if cfg.MODEL.FEATCOMP.TRAIN.STEPS:
                    require_stage_numbers(cfg, choose_stages(cfg))
            if training.checkpoint and training.start:
                raise ValueError("give start or checkpoint, not both")
    for names in (plan.trainings, plan.points):
        if len({file_name(name) for name in names}) != len(names):
            raise ValueError("two names differ in nothing but punctuation: they would share a folder")
    built = set()
    for point in plan.points.values():
        with at(f"setting {point.name!r}"):
            _require("training", point.training, seen)
            cfg = plan.build_config(point)
            _check_config(cfg, built)
            if not point.overrides.get("MODEL.WEIGHTS"):
                _require_trained_codec(cfg, plan.trainings[point.training], configs[point.training])
            _require_file(point.overrides.get("MODEL.WEIGHTS", ""))
    if type(plan.images) is not int or plan.images < 0:
        raise ValueError(f"images must be a whole number from 0, not {plan.images!r}")
    for column in (plan.x, *plan.ys, *plan.columns):
        _require_column(column)
    for number, wanted in enumerate(plan.bd_rates):
        with at(f"bd_rates[{number}]"):
            _check_bd_rate(wanted, plan)
    for number, wanted in enumerate(plan.differences):
        with at(f"differences[{number}]"):
            _check_difference(wanted, plan)
    for number, goal in enumerate(plan.goals):
        with at(f"goals[{number}]"):
            _check_goal(goal, plan)
    if plan.pictures:
        with at("pictures"):
            _check_pictures(plan)


def _check_config(cfg, built):
    if len(cfg.DATASETS.TEST) != 1:
        raise ValueError("DATASETS.TEST must name one data set")
    require_data(cfg.DATASETS.TEST)
    if not cfg.MODEL.FEATCOMP.ENABLED:
        return
    _require("split", cfg.MODEL.FEATCOMP.SPLIT, dict(FEATURE_SPLIT_REGISTRY))
    build_feature_codec(cfg, FEATURE_SPLIT_REGISTRY.get(cfg.MODEL.FEATCOMP.SPLIT))
    network = _describe_network(cfg)
    if network not in built:
        built.add(network)
        _try_to_build(cfg)


def _require_trained_codec(cfg, training, trained_cfg):
    """Raises ValueError for a codec with weights that a training of this plan, whose config is
    `trained_cfg`, does not give."""
    codec = build_codec(cfg)
    if training.checkpoint or codec is None or not codec.has_weights:
        return
    wanted, trained = cfg.MODEL.FEATCOMP, trained_cfg.MODEL.FEATCOMP
    steps = trained.TRAIN.STEPS
    if steps and set(steps) == {1}:
        raise ValueError(
            f"codec {codec.name!r} has weights, which training {training.name!r} does not train "
            f"(MODEL.FEATCOMP.TRAIN.STEPS is {tuple(steps)}): name one that does"
        )
    here, there = _pick_codec_keys(wanted), _pick_codec_keys(trained)
    for key, value in here.items():
        if value != there[key]:
            raise ValueError(
                f"codec {codec.name!r} is used as it was trained, but MODEL.FEATCOMP.{key} is {value!r} "
                f"here and {there[key]!r} in training {training.name!r}: make the two agree"
            )


def _pick_codec_keys(featcomp):
    """dict: key below MODEL.FEATCOMP -> value, of those that the weights of a codec depend on."""
    codec = featcomp.CODEC
    return {
        "SPLIT": find_stored_name(featcomp.SPLIT),
        "CODEC.NAME": codec.NAME,
        "CODEC.BITS": codec.BITS,
        **{f"CODEC.LEARNED.{key}": value for key, value in codec.LEARNED.items()},
    }


def _require_file(weights):
    if weights and "://" not in weights and not os.path.isfile(weights):
        raise FileNotFoundError(f"no checkpoint {weights!r}")


def _try_to_build(cfg):
    """Builds a network and drops it: without memory for its weights and numbers in them, if it can be
    built like that; otherwise, or to tell what is wrong with it, as it is."""
    without_weights = cfg.clone()
    without_weights.defrost()
    without_weights.MODEL.DEVICE = "meta"
    try:
        with torch.device("meta"):
            build_model(without_weights)
    except Exception:
        build_model(cfg)


def _describe_network(cfg):
    """Tells settings apart by what their networks are built from: all but weights and codec."""
    cfg = cfg.clone()
    cfg.defrost()
    cfg.MODEL.WEIGHTS = ""
    codec = cfg.MODEL.FEATCOMP.pop("CODEC")
    del cfg.MODEL.FEATCOMP["TRAIN"]
    return str((cfg.MODEL, codec.BITS == 8, codec.QUANTIZER))


def _check_bd_rate(wanted, plan):
    for curve in (wanted.anchor, wanted.test):
        _require("curve", curve, {curve.name for curve in plan.curves})
    if plan.x == "BPFE":
        _require_same_elements(wanted, plan)
    for column in wanted.columns:
        _require_column(column)
    _require("method", wanted.method, ("cubic", "pchip", "akima"))
    if type(wanted.points) is not int or wanted.points < 0:
        raise ValueError(f"points must be a whole number from 0, not {wanted.points!r}")


def _require_same_elements(wanted, plan):
    """Raises ValueError for curves that bits per element of features cannot compare."""
    split_points = {}
    for curve in plan.curves:
        if curve.name not in (wanted.anchor, wanted.test):
            continue
        if not curve.sends_features:
            raise ValueError(
                f"{curve.name!r} sends images, which have no BPFE: set plot x to kB/image, by which "
                "curves are then compared"
            )
    for point in plan.points.values():
        if point.curve in (wanted.anchor, wanted.test):
            split_points.setdefault(_find_split_point(plan.build_config(point)), point.curve)
    if len(split_points) > 1:
        told = ", ".join(f"{name!r} ({split_point})" for split_point, name in split_points.items())
        raise ValueError(
            f"features of several split points, {told}, have other elements, so that BPFE does not "
            "compare them: set plot x to kB/image, by which curves are then compared"
        )


def _find_split_point(cfg):
    featcomp = cfg.MODEL.FEATCOMP
    defaults = FEATURE_SPLIT_REGISTRY.get(featcomp.SPLIT).defaults
    name = featcomp.SPLIT_POINT or defaults.get("split_point", "backbone")
    return f"layer{featcomp.LAYER}" if name == "layer" else name


def _check_difference(wanted, plan):
    labels = {point.label for point in plan.points.values()}
    if bool(wanted.setting) == bool(wanted.curve):
        raise ValueError("it needs either setting or curve")
    _require("setting", wanted.setting, {"", *labels})
    _require("curve", wanted.curve, {"", *(curve.name for curve in plan.curves)})
    _require("setting (minus)", wanted.minus, labels)
    for column in wanted.columns:
        _require("column", column, AP_COLUMNS)


def _check_goal(goal, plan):
    labels = {point.label for point in plan.points.values()}
    compared = {(wanted.test, wanted.anchor, c) for wanted in plan.bd_rates for c in wanted.columns}
    if goal.bd_rate or goal.anchor:
        if (goal.bd_rate, goal.anchor, goal.column) not in compared:
            raise ValueError("its bd_rate, anchor and column must be among bd_rates")
        _refuse(goal, ("setting", "minus", "compression_ratio_against"), "bd_rate")
    else:
        _require("setting", goal.setting, labels)
    _require("setting", goal.minus, {"", *labels})
    _require("curve", goal.compression_ratio_against, {"", *(curve.name for curve in plan.curves)})
    images = {curve.name for curve in plan.curves if not curve.sends_features}
    if goal.compression_ratio_against in images and plan.x == "BPFE":
        raise ValueError(
            f"{goal.compression_ratio_against!r} sends images, which have no BPFE: compare by plot x "
            "kB/image"
        )
    if bool(goal.column) == bool(goal.compression_ratio_against):
        raise ValueError("it needs either column or compression_ratio_against")
    if goal.compression_ratio_against:
        _refuse(goal, ("minus",), "compression_ratio_against")
    if goal.column:
        _require_column(goal.column)
    bounds = goal.at_least, goal.at_most
    if not all(isinstance(bound, (int, float)) for bound in bounds):
        raise ValueError("at_least and at_most must be numbers")
    if bounds == (float("-inf"), float("inf")):
        raise ValueError("it needs at_least or at_most")


def _refuse(goal, keys, beside):
    """Raises ValueError if a goal has one of these keys."""
    for key in keys:
        if getattr(goal, key):
            raise ValueError(f"{key} has no effect beside {beside}: leave one of them out")


def _check_pictures(plan):
    require_keys(plan.pictures, ("setting", "reference", "count"), "it")
    _require(
        "setting", plan.pictures.get("setting", ""), {point.label for point in plan.points.values()}
    )
    reference = plan.pictures.get("reference", "")
    if plan.seeds and reference not in plan.trainings:
        reference = name_repeat(reference, plan.seeds[0])
    _require("training", reference, {"", *plan.trainings})
    count = plan.pictures.get("count", 1)
    if type(count) is not int or count < 1:
        raise ValueError(f"count must be a whole number from 1, not {count!r}")


def _require_column(column):
    if not isinstance(column, str):
        raise ValueError(f"a column must be text, not {column!r}")
    group, slash, _ = column.partition("/")
    if not slash or group.lower() in _GROUPS:  # else group/metric: of evaluators of one's own
        _require("column", column, COLUMNS)


def _require(kind, name, names):
    if not name and "" not in names:
        raise ValueError(f"it needs the key {kind}: known are {', '.join(sorted(names))}")
    if name not in names:
        raise ValueError(f"unknown {kind} {name!r}: known are {', '.join(sorted(filter(None, names)))}")
