"""Plans: what to train, measure, compare and draw, in one YAML file.

Its keys, all of which may be left out but for some curve, level or anchor:

    _BASE_: other.yaml               # relative to the file: a plan from which this one differs in what
                                     # it says; keys with values are merged, lists replaced
    title: heads tables and plots
    config_file: of the networks, relative to the file (featcomp sweep: --config-file)
    weights: model.pth               # relative to the file (featcomp sweep: MODEL.WEIGHTS at the end)
    trainings:                       # in place of weights; each by the stages of featcomp train
      detector:
        overrides: {MODEL.FEATCOMP.TRAIN.STEPS: [1]}
      msfc:
        start: detector              # another training whose weights it starts from
        config_file: other.yaml      # in place of the one above
        overrides: {...}             # config key: value
        once: true                   # with the first of the seeds only, for trainings that start from it
      given:
        checkpoint: folder/file.pth  # below DETECTRON2_DATASETS; nothing is trained
    curves:                          # lines of the plots; by default one, of the config's codec
      - name: MSFC                   # default: the split's and the codec's names
        training: msfc               # whose weights, where there are trainings; or
        weights: c16.pth             # relative to the file
        codec: [jpegxl, png]         # a curve each; default: the config's own
        bits: [2, 3, 4, 6, 8]        # points of a lossless codec; this is the default
        quality: [20, 50, 80]        # points of a lossy codec; the default is the codec's own
        effort: 7                    # default: the config's for its own codec, else the codec's
        rate: [0, 0.25, 0.5, 0.75, 1]  # points of a variable-rate codec; this is the default, but
                                       # for one at CODEC.TARGET_KB, which takes no rates
        # A codec setting among these is that of all points. The config's own codec is lossy where
        # CODEC.QUALITY is set: this quality is among its points, which have CODEC.BITS bits (those of
        # other lossy codecs 8); so is CODEC.RATE among its rates.
        overrides: {MODEL.FEATCOMP.SSFC.CHANNELS: 16}
      - name: any points             # each with keys of the above, and with a name of its own if wanted
        anchor: true                 # other curves are compared with it
        points: [{codec: png, bits: 8}, {name: JPEG, codec: jpeg, bits: 8, quality: 95}]
    levels:                          # points of no curve: horizontal lines in the plots
      - {name: uncompressed, training: detector, overrides: {MODEL.FEATCOMP.ENABLED: false}}
    anchors: [image, features, raw]  # also answers, image:jpeg420, features:hevc and the like; or [].
                                     # This is the default where there are no trainings
    anchor_weights: detector.pth     # the network before it was trained to be split; or
    anchor_training: detector        # where there are trainings
    uncompressed: true               # measure that network unsplit, too; default with anchors
    images: 100                      # measure the first so many images of each test set; 0 is all
    plot: {x: BPFE, y: box AP}       # columns; the default with trainings. y may be a list: a plot each.
                                     # Without: each quality against BPFE and against bits per pixel
    columns: [box AP50, kB/image]    # of the table; by default all that are measured but box AP50
    seeds: [1, 2, 3]                 # every training is done with each; tables and plots show means.
                                     # Not where nothing is trained
    bd_rates:                        # how many percent more bits a curve needs than another
      - {anchor: JPEG pyramid, test: MSFC, columns: [box AP, mask AP], method: pchip}
      - {anchor: JPEG pyramid, test: MSFC, columns: [box AP], points: 5}  # of each curve, the first
    differences:                     # of average precision, with 95 % intervals by resampling images
      - {curve: MSFC, minus: uncompressed, columns: [box AP, mask AP]}  # of each point of a curve
      - {setting: "MSFC, n = 2", minus: "MSFC, n = 4"}                  # of box AP
    # reference: the unsplit network, to draw beside; may be left out
    pictures: {setting: "MSFC, n = 2", reference: detector, count: 4}
    goals:                           # bounds: at_least, at_most; checked by featcomp reproduce alone
      - {setting: "MSFC, n = 2", column: box AP, at_least: 30}
      - {setting: "MSFC, n = 2", column: box AP, minus: uncompressed, at_least: -2}
      - {setting: "MSFC, n = 2", compression_ratio_against: JPEG pyramid, at_least: 10}
      - {bd_rate: MSFC, anchor: JPEG pyramid, column: box AP, at_most: -50}

Anchors: `image` is the image, as the network gets it, coded in colour, and the whole network after it;
`features` are all features at the split point, coded as one image a tensor; `raw` is them as float32;
`answers` are the detections of the whole network, what an edge would send that computes everything.
"""

