"""Rate against accuracy: the table and the plot of a comparison."""

import itertools
import math
import statistics
import textwrap

import numpy as np
from tabulate import tabulate

from .. import files

__all__ = [
    "AP_COLUMNS",
    "COLUMNS",
    "DEFAULT_COLUMNS",
    "TABLE_HEADS",
    "average_rows",
    "deviation",
    "find_rate_for_accuracy",
    "format_results",
    "format_table",
    "list_other_metrics",
    "make_rows",
    "plot_curves",
    "write_csv",
]

# Column -> (result group, metric, decimals).
COLUMNS = {
    "box AP": ("bbox", "AP", 1),
    "box AP50": ("bbox", "AP50", 1),
    "mask AP": ("segm", "AP", 1),
    "keypoint AP": ("keypoints", "AP", 1),
    "PQ": ("panoptic_seg", "PQ", 1),
    "mIoU": ("sem_seg", "mIoU", 1),
    "IRMSE": ("disparity", "IRMSE", 4),
    "RMSE": ("disparity", "RMSE", 2),
    "PSNR": ("reconstruction", "PSNR", 2),
    "BPFE": ("feature_rate", "BPFE", 5),
    "BPFE packed": ("feature_rate", "BPFE_packed", 5),
    "bits/pixel": ("feature_rate", "bpp", 3),
    "kB/image": ("feature_rate", "kB", 3),
    "times smaller": ("feature_rate", "times_smaller", 0),
}

# Those of average precision, of which intervals are known.
AP_COLUMNS = ("box AP", "box AP50", "mask AP", "keypoint AP")

# Of tables that are shown.
TABLE_HEADS = {"BPFE packed": "BPFE fixed-length", "times smaller": "compression ratio"}

DEFAULT_COLUMNS = tuple(column for column in COLUMNS if column != "box AP50")


def make_rows(results):
    """Makes the rows of a table of results.

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


def list_other_metrics(results):
    """Lists what was measured in groups without a column in :data:`COLUMNS`, such as another project's.

    Args:
        results (dict): setting name -> {group: {metric: value}}.

    Returns:
        dict: setting name -> {"group/metric": float}.
    """
    known = {group for group, _, _ in COLUMNS.values()}
    return {
        name: {
            f"{group}/{metric}": float(value)
            for group, metrics in groups.items()
            if group not in known
            for metric, value in metrics.items()
            if isinstance(value, (int, float))
        }
        for name, groups in results.items()
    }


def format_results(results):
    """Formats what was measured as a table with a row a setting, see :func:`format_table`.

    Args:
        results (dict): setting name -> {group: {metric: value}}.
    """
    rows, more = make_rows(results), list_other_metrics(results)
    columns = [*DEFAULT_COLUMNS, *dict.fromkeys(column for row in more.values() for column in row)]
    return format_table({name: {**row, **more[name]} for name, row in rows.items()}, columns)


def _measured(columns, rows):
    return [column for column in columns if any(column in row for row in rows.values())]


def average_rows(repeats):
    """Averages rows over seeds.

    Args:
        repeats (dict): name -> list of rows of one setting, measured with different seeds.

    Returns:
        (dict, dict): name -> means; name -> standard deviations of a sample, empty for single rows. Both
        of the columns that all rows of the name have.
    """
    means, spreads = {}, {}
    for name, rows in repeats.items():
        columns = [column for column in rows[0] if all(column in row for row in rows)]
        values = {column: [row[column] for row in rows] for column in columns}
        means[name] = {column: statistics.fmean(values[column]) for column in columns}
        several = columns if len(rows) > 1 else ()
        spreads[name] = {column: deviation(values[column]) for column in several}
    return means, spreads


def deviation(values):
    """Standard deviation of a sample; NaN if a value is not finite."""
    return statistics.stdev(values) if all(map(math.isfinite, values)) else math.nan


def format_table(rows, columns=DEFAULT_COLUMNS, spreads=None):
    """Formats rows as a table.

    Args:
        rows (dict): as :func:`make_rows` gives.
        columns (sequence[str]): of :data:`COLUMNS`, to show where they were measured.
        spreads (dict or None): as :func:`average_rows` gives, shown after a plus-minus sign.

    Returns:
        str: in Markdown; a dash where something was not measured.
    """
    columns = _measured(columns, rows)
    spreads = spreads or {}
    cells = [
        [name, *(_cell(column, row, spreads.get(name, {})) for column in columns)]
        for name, row in rows.items()
    ]
    align = ("left", *("right" for _ in columns))
    head = ["setting", *(TABLE_HEADS.get(column, column) for column in columns)]
    return tabulate(cells, head, tablefmt="pipe", colalign=align, disable_numparse=True)


def _cell(column, row, spread):
    if column not in row:
        return "-"
    decimals = COLUMNS[column][2] if column in COLUMNS else 4
    cell = f"{row[column]:.{decimals}f}"
    return f"{cell} ± {spread[column]:.{decimals}f}" if column in spread else cell


def write_csv(rows, path):
    """Writes the rows with all their digits, in one piece; columns not in :data:`COLUMNS` come last."""
    others = dict.fromkeys(column for row in rows.values() for column in row if column not in COLUMNS)
    columns = [*_measured(COLUMNS, rows), *others]
    lines = ([name, *(row.get(column, "") for column in columns)] for name, row in rows.items())
    files.write_csv(["setting", *columns], lines, path)


def find_rate_for_accuracy(rates, accuracies, accuracy):
    """Interpolates the lowest rate at which a curve reaches an accuracy, by the logarithm of the rate.

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


