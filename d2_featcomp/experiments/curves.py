"""From a plan's short descriptions of curves to their points."""

import ast
import contextlib
import itertools
import os

from ..codecs import FEATURE_CODEC_REGISTRY, find_image_codec
from ..modeling import IntermediateLayerSplit, PyramidSplit, find_feature_split
from .schema import CURVE_KEYS, POINT_KEYS, Curve, Point, require_keys

__all__ = ["expand_anchor", "expand_curve", "find_overrides_before_splitting", "has_rates", "make_point"]

LOSSLESS_BITS = (2, 3, 4, 6, 8)
IMAGE_CODECS = ("jpeg420", "jpegxl_rgb", "avif420", "hevc420")
FEATURE_CODECS = ("jpeg", "hevc")
ANCHORS = ("image", "features", "raw", "answers")
ANSWER_SCORES = (0.05, 0.3, 0.5, 0.7)

_CODEC = "MODEL.FEATCOMP.CODEC."
_CODEC_KEYS = {
    "codec": "NAME",
    "bits": "BITS",
    "quality": "QUALITY",
    "effort": "EFFORT",
    "rate": "RATE",
}
_TARGET = f"{_CODEC}TARGET_KB"


def make_point(entry, training, curve="", name="", cfg=None):
    """Makes a point of its description.

    Args:
        entry (dict): with keys of a point.
        training (str): whose weights it has, unless the entry says it.
        curve (str): whose point it is, or "".
        name (str): unless the entry has one.
        cfg (CfgNode or None): of its network: quality, effort and target stay as they are there if the
            codec does. None: quality and effort are the codec's own.

    Returns:
        Point

    Raises:
        ValueError: its rate has no effect, or it has two kinds of weights.
    """
    training = entry.get("training", training)
    if training and entry.get("weights"):
        raise ValueError(f"give training {training!r} or weights {entry['weights']!r}, not both")
    overrides = dict(entry.get("overrides") or {})
    own = None if cfg is None else cfg.MODEL.FEATCOMP.CODEC
    # Quality, effort and target mean nothing to another codec.
    if "codec" in entry and (own is None or entry["codec"] != own.NAME):
        target = {} if own is None else _without_target(own)
        overrides = {f"{_CODEC}QUALITY": None, f"{_CODEC}EFFORT": None, **target, **overrides}
    for key, of_config in _CODEC_KEYS.items():
        if key in entry:
            overrides[_CODEC + of_config] = entry[key]
    if own is not None:
        _require_rate_with_effect(entry, overrides, own)
    if entry.get("weights"):
        overrides["MODEL.WEIGHTS"] = entry["weights"]
    return Point(entry.get("name") or name, training, overrides, curve)


def _without_target(codec):
    """Overrides for codecs of one rate, of a network whose config has these settings of its codec."""
    return {_TARGET: 0.0} if codec.TARGET_KB else {}


def has_rates(codec):
    """Whether a codec (str, a name) codes at several rates; ValueError for an unknown one."""
    if codec in FEATURE_CODEC_REGISTRY:
        return bool(FEATURE_CODEC_REGISTRY.get(codec).typical_rates)
    find_image_codec(codec)  # so that an unknown name is told
    return False


def _require_rate_with_effect(entry, overrides, own):
    """Raises ValueError for the rate of a codec that has one, and for a rate beside a target."""
    rate = overrides.get(f"{_CODEC}RATE")
    if rate is None:
        return
    codec = overrides.get(f"{_CODEC}NAME", own.NAME)
    if not has_rates(codec):
        if entry.get("rate") is not None:
            raise ValueError(
                f"codec {codec!r} has one rate: leave rate {rate} out, or choose codec variable_rate"
            )
        return
    target = float(overrides.get(_TARGET, own.TARGET_KB))
    if target:
        raise ValueError(
            f"rate {rate} has no effect beside {_TARGET} {target:g}, by which the rate is chosen: leave "
            "the rates out, or set TARGET_KB to 0"
        )