import dataclasses
import functools
import logging
import os

from ..data.datasets.scenes import find_data_root
from ..engine.command_line import require_weights, setup_config
from .checks import at, check_plan
from .curves import expand_anchor, expand_curve, find_overrides_before_splitting, make_point
from .keys import hash_file
from .plan_files import PLAN_KEYS, read_sweep
from .schema import (
    CURVE_KEYS,
    POINT_KEYS,
    UNCOMPRESSED,
    BDRate,
    Difference,
    Goal,
    Plan,
    Point,
    Training,
    list_points,
    make_config,
    require_keys,
)
from .seeds import repeat_points, repeat_trainings

__all__ = ["make_plan", "plan_sweep", "read_experiment", "read_sweep"]

_RENAMED_KEYS = {"times_fewer_bits_than": "compression_ratio_against"}
ALL_ANCHORS = ("image", "features", "raw")


def read_experiment(path, *, seeds=None):
    """Reads a plan that says all itself, and checks all of it.

    Args:
        path (str): YAML, see the top of this module; with `trainings`, or `config_file` and `weights`.
        seeds (sequence[int] or None): in place of the file's.

    Returns:
        Plan

    Raises:
        FileNotFoundError: it, or a config file that it names, does not exist.
        ValueError: something in it is unknown, missing or out of range.
    """
    data = read_sweep(path)
    with at(path):
        if not data.get("trainings") and not (data.get("config_file") and data.get("weights")):
            raise ValueError("it needs trainings, or config_file and weights")
        return make_plan(data if seeds is None else {**data, "seeds": list(seeds)})


def plan_sweep(description, config_file, opts, output=""):
    """Makes a plan of a description and of what a command line adds, and checks all of it.

    Args:
        description (dict): from :func:`read_sweep`, or made as such a file has it.
        config_file (str): of the network.
        opts (sequence[str]): config overrides, KEY VALUE pairs; MODEL.WEIGHTS is needed.
        output (str): not used any more.

    Returns:
        Plan

    Raises:
        ValueError: something is unknown, out of range, or missing. FileNotFoundError: a file is missing.
    """
    require_keys(description, PLAN_KEYS, "a plan")
    if description.get("trainings"):
        raise ValueError("it has trainings: run it by featcomp reproduce")
    if description.get("goals"):
        raise ValueError("it has goals, which featcomp reproduce alone checks: leave them out")
    cfg = setup_config(config_file, opts)
    require_weights(cfg)
    if not cfg.MODEL.FEATCOMP.ENABLED:
        raise ValueError("MODEL.FEATCOMP.ENABLED is False: a sweep needs a network that is split")
    given = dict(zip(opts[::2], opts[1::2], strict=True))
    plan = make_plan(
        {**description, "config_file": config_file, "weights": cfg.MODEL.WEIGHTS}, overrides=given
    )
    for point in plan.points.values():
        hash_file(plan.build_config(point).MODEL.WEIGHTS)  # so that a missing file is found now
    return plan


