"""Rate against accuracy: the table and the plot of a comparison."""

import csv
import io

import numpy as np
from tabulate import tabulate

from ..files import write_text

__all__ = ["COLUMNS", "DEFAULT_COLUMNS", "format_table", "plot_curves", "rate_for_accuracy", "write_csv"]

# Column -> (result group, metric, decimals).
COLUMNS = {
    "box AP": ("bbox", "AP", 1),
    "box AP50": ("bbox", "AP50", 1),
    "mask AP": ("segm", "AP", 1),
    "keypoint AP": ("keypoints", "AP", 1),
    "PQ": ("panoptic_seg", "PQ", 1),
    "mIoU": ("sem_seg", "mIoU", 1),
    "BPFE": ("feature_rate", "BPFE", 5),
    "BPFE packed": ("feature_rate", "BPFE_packed", 5),
    "bits/pixel": ("feature_rate", "bpp", 3),
    "kB/image": ("feature_rate", "kB", 2),
    "times smaller": ("feature_rate", "times_smaller", 0),
}


DEFAULT_COLUMNS = tuple(column for column in COLUMNS if column != "box AP50")


def rows_of(results):
    """
    Args:
        results (dict): setting name -> {group: {metric: value}}.

    Returns:
        dict: setting name -> {column of :data:`COLUMNS`: float}, of what was measured.
    """
    return {
        name: {
            column: float(groups[group][metric])
            for column, (group, metric, _) in COLUMNS.items()
            if metric in groups.get(group, {})
        }
        for name, groups in results.items()
    }


def _measured(columns, rows):
    return [column for column in columns if any(column in row for row in rows.values())]


def format_table(rows, columns=DEFAULT_COLUMNS):
    """
    Args:
        rows (dict): as :func:`rows_of` gives.
        columns (sequence[str]): of :data:`COLUMNS`, to show where they were measured.

    Returns:
        str: in Markdown; a dash where something was not measured.
    """
    columns = _measured(columns, rows)
    cells = [
        [name, *(f"{row[c]:.{COLUMNS[c][2]}f}" if c in row else "-" for c in columns)]
        for name, row in rows.items()
    ]
    align = ("left", *("right" for _ in columns))
    return tabulate(cells, ["setting", *columns], tablefmt="pipe", colalign=align, disable_numparse=True)


def write_csv(rows, path):
    """Writes the rows with all their digits, in one piece."""
    columns = _measured(COLUMNS, rows)
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(["setting", *columns])
    for name, row in rows.items():
        writer.writerow([name, *(row.get(column, "") for column in columns)])
    write_text(text.getvalue(), path)


def rate_for_accuracy(rates, accuracies, accuracy):
    """The lowest rate at which a curve reaches an accuracy, the logarithm of the rate interpolated.

    Args:
        rates, accuracies (sequence[float]): points of the curve, in any order; rates positive.
        accuracy (float): to reach.

    Returns:
        float: infinity where no point reaches it; NaN where every point exceeds it, as the curve was
        then not measured at rates low enough.
    """
    order = np.argsort(rates)
    log_rates, accuracies = np.log(np.asarray(rates)[order]), np.asarray(accuracies)[order]
    reached = np.flatnonzero(accuracies >= accuracy)
    if not reached.size:
        return float("inf")
    first = reached[0]
    if first == 0:
        return float(np.exp(log_rates[0])) if accuracies[0] == accuracy else float("nan")
    share = (accuracy - accuracies[first - 1]) / (accuracies[first] - accuracies[first - 1])
    return float(np.exp(log_rates[first - 1] + share * (log_rates[first] - log_rates[first - 1])))


def plot_curves(curves, levels, path, *, x="BPFE", y="box AP", title=""):
    """Plots accuracy against rate, the rate on a logarithmic axis.

    Args:
        curves (dict): label -> list of rows, each with the columns `x` and `y`; drawn by rising `x`.
        levels (dict): label -> value of `y`, drawn as a horizontal line: what has no rate.
        path (str): without suffix; `.png` and `.svg` are written.
        x, y (str): columns of :data:`COLUMNS`.
        title (str): above the plot.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure
    from matplotlib.ticker import LogLocator, NullFormatter

    figure = Figure(figsize=(7, 4.5), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.add_subplot()
    for (label, rows), marker in zip(curves.items(), "os^Dvp*XPhd<>" * 3, strict=False):
        points = sorted((row[x], row[y]) for row in rows)
        axes.plot(*zip(*points, strict=True), marker=marker, markersize=5, label=label)
    for (label, level), style in zip(levels.items(), ("--", ":", "-.") * 5, strict=False):
        axes.axhline(level, color="0.4", linestyle=style, linewidth=1, label=label)
    axes.set_xscale("log")
    axes.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    axes.xaxis.set_major_formatter("{x:g}")
    axes.xaxis.set_minor_formatter(NullFormatter())
    units = {"BPFE": "bits per feature element (whole bitstream)"}
    axes.set(xlabel=units.get(x, x), ylabel=y, title=title)
    axes.set_ylim(bottom=0)
    axes.grid(True, which="both", alpha=0.25)
    axes.legend(fontsize="small")
    figure.savefig(f"{path}.png", dpi=120)
    figure.savefig(f"{path}.svg", metadata={"Date": None})