def expand_curve(entry, cfg, find_config=None):
    """Makes curves of a description: one of its `points`, or one for each codec and effort and, of lossy
    codecs, bit depth.

    Args:
        entry (dict): with keys of a curve.
        cfg (CfgNode): of its network.
        find_config (callable or None): takes the name of a training and returns its config, for points
            of other networks; None: all are of `cfg`.

    Returns:
        list[Curve]

    Raises:
        ValueError: a key is unknown, or given twice: by itself and among the overrides.
    """
    require_keys(entry, CURVE_KEYS, "it")
    for key in _CODEC_KEYS:
        if entry.get(key) in ([], ()):
            raise ValueError(f"{key} is an empty list, which leaves no points: fill it, or leave it out")
    find_config = find_config or (lambda training: cfg)
    name, anchor = entry.get("name", ""), bool(entry.get("anchor", False))
    training = entry.get("training", "")
    common = {key: entry[key] for key in POINT_KEYS if key in entry and key not in ("name", "training")}
    shared = common.get("overrides") or {}
    _require_given_once(common, shared, "it")
    if "points" not in entry:
        return [
            _make_curve(label, _points(described, training, label, find_config), anchor, cfg)
            for label, described in _families(name, common, cfg)
        ]
    if not name:
        raise ValueError("a curve with points needs a name")
    if not isinstance(entry["points"], list) or not entry["points"]:
        raise ValueError(f"points must be a list of points, not {entry['points']!r}")
    for number, point in enumerate(entry["points"]):
        require_keys(point, POINT_KEYS, f"points[{number}]")
        _require_given_once({**common, **point}, point.get("overrides") or {}, f"points[{number}]")
    described = [
        {**common, **point, "overrides": {**shared, **(point.get("overrides") or {})}}
        for point in entry["points"]
    ]
    return [_make_curve(name, _points(described, training, name, find_config), anchor, cfg)]


def _require_given_once(entry, overrides, where):
    """Raises ValueError if codec settings are among both the keys of an entry and the overrides."""
    for key, of_config in _CODEC_KEYS.items():
        if key in entry and _CODEC + of_config in overrides:
            raise ValueError(
                f"{where} has {key} {entry[key]} and, among its overrides, {_CODEC}{of_config} "
                f"{overrides[_CODEC + of_config]}: leave one of them out"
            )


def _make_curve(name, points, anchor, cfg):
    key = "MODEL.FEATCOMP.SPLIT"
    splits = [point.overrides.get(key, cfg.MODEL.FEATCOMP.SPLIT) for point in points]
    return Curve(name, points, anchor, any(split != "ImageSplit" for split in splits))


def _families(name, common, cfg):
    """Yields (name, descriptions of the points) of curves along the bit depth, quality or rate."""
    own = cfg.MODEL.FEATCOMP.CODEC.NAME
    settings, named = _read_codec_overrides(common, cfg)
    codecs = _listed(common.get("codec", settings.NAME))
    efforts = _listed(common.get("effort"))
    for codec, effort in itertools.product(codecs, efforts):
        # What the entry leaves out: from its overrides; from the config for the config's own codec.
        kept = (*_CODEC_KEYS, "target") if codec == own else named
        qualities, lossy = _find_qualities(codec, common, settings, named, kept)
        depths = 8 if lossy else list(LOSSLESS_BITS)
        if "bits" in named or (lossy and "bits" in kept) or codec in FEATURE_CODEC_REGISTRY:
            depths = settings.BITS  # feature codecs are trained for one bit depth
        bits = _listed(common.get("bits", depths))
        rates = _find_rates(codec, common, settings, named, kept)
        parts = [name or cfg.MODEL.FEATCOMP.SPLIT]
        parts += [codec] if not name or len(codecs) > 1 else []
        parts += [f"effort {effort}"] if len(efforts) > 1 else []
        entry = {**common, "codec": codec, **({"effort": effort} if "effort" in common else {})}
        if rates:
            yield ", ".join(parts), [{**entry, "bits": n, "rate": r} for n in bits for r in rates]
            continue
        if qualities == [None] and "quality" not in common:
            yield ", ".join(parts), [{**entry, "bits": n} for n in bits]
            continue
        if len(qualities) == 1:
            yield ", ".join(parts), [{**entry, "bits": n, "quality": qualities[0]} for n in bits]
            continue
        for n in bits:
            label = ", ".join([*parts, *([f"n = {n}"] if len(bits) > 1 else [])])
            yield label, [{**entry, "bits": n, "quality": quality} for quality in qualities]