def make_plan(data, overrides=None):
    """Makes a plan of its description, and checks it.

    Args:
        data (dict): from :func:`read_sweep`.
        overrides (dict or None): of the config where there are no trainings.

    Returns:
        Plan
    """
    seeds = tuple(data.get("seeds") or ())
    if not all(type(seed) is int and seed >= 0 for seed in seeds) or len(set(seeds)) != len(seeds):
        raise ValueError(f"seeds must be distinct whole numbers from 0, not {list(seeds)}")
    alone = not data.get("trainings")
    trainings = _read_trainings(data, overrides or {})
    if seeds and all(training.checkpoint for training in trainings.values()):
        raise ValueError("it trains nothing, so all seeds would measure the same: leave seeds out")
    find_config = _config_finder(trainings)
    curves = _read_curves(data, trainings, find_config)
    levels = _read_levels(data, trainings, find_config)
    anchors, uncompressed = _expand_anchors(data, trainings)
    curves += anchors
    points = [*levels, *(point for curve in curves for point in curve.points), *uncompressed]
    if not points:
        raise ValueError("it measures nothing: add curves, levels or anchors")
    _check_names(trainings, curves, points)
    plot = data.get("plot", {"x": "BPFE", "y": "box AP"} if not alone else {})
    require_keys(plot, ("x", "y"), "plot")
    ys = plot.get("y", "box AP") if plot else ()
    if not isinstance(ys, (str, list, tuple)):
        raise ValueError(f"plot: y must be a column or a list of columns, not {ys!r}")
    plan = Plan(
        title=(data.get("title") or _describe(trainings, points)) + _describe_part(data),
        trainings=repeat_trainings(trainings, seeds),
        points=repeat_points(points, trainings, seeds),
        curves=tuple(curves),
        goals=_read_entries(Goal, data, "goals"),
        bd_rates=_read_entries(BDRate, data, "bd_rates"),
        differences=_read_entries(Difference, data, "differences"),
        pictures=data.get("pictures") or {},
        columns=tuple(data.get("columns") or ()),
        seeds=seeds,
        images=data.get("images", 0),
        x=plot.get("x", "BPFE"),
        ys=(ys,) if isinstance(ys, str) else tuple(ys),
    )
    check_plan(plan)
    return plan


def _read_entries(kind, data, key):
    found = []
    for number, entry in enumerate(data.get(key) or ()):
        with at(f"{key}[{number}]"):
            entry = _rename_keys(entry, f"{key}[{number}]")
            require_keys(entry, [field.name for field in dataclasses.fields(kind)], "it")
            for field in dataclasses.fields(kind):
                if field.name not in entry and field.default is dataclasses.MISSING:
                    raise ValueError(f"it needs the key {field.name}")
            columns = {}
            if "columns" in entry:
                if not isinstance(entry["columns"], (list, tuple)) or not entry["columns"]:
                    raise ValueError(f"columns must be a list of columns, not {entry['columns']!r}")
                columns["columns"] = tuple(entry["columns"])
            found.append(kind(**{**entry, **columns}))
    return tuple(found)


def _rename_keys(entry, where):
    """Gives keys of earlier releases the names of today; says so in the log."""
    if not isinstance(entry, dict):
        return entry
    for earlier in entry.keys() & _RENAMED_KEYS.keys():
        logging.getLogger("d2_featcomp").warning(
            "%s: the key %s is now called %s", where, earlier, _RENAMED_KEYS[earlier]
        )
    return {_RENAMED_KEYS.get(key, key): value for key, value in entry.items()}


def _read_trainings(data, overrides):
    given = data.get("config_file", "")
    if not data.get("trainings"):
        weights = data.get("weights", "")
        overrides = {**overrides, "MODEL.WEIGHTS": weights}
        return {"": Training("", given, checkpoint=weights, overrides=overrides)}
    if data.get("weights"):
        raise ValueError("give trainings or weights, not both")
    if data.get("anchor_weights"):
        raise ValueError(
            "anchor_weights has no effect beside trainings: name one of them by anchor_training (which "
            "may be a checkpoint)"
        )
    trainings = {}
    for name, entry in data["trainings"].items():
        entry = {} if entry is None else entry
        known = ("config_file", "start", "checkpoint", "overrides", "once")
        require_keys(entry, known, f"trainings.{name}")
        entry = {"config_file": given, **entry}
        if entry.get("checkpoint"):
            entry["checkpoint"] = os.path.join(find_data_root(), entry["checkpoint"])
        trainings[str(name)] = Training(str(name), **entry)
    return trainings


