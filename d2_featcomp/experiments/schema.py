"""The parts of a plan."""

import dataclasses
import re

from ..engine.command_line import setup_config

__all__ = [
    "BDRate",
    "Curve",
    "Difference",
    "Goal",
    "Plan",
    "Point",
    "Training",
    "file_name",
    "list_points",
    "require_keys",
]

UNCOMPRESSED = "uncompressed"  # point of the network that is not split, beside anchors
POINT_KEYS = ("name", "training", "weights", "codec", "bits", "quality", "effort", "rate", "overrides")
CURVE_KEYS = (*POINT_KEYS, "anchor", "points")


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
class Point:
    """One setting to measure: `name`, `training` (whose weights), `overrides` of its config, `curve` (or
    ""); where the plan has seeds, `seed` and `repeats`, the name that the points of all seeds share."""

    name: str
    training: str = ""
    overrides: dict = dataclasses.field(default_factory=dict)
    curve: str = ""
    seed: int | None = None
    repeats: str = ""

    @property
    def label(self):
        """str: its name in tables."""
        return self.repeats or self.name


@dataclasses.dataclass(frozen=True)
class Curve:
    """`name`, `points`, whether others are compared with it (`anchor`), and whether its rate is one of
    features at the split point (`sends_features`; else of images)."""

    name: str
    points: tuple
    anchor: bool = False
    sends_features: bool = True


@dataclasses.dataclass(frozen=True)
class BDRate:
    """BD-rates of the curve `test` against the curve `anchor`, by each of `columns`, with `method`; of
    the first `points` points of each curve, or of all (0). A goal takes the first that fits it."""

    anchor: str
    test: str
    columns: tuple
    method: str = "cubic"
    points: int = 0


@dataclasses.dataclass(frozen=True)
class Difference:
    """How much each of `columns`, of average precision, is higher at the point `setting`, or at each
    point of the curve `curve`, than at the point `minus`; with a 95 % interval."""

    setting: str = ""
    curve: str = ""
    minus: str = ""
    columns: tuple = ("box AP",)


@dataclasses.dataclass(frozen=True)
class Goal:
    """A bound on a column of a point (`setting`), on its difference to another point (`minus`), on the
    compression ratio against a curve at the same quality (`compression_ratio_against`), or on the
    BD-rate by a column of the curve `bd_rate` against the curve `anchor`."""

    setting: str = ""
    column: str = ""
    bd_rate: str = ""
    anchor: str = ""
    minus: str = ""
    compression_ratio_against: str = ""
    at_least: float = float("-inf")
    at_most: float = float("inf")


@dataclasses.dataclass(frozen=True)
class Plan:
    """Trainings, measurements, comparisons and pictures of an experiment.

    Attributes:
        title (str): above tables and plots.
        trainings (dict): name -> Training, each after the one it starts from.
        points (dict): name -> Point, in the order of the tables.
        curves (tuple[Curve]): of points, named by their labels.
        goals (tuple[Goal]), bd_rates (tuple[BDRate]), differences (tuple[Difference]).
        pictures (dict): `setting`, `reference`, `count`, or empty.
        columns (tuple[str]): of the tables; empty: all that are measured.
        seeds (tuple[int]).
        images (int): of each test set that are measured, the first; 0 is all.
        x, ys (str, tuple[str]): columns of the plots, one a `y`. No `ys`: a plot of each quality against
            BPFE, and one against bits per pixel.
    """

    title: str
    trainings: dict
    points: dict
    curves: tuple
    goals: tuple = ()
    bd_rates: tuple = ()
    differences: tuple = ()
    pictures: dict = dataclasses.field(default_factory=dict)
    columns: tuple = ()
    seeds: tuple = ()
    images: int = 0
    x: str = "BPFE"
    ys: tuple = ()

    @property
    def levels(self):
        """tuple[Point]: those of no curve, drawn as horizontal lines."""
        return tuple(point for point in self.points.values() if not point.curve)

    @property
    def settings(self):
        """dict: `points`, by their earlier name."""
        return self.points

    def build_config(self, point, **more):
        """Builds the config of a point.

        Args:
            point (Point): of this plan.
            more: config keys, in which "__" stands for a dot; the point's own overrides come first.

        Returns:
            CfgNode: frozen.
        """
        training = self.trainings[point.training]
        more = {key.replace("__", "."): value for key, value in more.items()}
        overrides = {**training.overrides, **more, **point.overrides}
        return make_config(training.config_file, overrides)

    config_of = build_config  # earlier name


def make_config(config_file, overrides):
    """Builds a config of a file and of overrides, a dict of dotted keys."""
    return setup_config(config_file, [part for pair in overrides.items() for part in pair])


def require_keys(entry, known, where):
    """Raises ValueError unless `entry` is a dict with known keys alone; `where` says what it is."""
    if not isinstance(entry, dict):
        raise ValueError(f"{where} must have keys ({', '.join(known)}), not be {entry!r}")
    unknown = [key for key in entry if key not in known]
    if unknown:
        raise ValueError(
            f"{where}: unknown key{'s' * (len(unknown) > 1)} {', '.join(map(repr, unknown))}: "
            f"known are {', '.join(known)}"
        )
    if not isinstance(entry.get("name", ""), (str, type(None))):
        raise ValueError(f"{where}: name must be text, not {entry['name']!r}: put it in quotes")
    overrides = entry.get("overrides") or {}
    if not isinstance(overrides, dict):
        raise ValueError(f"{where}: overrides must be config keys with values, not {overrides!r}")
    for key, value in overrides.items():
        if isinstance(value, dict) and "." not in str(key):
            raise ValueError(f"{where}: overrides take dotted keys: write {_dotted(key, value)}")


def list_points(entry):
    """Lists the points of a curve's description, before it is checked; [] where it has none."""
    points = entry.get("points") if isinstance(entry, dict) else None
    return points if isinstance(points, list) else []


def _dotted(key, value):
    while isinstance(value, dict) and value:
        name, value = next(iter(value.items()))
        key = f"{key}.{name}"
    return f"{key}: {value}"


def file_name(name):
    """Makes a file name of a name."""
    return re.sub(r"[^\w.=-]+", "_", name)