def _read_codec_overrides(common, cfg):
    """Returns (codec settings of a config with a curve's overrides, keys that these overrides name)."""
    overrides = common.get("overrides") or {}
    known = {**{key: _CODEC + of_config for key, of_config in _CODEC_KEYS.items()}, "target": _TARGET}
    named = [key for key, of_config in known.items() if of_config in overrides]
    settings = cfg.MODEL.FEATCOMP.CODEC.clone()
    settings.defrost()
    for key in named:
        value = overrides[known[key]]
        with contextlib.suppress(ValueError, SyntaxError):  # "4" and "None", as configs take them
            value = ast.literal_eval(value) if isinstance(value, str) else value
        settings[known[key].removeprefix(_CODEC)] = value
    return settings, named


def _find_qualities(codec, common, settings, named, kept):
    """Finds the qualities of a curve's points, and whether they are lossy."""
    found = None if codec in FEATURE_CODEC_REGISTRY else find_image_codec(codec)
    default = None if found is None else found.default_quality
    if common.get("quality") is not None:
        qualities = _listed(common["quality"])
    elif "quality" in named:
        qualities = [settings.QUALITY]
    elif "quality" in kept and "quality" not in common and settings.QUALITY is not None and found:
        qualities = sorted({*found.typical_qualities, settings.QUALITY})
    else:
        qualities = [None] if default is None else list(found.typical_qualities)
    return qualities, qualities != [None] or default is not None


def _find_rates(codec, common, settings, named, kept):
    """Finds the rates of a curve's points; none for a codec that has one rate or meets a target."""
    if common.get("rate") is not None:
        return _listed(common["rate"])
    if not has_rates(codec):
        return []
    if "rate" in named:
        return [settings.RATE]
    if "target" in kept and settings.TARGET_KB:
        return []
    typical = FEATURE_CODEC_REGISTRY.get(codec).typical_rates
    return sorted({*typical, settings.RATE}) if "rate" in kept else list(typical)


def _points(described, training, curve, find_config):
    """Names points by what tells them from one another."""
    shown = [
        {
            **{key: entry.get(key) for key in _CODEC_KEYS},
            **{key.rsplit(".", 1)[-1]: value for key, value in (entry.get("overrides") or {}).items()},
        }
        for entry in described
    ]
    varying = [
        key
        for key in dict.fromkeys(key for entry in shown for key in entry)
        if len({str(entry.get(key)) for entry in shown}) > 1
    ]
    words = {"codec": "{}", "bits": "n = {}"}
    names = []
    for entry, values in zip(described, shown, strict=True):
        parts = [
            words.get(key, f"{key} {{}}").format(f"{value:g}" if isinstance(value, float) else value)
            for key in varying
            if (value := values.get(key)) is not None
        ]
        names.append(entry.get("name") or ", ".join([curve, *parts]))
    names = [
        name if names.count(name) == 1 else f"{name}, no. {number}"
        for number, name in enumerate(names, 1)
    ]
    return tuple(
        make_point(entry, training, curve, name, find_config(entry.get("training", training)))
        for entry, name in zip(described, names, strict=True)
    )


def _listed(value):
    return list(value) if isinstance(value, (list, tuple)) else [value]


def _find_split_point(cfg):
    featcomp = cfg.MODEL.FEATCOMP
    defaults = find_feature_split(featcomp.SPLIT).defaults
    return featcomp.SPLIT_POINT or defaults.get("split_point", "backbone")


def _find_anchor_split(cfg):
    """Names the split that codes all features of a network's split point; "" before the network."""
    split = cfg.MODEL.FEATCOMP.SPLIT
    if issubclass(find_feature_split(split), (IntermediateLayerSplit, PyramidSplit)):
        return split
    anchors = {"image": "", "backbone": "PyramidSplit"}
    return anchors.get(_find_split_point(cfg), "IntermediateLayerSplit")