def _read_curves(data, trainings, find_config):
    curves = []
    default = [{}] if "" in trainings else []
    for number, entry in enumerate(data.get("curves", default)):
        name = entry.get("name", "") if isinstance(entry, dict) else ""
        with at(f"curves[{number}] ({name})" if name else f"curves[{number}]"):
            require_keys(entry, CURVE_KEYS, "it")
            first = next(iter(list_points(entry)), None)
            training = {**entry, **(first if isinstance(first, dict) else {})}.get("training", "")
            curves += expand_curve(entry, find_config(training), find_config)
    return curves


def _config_finder(trainings):
    """Makes a function that returns the config of a training of that name."""

    @functools.cache
    def find_config(name):
        known = _known_training(name, trainings)
        return make_config(known.config_file, known.overrides)

    return find_config


def _known_training(name, trainings):
    if name not in trainings:
        told = f"unknown training {name!r}" if name else "it needs the key training"
        raise ValueError(f"{told}: known are {', '.join(sorted(filter(None, trainings)))}")
    return trainings[name]


def _read_levels(data, trainings, find_config):
    levels = []
    for number, entry in enumerate(data.get("levels") or ()):
        require_keys(entry, POINT_KEYS, f"levels[{number}]")
        if not entry.get("name"):
            raise ValueError(f"levels[{number}] needs a name")
        with at(f"levels[{number}]"):
            known = {"codec", "rate"} & entry.keys() and entry.get("training", "") in trainings
            cfg = find_config(entry.get("training", "")) if known else None
            levels.append(make_point(entry, "", cfg=cfg))
    return levels


def _expand_anchors(data, trainings):
    """Makes (curves, levels) of the network before it was trained to be split."""
    alone = "" in trainings
    anchors = data.get("anchors", list(ALL_ANCHORS) if alone else [])
    uncompressed = data.get("uncompressed", alone or bool(anchors))
    if not anchors and not uncompressed:
        return [], []
    name = data.get("anchor_training", "")
    with at("anchor_training" if name else "anchors"):
        training = _known_training(name, trainings)
        cfg = make_config(training.config_file, training.overrides)
        for anchor in anchors:  # so that a name is told before missing weights
            expand_anchor(anchor, cfg, {}, name)
        before = {}
        if alone:
            before = find_overrides_before_splitting(data.get("anchor_weights"), cfg)
        curves = [curve for anchor in anchors for curve in expand_anchor(anchor, cfg, before, name)]
    unsplit = Point(UNCOMPRESSED, name, {**before, "MODEL.FEATCOMP.ENABLED": False})
    return curves, [unsplit] if uncompressed else []


def _check_names(trainings, curves, points):
    for kind, names in (
        ("training", list(trainings)),
        ("curve", [curve.name for curve in curves]),
        ("setting", [point.name for point in points]),
    ):
        twice = sorted({name for name in names if names.count(name) > 1})
        if twice:
            raise ValueError(f"two {kind}s have the same name, {twice[0]!r}: give them different ones")


def _describe_part(data):
    """What a title tells of how many images are measured, where these are not all."""
    count = data.get("images")
    return f", first {count} images" if count else ""


def _describe(trainings, points):
    """Titles a plan that has no title by what is measured on which images."""
    training = next(iter(trainings.values()))
    cfg = make_config(training.config_file, training.overrides)
    featcomp = cfg.MODEL.FEATCOMP
    return f"{featcomp.SPLIT} on {featcomp.TASK_NETWORK}, {', '.join(cfg.DATASETS.TEST)}"
