"""Sweeps: which curves of rate and quality to measure, read from a small YAML file or from flags.

A file, with its keys (all may be left out):

    title: above the plots
    curves:                        # default: the config's own codec, see below
      - codec: [jpegxl, png]       # a curve each
        bits: [2, 3, 4, 6, 8]      # points of a lossless codec; this is the default
      - name: 16 channels
        codec: jpeg
        bits: 8                    # several bits and several qualities: a curve a bit depth
        quality: [20, 50, 80]      # points of a lossy codec; the default is the codec's own
        effort: null
        overrides: {MODEL.FEATCOMP.SSFC.CHANNELS: 16}
        weights: c16.pth           # relative to the file; default: MODEL.WEIGHTS
      - name: PNG and JPEG         # any points, each with keys of the above
        points: [{codec: png, bits: 8}, {codec: jpeg, bits: 8, quality: 95}]
      - name: another network
        anchor: true               # other curves are compared with it
        weights: other.pth
    anchors: [image, features, raw]   # default; also image:jpeg420, features:hevc and the like; or []
    anchor_weights: detector.pth   # the network before it was trained to be cut
    uncompressed: true             # measure the uncut network with these weights, too

Anchors: `image` is the image, as the network gets it, coded in colour, and the whole network after it;
`features` are all features at the cut, coded as one image a tensor; `raw` is the same as float32.
"""

import dataclasses
import itertools
import os

import yaml

from ..codecs import find_image_codec
from ..modeling import build_feature_codec, find_feature_split
from .command_line import require_weights, setup_config
from .digests import file_digest
from .experiment import file_name

__all__ = ["Curve", "Point", "Sweep", "plan_sweep", "read_sweep"]

LOSSLESS_BITS = (2, 3, 4, 6, 8)
IMAGE_CODECS = ("jpeg420", "jpegxl_rgb", "avif420", "hevc420")
FEATURE_CODECS = ("jpeg", "hevc")
ANCHORS = ("image", "features", "raw")


@dataclasses.dataclass(frozen=True)
class Point:
    """One setting: `name`, and `overrides` of the config, a dict."""

    name: str
    overrides: dict


@dataclasses.dataclass(frozen=True)
class Curve:
    """`name`, `points`, whether it is an `anchor`, and whether its rate is one of features at the cut
    (`sends_features`; else of images)."""

    name: str
    points: tuple
    anchor: bool = False
    sends_features: bool = True


@dataclasses.dataclass(frozen=True)
class Sweep:
    """What to measure.

    Attributes:
        title (str): above the plots.
        curves (tuple[Curve]): their points' names differ.
        levels (tuple[Point]): without a rate.
        configs (dict): name of a point -> CfgNode.
    """

    title: str
    curves: tuple
    levels: tuple
    configs: dict


_KEYS = ("title", "curves", "anchors", "anchor_weights", "uncompressed")
_POINT_KEYS = ("codec", "bits", "quality", "effort", "overrides", "weights")
_CURVE_KEYS = ("name", "anchor", "points", *_POINT_KEYS)


def read_sweep(path):
    """Reads a sweep file; see the top of this module.

    Args:
        path (str): YAML.

    Returns:
        dict: as :func:`plan_sweep` takes; paths of weights made relative to the working folder.

    Raises:
        FileNotFoundError: no such file. ValueError: no YAML, or unknown keys.
    """
    if not os.path.isfile(path):
        raise FileNotFoundError(f"no sweep file {path!r}")
    with open(path, encoding="utf-8") as file:
        try:
            data = yaml.safe_load(file) or {}
        except (yaml.YAMLError, UnicodeDecodeError) as error:
            raise ValueError(f"{path}: {error}") from error
    try:
        _check_keys(data, _KEYS, "a sweep")
        folder = os.path.dirname(path)
        for curve in data.get("curves") or ():
            _check_keys(curve, _CURVE_KEYS, "a curve")
            for part in (curve, *(curve.get("points") or ())):
                _locate(part, "weights", folder)
        _locate(data, "anchor_weights", folder)
    except (ValueError, TypeError, AttributeError) as error:
        raise ValueError(f"{path}: {error}") from error
    return data


def _check_keys(data, known, what):
    if not isinstance(data, dict) or set(data) - set(known):
        found = sorted(set(data) - set(known)) if isinstance(data, dict) else repr(data)
        raise ValueError(f"{what} has the keys {', '.join(known)}; found {found}")