def find_overrides_before_splitting(weights, cfg):
    """Finds the network as it was before it was trained to be split: for anchors.

    Args:
        weights (str or None): given for it.
        cfg (CfgNode): of the network that is split.

    Returns:
        dict: config overrides.

    Raises:
        ValueError: it needs weights of its own, and there are none.
    """
    split = cfg.MODEL.FEATCOMP.SPLIT
    # Training leaves the network as it was if the split point is inside a layer.
    trained = _find_anchor_split(cfg) not in (split, "")
    if not weights and trained and not _find_split_point(cfg).startswith("layer"):
        raise ValueError(
            f"split {split} is trained together with its network: give the weights of the "
            "network before that (for training in stages: step1/model_final.pth) by --anchor-weights, "
            "or leave anchors and the uncompressed network out (--anchors none)"
        )
    return {"MODEL.WEIGHTS": os.fspath(weights)} if weights else {}


def _make_answers_curve(before, training):
    answers = "MODEL.FEATCOMP.ANSWERS."
    entries = [
        {
            "name": f"answers, score {score:g}",
            "overrides": {
                **before,
                "MODEL.FEATCOMP.ENABLED": False,
                f"{answers}ENABLED": True,
                f"{answers}SCORE": score,
            },
        }
        for score in ANSWER_SCORES
    ]
    points = tuple(make_point(entry, training, "answers") for entry in entries)
    return Curve("answers", points, anchor=True, sends_features=False)


def expand_anchor(anchor, cfg, before, training):
    """Makes the curves of an anchor such as "image", "features:hevc" or "raw".

    Args:
        anchor (str): in a plan's `anchors`.
        cfg (CfgNode): of the network that it is compared with.
        before (dict): config overrides of the network that it runs.
        training (str): whose weights it has.

    Returns:
        list[Curve]

    Raises:
        ValueError: there is no such anchor, or none for this split or codec.
    """
    split = _find_anchor_split(cfg)
    kind, _, codec = str(anchor).partition(":")
    if kind not in ANCHORS or (kind in ("raw", "answers") and codec):
        raise ValueError(
            f"unknown anchor {anchor!r}: choose image, features, raw or answers; image and features may "
            "name a codec, e.g. image:jpeg420"
        )
    if kind == "answers":
        return [_make_answers_curve(before, training)]
    if kind != "image" and not split:
        chosen = cfg.MODEL.FEATCOMP.SPLIT
        raise ValueError(f"split {chosen} has no features to compare with: leave {anchor!r} out")
    overrides = {
        **before,
        "MODEL.FEATCOMP.SPLIT": "ImageSplit" if kind == "image" else split,
        f"{_CODEC}QUANTIZER": "",
        **_without_target(cfg.MODEL.FEATCOMP.CODEC),
    }
    if kind == "image":
        overrides |= {"MODEL.FEATCOMP.SPLIT_POINT": "", "MODEL.FEATCOMP.COMPRESSIBILITY.WEIGHT": 0.0}
    if kind == "raw":
        entry = {"name": "raw features, float32", "codec": "raw", "bits": 32, "overrides": overrides}
        return [Curve(entry["name"], (make_point(entry, training, entry["name"]),), anchor=True)]
    curves = []
    for chosen in [codec] if codec else IMAGE_CODECS if kind == "image" else FEATURE_CODECS:
        found = find_image_codec(chosen)
        if not found.typical_qualities:
            raise ValueError(f"anchor {anchor!r}: codec {chosen!r} has no quality to vary")
        if (kind == "image") != (found.layout == "colour"):
            raise ValueError(
                f"anchor {anchor!r}: for images choose one of {', '.join(IMAGE_CODECS)}, for features "
                "any other codec with a quality"
            )
        entries = [
            {"codec": chosen, "bits": 8, "quality": quality, "overrides": overrides}
            for quality in found.typical_qualities
        ]
        name = f"{kind}, {chosen}"
        points = _points(entries, training, name, lambda training: None)
        curves.append(Curve(name, points, anchor=True, sends_features=kind == "features"))
    return curves