_TITLE_WIDTH = 64  # characters of a line
_LEGEND_INSIDE = 6  # entries of a legend that leave room for the curves
_UNITS = {
    "box AP": "box AP (%)",
    "box AP50": "box AP50 (%)",
    "mask AP": "mask AP (%)",
    "keypoint AP": "keypoint AP (%)",
    "PQ": "PQ (%)",
    "BPFE": "bits per feature element (whole bitstream)",
    "bits/pixel": "bits per pixel of the original image (whole bitstream)",
    "mIoU": "mIoU (%)",
    "IRMSE": "IRMSE (1 / px)",
    "RMSE": "RMSE (px)",
    "PSNR": "PSNR (dB)",
}


def plot_curves(
    curves, levels, path, *, x="BPFE", y="box AP", title="", repeats=None, anchors=frozenset()
):
    """Plots accuracy against rate, the rate on a logarithmic axis. Both axes begin where the data do.

    Args:
        curves (dict): label -> list of rows, each with the columns `x` and `y`; drawn by rising `x`.
        levels (dict): label -> value of `y`, drawn as a horizontal line: what has no rate.
        path (str): without suffix; `.png` and `.svg` are written.
        x, y (str): columns of :data:`COLUMNS`.
        title (str): above the plot.
        repeats (dict or None): label -> list of curves that one of `curves` is the mean of, drawn
            faintly.
        anchors (set[str]): labels of curves that others are compared with, drawn with broken lines.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.backends.backend_svg import FigureCanvasSVG
    from matplotlib.figure import Figure
    from matplotlib.ticker import LogLocator, NullFormatter

    entries = len(curves) + len(levels)
    size = (7 if entries <= _LEGEND_INSIDE else 9.5, 4.5)
    figure = Figure(figsize=size, dpi=120, layout="constrained")
    axes = figure.add_subplot()
    for (label, rows), marker in zip(curves.items(), itertools.cycle("os^Dvp*XPhd<>"), strict=False):
        (line,) = axes.plot(
            *_points(rows, x, y),
            marker=marker,
            markersize=5,
            linestyle="--" if label in anchors else "-",
            markerfacecolor="none" if label in anchors else None,
            label=label,
        )
        for repeat in (repeats or {}).get(label, ()):
            axes.plot(*_points(repeat, x, y), color=line.get_color(), linewidth=0.8, alpha=0.4)
    for (label, level), style in zip(levels.items(), itertools.cycle(("--", ":", "-.")), strict=False):
        axes.axhline(level, color="0.4", linestyle=style, linewidth=1, label=label)
    axes.set_xscale("log")
    axes.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    axes.xaxis.set_major_formatter("{x:g}")
    axes.xaxis.set_minor_formatter(NullFormatter())
    axes.set(xlabel=_UNITS.get(x, x), ylabel=_UNITS.get(y, y))
    axes.set_title(textwrap.fill(title, _TITLE_WIDTH))
    axes.margins(y=0.08)
    axes.grid(True, which="both", alpha=0.25)
    if 0 < entries <= _LEGEND_INSIDE:
        axes.legend(fontsize="small")
    elif entries:
        figure.legend(loc="outside right upper", fontsize="small")
    # Figure.savefig would draw twice, and find the layout each time.
    FigureCanvasAgg(figure).print_png(f"{path}.png")
    figure.set_layout_engine("none")
    figure.dpi = 72
    FigureCanvasSVG(figure).print_svg(f"{path}.svg", metadata={"Date": None})


def _points(rows, x, y):
    return zip(*sorted((row[x], row[y]) for row in rows), strict=True)
