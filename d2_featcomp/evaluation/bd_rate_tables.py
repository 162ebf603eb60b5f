"""Tables of BD-rates, which several seeds may have."""

import math
import statistics
from typing import NamedTuple

from tabulate import tabulate

from .. import files
from .tradeoff import deviation

__all__ = [
    "OF_MEANS",
    "BDRateSummary",
    "format_bd_rates",
    "group_bd_rates",
    "summarize_bd_rate",
    "write_bd_rates",
]

OF_MEANS = "mean"  # in place of a seed: the curves of the seeds' means
_PAIR = ("test", "anchor", "column", "points", "method")


def format_bd_rates(found):
    """Formats BD-rates as a table.

    Args:
        found (list[dict]): each with "anchor", "test", "column", "points", "method", "seed" (or None, or
            :data:`OF_MEANS`),
            "percent" (NaN where it cannot be computed) and "note" (what to know about it, or "").

    Returns:
        str: in Markdown, a line a pair of curves and column that can be compared; with seeds the mean
        over them (a dash where one of them gives none), their standard deviation, the 95 % interval of
        the mean (Student's t), each value, and that of the curves of mean points. Below it notes, and
        what cannot be compared.
    """
    seeds = any(entry["seed"] is not None for entry in found)
    cells, notes, undefined = [], {}, {}
    for pair, entries in group_bd_rates(found).items():
        summary = summarize_bd_rate(entries)
        if not summary.defined:
            test, anchor, column, *_ = pair
            reason = entries[-1]["note"]  # of the mean curves, where there are seeds: one says enough
            undefined.setdefault(f"{test} against {anchor}: {reason}", []).append(column)
            continue
        number = notes.setdefault(summary.note, len(notes) + 1) if summary.note else ""
        cells.append([*pair, *_bd_cells(summary, seeds), number])
    head = ["curve", "against", "by", "points", "method", "BD-rate"]
    head += ["± (seeds)", "95 % interval", "each", "of mean curves"] if seeds else []
    of_seeds = ("right", "right", "left", "right") if seeds else ()
    align = ("left", "left", "left", "right", "left", "right", *of_seeds)
    table = tabulate(
        cells, [*head, "note"], tablefmt="pipe", colalign=(*align, "right"), disable_numparse=True
    )
    lines = [f"{number}. {told}" for told, number in notes.items()]
    lines += [f"- Cannot be compared by {', '.join(columns)}: {t}" for t, columns in undefined.items()]
    return "\n".join([*([table] if cells else []), *([""] if cells and lines else []), *lines])


def group_bd_rates(found):
    """dict: (test, anchor, column, points, method) -> what :func:`format_bd_rates` takes of them."""
    groups = {}
    for entry in found:
        groups.setdefault(tuple(entry[field] for field in _PAIR), []).append(entry)
    return groups


class BDRateSummary(NamedTuple):
    """A BD-rate over its seeds, in percent; NaN is what is not defined."""

    mean: float  # of the seeds
    deviation: float  # a sample's; NaN of a single one
    interval: tuple  # 95 % of the mean, Student's t; NaN of a single one
    each: tuple  # by seed
    of_means: float  # of the curves of mean points; NaN without seeds
    note: str  # what to know, told once

    @property
    def defined(self):
        return not all(math.isnan(value) for value in (*self.each, self.of_means))


def summarize_bd_rate(entries):
    """Summarizes the seeds of one BD-rate.

    Args:
        entries (list[dict]): of one pair, as :func:`group_bd_rates` gives them.

    Returns:
        BDRateSummary
    """
    values = tuple(entry["percent"] for entry in entries if entry["seed"] != OF_MEANS)
    several = len(values) > 1 and not any(math.isnan(value) for value in values)
    # compare_curves joins what it tells of one entry; over all seeds each is told once.
    parts = [part for entry in entries for part in entry["note"].split("; ") if part]
    return BDRateSummary(
        mean=statistics.fmean(values),
        deviation=deviation(values) if several else math.nan,
        interval=_mean_interval(values) if several else (math.nan, math.nan),
        each=values,
        of_means=next((entry["percent"] for entry in entries if entry["seed"] == OF_MEANS), math.nan),
        note="; ".join(dict.fromkeys(parts)),
    )


def _bd_cells(summary, seeds):
    def show(text, value):
        return "-" if math.isnan(value) else text.format(value)

    cells = [show("{:+.2f} %", summary.mean)]
    if seeds:
        low, high = summary.interval
        cells.append(show("{:.2f}", summary.deviation))
        cells.append(f"{low:+.2f} to {high:+.2f}" if not math.isnan(low) else "-")
        cells.append(", ".join(show("{:+.2f}", value) for value in summary.each))
        cells.append(show("{:+.2f} %", summary.of_means))
    return cells


def _mean_interval(values):
    """(float, float): the 95 % interval of the mean that two or more values are a sample of."""
    from scipy.stats import t

    mean = statistics.fmean(values)
    half = t.ppf(0.975, len(values) - 1) * statistics.stdev(values) / math.sqrt(len(values))
    return mean - half, mean + half


def write_bd_rates(found, path):
    """Writes what :func:`format_bd_rates` takes, a line an entry, in one piece."""
    fields = [*_PAIR, "seed", "percent", "note"]
    files.write_csv(fields, ([entry[field] for field in fields] for entry in found), path)