def _locate(data, key, folder):
    if data.get(key) and "://" not in data[key]:
        data[key] = os.path.join(folder, data[key])


def plan_sweep(description, config_file, opts, output):
    """Makes settings of a description, and checks all of them.

    Args:
        description (dict): as a sweep file has it.
        config_file (str): of the network.
        opts (sequence[str]): config overrides, KEY VALUE pairs; MODEL.WEIGHTS is needed.
        output (str): folder for what evaluators write.

    Returns:
        Sweep

    Raises:
        ValueError: something is unknown, out of range, or missing. FileNotFoundError: a file is missing.
    """
    _check_keys(description, _KEYS, "a sweep")
    base = setup_config(config_file, opts)
    require_weights(base)
    if not base.MODEL.FEATCOMP.ENABLED:
        raise ValueError("MODEL.FEATCOMP.ENABLED is False: a sweep needs a network that is cut")
    split = find_feature_split(base.MODEL.FEATCOMP.SPLIT)
    anchors = description.get("anchors", list(ANCHORS))
    curves = []
    for entry in description.get("curves") or [{}]:
        _check_keys(entry, _CURVE_KEYS, "a curve")
        curves += _curves(entry, base)
    uncompressed = description.get("uncompressed", True)
    for anchor in anchors:
        _kind_of(anchor, split)
    before = {}
    if anchors or uncompressed:
        before = _before(description.get("anchor_weights"), split)
    for anchor in anchors:
        curves += _anchor_curves(anchor, split, before)
    levels = [Point("uncompressed", {**before, "MODEL.FEATCOMP.ENABLED": False})] if uncompressed else []
    points = [point for curve in curves for point in curve.points] + levels
    for names in ([curve.name for curve in curves], [point.name for point in points]):
        twice = {name for name in names if names.count(name) > 1}
        if twice:
            raise ValueError(f"{sorted(twice)} occur twice: give curves different names")
    configs = {
        point.name: _config(config_file, opts, point, os.path.join(output, "settings"))
        for point in points
    }
    title = description.get("title") or os.path.basename(config_file)
    return Sweep(title, tuple(curves), tuple(levels), configs)


def _config(config_file, opts, point, folder):
    overrides = {**point.overrides, "OUTPUT_DIR": os.path.join(folder, file_name(point.name))}
    try:
        cfg = setup_config(config_file, [*opts, *(part for pair in overrides.items() for part in pair)])
        if cfg.MODEL.FEATCOMP.ENABLED:
            build_feature_codec(cfg, find_feature_split(cfg.MODEL.FEATCOMP.SPLIT))
    except (ValueError, ImportError) as error:
        raise type(error)(f"{point.name}: {error}") from error
    file_digest(cfg.MODEL.WEIGHTS)  # so that a missing file is found now
    return cfg


def _before(weights, split):
    """Overrides of the network before it was trained to be cut."""
    if not weights and split.trains_edge and not split.trains_from_scratch and split.anchor_split:
        if split.anchor_split == split.__name__:  # nothing was trained
            return {}
        raise ValueError(
            f"split {split.__name__} is trained together with its network: give the weights of the "
            "network before that (for training in steps: step1/model_final.pth) by --anchor-weights, "
            "or leave anchors and the uncompressed network out (--anchors none)"
        )
    return {"MODEL.WEIGHTS": weights} if weights else {}


def _listed(value):
    return list(value) if isinstance(value, (list, tuple)) else [value]


def _curves(entry, base):
    """A description's curves: one for each codec, of a lossy one for each bit depth."""
    name, anchor = entry.get("name", ""), bool(entry.get("anchor", False))
    common = {key: entry[key] for key in _POINT_KEYS if key in entry}
    if entry.get("points"):
        if not name:
            raise ValueError("a curve with points needs a name")
        for point in entry["points"]:
            _check_keys(point, _POINT_KEYS, "a point")
        points = [_point({**common, **point}, base, name) for point in entry["points"]]
        names = [point.name for point in points]
        points = [
            point
            if names.count(point.name) == 1
            else dataclasses.replace(point, name=f"{point.name}, no. {number}")
            for number, point in enumerate(points, 1)
        ]
        return [Curve(name, tuple(points), anchor)]
    found = []
    codecs = _listed(common.get("codec", base.MODEL.FEATCOMP.CODEC.NAME))
    for codec in codecs:
        lossy = find_image_codec(codec).default_quality is not None
        qualities = common.get("quality")
        if qualities is None and lossy:
            qualities = list(find_image_codec(codec).typical_qualities)
        qualities = _listed(qualities)
        bits = _listed(common.get("bits", 8 if qualities != [None] else list(LOSSLESS_BITS)))
        efforts = _listed(common.get("effort"))
        along_bits = len(qualities) == 1
        for outer in itertools.product(efforts, [None] if along_bits else bits):
            effort, depth = outer
            parts = [name, codec] if not name or len(codecs) > 1 else [name]
            parts += [f"effort {effort}"] if len(efforts) > 1 else []
            parts += [f"n = {depth}"] if not along_bits and len(bits) > 1 else []
            label = ", ".join(filter(None, parts))
            settings = (
                [{"bits": n, "quality": qualities[0]} for n in bits]
                if along_bits
                else [{"bits": depth, "quality": quality} for quality in qualities]
            )
            points = [
                _point({**common, "codec": codec, "effort": effort, **setting}, base, label)
                for setting in settings
            ]
            found.append(Curve(label, tuple(points), anchor))
    return found


def _point(entry, base, curve):
    own = base.MODEL.FEATCOMP.CODEC
    codec, bits = entry.get("codec", own.NAME), entry.get("bits", own.BITS)
    quality, effort = entry.get("quality"), entry.get("effort")
    parts = [curve] if codec in curve.split(", ") else [curve, codec]
    parts += [f"n = {bits}"] if f"n = {bits}" not in curve else []
    parts += [f"quality {quality:g}"] if isinstance(quality, (int, float)) else []
    parts += [f"effort {effort}"] if effort is not None and f"effort {effort}" not in curve else []
    parts += [f"{key} {value}" for key, value in _told_apart(entry)]
    overrides = {
        **(entry.get("overrides") or {}),
        "MODEL.FEATCOMP.CODEC.NAME": codec,
        "MODEL.FEATCOMP.CODEC.BITS": bits,
        "MODEL.FEATCOMP.CODEC.QUALITY": quality,
        "MODEL.FEATCOMP.CODEC.EFFORT": effort,
    }
    if entry.get("weights"):
        overrides["MODEL.WEIGHTS"] = entry["weights"]
    return Point(", ".join(parts), overrides)


def _told_apart(entry):
    """What of a point's overrides belongs into its name."""
    return [(key.rsplit(".", 1)[-1], value) for key, value in (entry.get("overrides") or {}).items()]


def _kind_of(anchor, split):
    """(kind, codec or "") of an anchor."""
    kind, _, codec = str(anchor).partition(":")
    if kind not in ANCHORS or (kind == "raw" and codec):
        raise ValueError(
            f"unknown anchor {anchor!r}: choose image, features or raw; image and features may name a "
            "codec, e.g. image:jpeg420"
        )
    if kind != "image" and split.anchor_split is None:
        raise ValueError(f"split {split.__name__} has no features to compare with: leave {anchor!r} out")
    return kind, codec


def _anchor_curves(anchor, split, before):
    kind, codec = _kind_of(anchor, split)
    overrides = {
        **before,
        "MODEL.FEATCOMP.SPLIT": "Image" if kind == "image" else split.anchor_split,
        "MODEL.FEATCOMP.CODEC.QUANTIZER": "",
        "MODEL.FEATCOMP.CODEC.EFFORT": None,
    }
    if kind == "image":
        overrides["MODEL.FEATCOMP.COMPRESSIBILITY.WEIGHT"] = 0.0
    if kind == "raw":
        name = "raw features, float32"
        overrides |= {"MODEL.FEATCOMP.CODEC.NAME": "raw", "MODEL.FEATCOMP.CODEC.BITS": 32}
        point = Point(name, {**overrides, "MODEL.FEATCOMP.CODEC.QUALITY": None})
        return [Curve(name, (point,), anchor=True)]
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
        name = f"{kind}, {chosen}"
        points = tuple(
            Point(
                f"{name}, quality {quality:g}",
                {
                    **overrides,
                    "MODEL.FEATCOMP.CODEC.NAME": chosen,
                    "MODEL.FEATCOMP.CODEC.BITS": 8,
                    "MODEL.FEATCOMP.CODEC.QUALITY": quality,
                },
            )
            for quality in found.typical_qualities
        )
        curves.append(Curve(name, points, anchor=True, sends_features=kind == "features"))
    return curves
