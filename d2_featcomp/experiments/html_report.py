"""The report of a plan as one HTML file that needs no network: interactive curves, tables, pictures."""

import base64
import html
import io
import logging
import math
import os

from PIL import Image

from ..evaluation.bd_rate_tables import group_bd_rates, summarize_bd_rate
from ..evaluation.tradeoff import COLUMNS, TABLE_HEADS
from ..files import write_text
from .html_page import fill_page
from .image_rows import collect_image_rows
from .strict_json import format_json

__all__ = ["MOST_PICTURES", "make_figure", "write_html_report"]

_RATES = ("kB/image", "bits/pixel", "BPFE")
_COLOURS = ("#1f77b4", "#d62728", "#2ca02c", "#9467bd", "#ff7f0e", "#8c564b", "#e377c2", "#17becf")
_SYMBOLS = ("circle", "square", "triangle-up", "diamond", "triangle-down", "pentagon", "cross")
MOST_PICTURES = 8
_TICK_VALUES = [k * 10.0**power for power in range(-6, 7) for k in (1, 2, 5)]
_TICKS = {
    "linear": {"xaxis.tickmode": "auto"},
    "log": {  # Plotly's own leave the power of ten out: 2 for 0.2
        "xaxis.tickmode": "array",
        "xaxis.tickvals": _TICK_VALUES,
        "xaxis.ticktext": [f"{value:g}" for value in _TICK_VALUES],
    },
}
_WIDE = 10  # ratio of rates from which on their axis is logarithmic at first


def write_html_report(report, path, panels=None):
    """Writes the report; where plotly is not installed, logs how to get it and writes none.

    Args:
        report (Report): of what was measured; pictures are in the folder "pictures" of its output.
        path (str): of the file.
        panels (dict or None): name of a picture to show -> list of (caption, (H, W, 3) uint8 RGB); two
            of them are shown with a slider between, instead of the picture. Others are not shown.

    Returns:
        bool: whether it was written.

    Raises:
        OSError: the disk is full or not writable.
    """
    try:
        figure = make_figure(report)
    except ImportError:
        logging.getLogger("d2_featcomp").info("%s needs plotly: pip install plotly", path)
        return False
    plot = _make_plot(figure) if figure else ""
    means, _ = report.means()
    sections = [
        ("Rate and quality", plot),
        ("Results", _make_table(means, _list_columns(means)) + _explain(_list_columns(means))),
        ("More bits for the same quality (BD-rate, percent)", _make_bd_rates(report.bd_rates())),
        ("Each image", _make_image_table(report)),
        ("Pictures", _make_pictures(os.path.join(report.output, "pictures"), panels or {})),
    ]
    write_text(fill_page(report.plan.title, sections), path)
    return True


def _make_plot(figure):
    """HTML of a figure, whose menus become the page's own: Plotly's cover each other in narrow ones."""
    menus = [
        {
            "id": f"plot-{name}",
            "active": menu.active or 0,
            "buttons": [
                {"label": html.unescape(b.label), "method": b.method, "args": b.args}
                for b in menu.buttons
            ],
        }
        for name, menu in zip(("rate", "quality", "scale"), figure.layout.updatemenus, strict=True)
    ]
    figure.layout.updatemenus = ()
    plot = figure.to_html(
        full_html=False,
        include_plotlyjs=True,
        config={
            "responsive": True,
            "displaylogo": False,
            "modeBarButtonsToRemove": ["lasso2d", "select2d"],
        },
    )
    return (
        "<div class='menus'><label>Rate <select id='plot-rate'></select></label> "
        "<label>quality <select id='plot-quality'></select></label> "
        "<label>axis of the rate <select id='plot-scale'></select></label></div>"
        f"{plot}<script type='application/json' id='plot-data'>{_to_json(menus)}</script>"
    )


def _to_json(data):
    """JSON that can stand in a script element."""
    return format_json(data).replace("<", "\\u003c")


def make_figure(report):
    """Makes the plot: a line a curve, by rising rate, and a dashed one for each network that is not
    split. Menus choose the columns of both axes, and a logarithmic rate.

    Args:
        report (Report): of what was measured.

    Returns:
        plotly.graph_objects.Figure or None: no rate or no quality was measured.

    Raises:
        ImportError: plotly is not installed.
    """
    from plotly import graph_objects

    rows, ys = report.means()[0], report.plan.ys
    first = (report.plan.x, ys[0]) if ys else ()  # the axes that the plan asks for, if it asks for any
    qualities = sorted(report.qualities(), key=lambda name: name not in first)
    rates = [rate for rate in _RATES if any(rate in row for row in rows.values())]
    rates.sort(key=lambda rate: rate not in first)
    if not rates or not qualities:
        return None
    lines = []
    for curve in report.plan.curves:
        names = dict.fromkeys(point.label for point in curve.points if point.label in rows)
        if names:
            rising = sorted(names, key=lambda name: rows[name].get(rates[0], math.inf))
            lines.append((curve, rising))
    levels = [label for label in dict.fromkeys(p.label for p in report.plan.levels) if label in rows]

    def along(rate):
        """Of each trace, the rates of its points."""
        found = [[rows[name].get(rate) for name in names] for _, names in lines]
        known = [value for values in found for value in values if value is not None]
        ends = [min(known), max(known)] if known else [None, None]
        if known and ends[0] == ends[1]:
            ends = [0.9 * ends[0], 1.1 * ends[1]]  # a line of some length
        return found + [ends] * len(levels)

    def up(quality):
        """Of each trace, the qualities of its points."""
        found = [[rows[name].get(quality) for name in names] for _, names in lines]
        return found + [[rows[label].get(quality)] * 2 for label in levels]

    figure = graph_objects.Figure()
    for number, (curve, names) in enumerate(lines):
        figure.add_scatter(
            name=html.escape(curve.name),
            mode="lines+markers",
            line={"color": _COLOURS[number % len(_COLOURS)], "dash": "dot" if curve.anchor else "solid"},
            marker={"size": 9, "symbol": _SYMBOLS[number % len(_SYMBOLS)]},  # a curve may be one point
            hovertext=[_describe(name, rows[name]) for name in names],
            hoverinfo="text",
        )
    for label in levels:
        figure.add_scatter(
            name=html.escape(label),
            mode="lines",
            line={"color": "black", "dash": "dash"},
            hovertext=[_describe(label, rows[label])] * 2,
            hoverinfo="text",
        )
    for trace, x, y in zip(figure.data, along(rates[0]), up(qualities[0]), strict=True):
        trace.x, trace.y = x, y
    escape = html.escape
    _add_menus(
        figure,
        [(rate, "update", [{"x": along(rate)}, {"xaxis.title.text": rate}]) for rate in rates],
        [(escape(q), "update", [{"y": up(q)}, {"yaxis.title.text": escape(q)}]) for q in qualities],
        [(kind, "relayout", [{"xaxis.type": kind, **_TICKS[kind]}]) for kind in ("linear", "log")],
    )
    figure.update_layout(xaxis_title=rates[0], yaxis_title=escape(qualities[0]))
    shown = [value for values in along(rates[0]) for value in values if value]
    if shown and max(shown) > _WIDE * min(shown):  # else all but the largest are in one place
        figure.update_layout(figure.layout.updatemenus[-1].buttons[1].args[0])
        figure.layout.updatemenus[-1].active = 1
    return figure


def _add_menus(figure, *menus):
    """Adds menus of (label, plotly's method, its arguments)."""
    figure.update_layout(
        template="plotly_white",
        height=520,
        updatemenus=[
            {
                "buttons": [{"label": n, "method": method, "args": args} for n, method, args in menu],
            }
            for menu in menus
        ],
    )


def _describe(name, row):
    values = [f"{column}: {value:.4g}" for column, value in row.items()]
    return "<br>".join(html.escape(line) for line in (name, *values))


def _list_columns(rows):
    return list(dict.fromkeys(column for row in rows.values() for column in row))


def _make_table(rows, columns):
    """A table of {name: {column: number}}, which a click on a head sorts."""
    heads = "".join(
        f"<th>{html.escape(TABLE_HEADS.get(column, column))}</th>" for column in ("setting", *columns)
    )
    lines = [
        f"<tr><td>{html.escape(name)}</td>"
        + "".join(f"<td>{_format_value(c, row.get(c, math.nan))}</td>" for c in columns)
        + "</tr>"
        for name, row in rows.items()
    ]
    return f'<div class="wide"><table class="sorted"><tr>{heads}</tr>{"".join(lines)}</table></div>'


def _format_value(column, value):
    """With the decimals of the tables on the terminal."""
    if math.isnan(value):
        return "-"
    return f"{value:.{COLUMNS[column][2]}f}" if column in COLUMNS else f"{value:.4g}"


_MEANINGS = {  # of columns that not everybody knows
    "box AP": "average precision as COCO defines it, in percent: how many objects are found and how "
    "well their boxes fit, the mean over overlaps (IoU) of 50 to 95 percent; box AP50: of 50 percent "
    "alone; mask AP: of the masks",
    "BPFE": "bits per element of the features at the split point, before they are reduced",
    "BPFE packed": "the same without entropy coding, with as many bits for each value",
    "kB/image": "all bytes that are sent for an image, in 1000 bytes",
    "times smaller": "of the features as 32-bit floats to what is sent",
}
_QUALITY = (
    "in the codec's own scale: of JPEG and AVIF larger is better; of HEVC it is QP, of JPEG XL the "
    "distance, where smaller is better"
)


def _explain(columns):
    """A line below a table for each of its columns that has a meaning to tell."""
    lines = [
        f"<dt>{TABLE_HEADS.get(c, c)}</dt><dd>{_MEANINGS[c]}</dd>" for c in columns if c in _MEANINGS
    ]
    if not lines:
        return ""
    lines.append(f"<dt>quality, of a setting</dt><dd>{_QUALITY}</dd>")
    return f"<details><summary>What the columns mean</summary><dl>{''.join(lines)}</dl></details>"


def _make_bd_rates(bd_rates):
    """A table of tests and anchors for each quality, and below them why some are not defined or
    uncertain; each of those tells its own reason when pointed at, and with seeds their values."""
    found = {}
    for (test, anchor, *by), entries in group_bd_rates(bd_rates).items():
        found.setdefault(tuple(by), {})[test, anchor] = summarize_bd_rate(entries)
    text = ""
    for by, summaries in found.items():
        tests, anchors = (dict.fromkeys(names) for names in zip(*summaries, strict=True))
        heads = "".join(f"<th>{html.escape(anchor)}</th>" for anchor in anchors)
        lines = ""
        for test in tests:
            cells = "".join(_make_bd_cell(summaries.get((test, anchor))) for anchor in anchors)
            lines += f"<tr><td>{html.escape(test)}</td>{cells}</tr>"
        head = f"<th>{html.escape(_describe_bd_rate(by, found))}, against</th>"
        text += f"<div class='wide'><table><tr>{head}{heads}</tr>{lines}</table></div>"
    every = [summary for summaries in found.values() for summary in summaries.values()]
    notes = dict.fromkeys(html.escape(summary.note) for summary in every if summary.note)
    about = ["- is not defined, * uncertain:<br>" + "<br>".join(notes)] if notes else []
    if any(not math.isnan(summary.deviation) for summary in every):
        about.insert(0, "Means of the seeds ± standard deviation; cells that are pointed at tell each.")
    below = "".join(f"<p>{line}</p>" for line in about)
    return f"<div class='beside'>{text}</div>{below}" if text else ""


def _describe_bd_rate(by, others):
    """str: the quality, and where it is compared twice also in how many points and by which method."""
    column, points, method = by
    several = sum(other == column for other, *_ in others) > 1
    return f"{column} ({points} points, {method})" if several else column


def _make_bd_cell(summary):
    if summary is None:
        return "<td></td>"
    shown = "-" if math.isnan(summary.mean) else f"{summary.mean:+.1f}"
    told = []
    if not math.isnan(summary.deviation):
        shown += f" ± {summary.deviation:.1f}"
        low, high = summary.interval
        told.append(f"95 % interval of the mean {low:+.1f} to {high:+.1f}")
    if len(summary.each) > 1:
        values = ", ".join("-" if math.isnan(value) else f"{value:+.1f}" for value in summary.each)
        told.append(f"each {values}")
    if not math.isnan(summary.of_means):
        told.append(f"of mean curves {summary.of_means:+.1f}")
    if summary.note:
        told.append(summary.note)
        shown += "" if math.isnan(summary.mean) else " *"
    return f'<td title="{html.escape("; ".join(told), quote=True)}">{shown}</td>'


def _make_image_table(report):
    """The bytes of each image at a setting, and what it loses against another; menus choose both."""
    found = collect_image_rows(report)
    settings = list(found["settings"])
    if not settings:
        return ""
    plan = report.plan
    ours = [p.name for curve in plan.curves if not curve.anchor for p in curve.points]
    levels = [point.label for point in plan.levels]
    labels = {name: plan.points[name].label for name in settings}
    chosen = next((name for name in settings if labels[name] in ours), settings[0])
    data = {
        **found,
        "chosen": chosen,
        "reference": next((name for name in settings if labels[name] in levels), settings[0]),
    }
    column = html.escape(found["column"])
    about = (
        f"<p>{column} of an image is that of its own objects alone (-: it has none), "
        "and the loss how much lower it is than at the other setting.</p>"
        if column
        else ""
    )
    return (
        "<div class='menus'><label>Setting <select id='setting'></select></label> "
        "<label>compared with <select id='reference'></select></label></div>"
        f"{about}<div class='scrolled'><table class='sorted' id='images'></table></div>"
        f"<script type='application/json' id='image-data'>{_to_json(data)}</script>"
    )


def _make_pictures(folder, panels):
    """Those of a folder that `panels` names; where it has several, two on one another with a slider."""
    names = sorted(panels, key=lambda name: (not panels[name], name))[:MOST_PICTURES]
    text = ""
    for name in names:
        if len(panels[name]) > 1:
            shown = _make_slider(panels[name])
        else:
            with open(os.path.join(folder, name), "rb") as file:
                shown = f"<figure>{_embed(file.read(), name)}"
        text += f"{shown}<figcaption>{html.escape(name)}</figcaption></figure>"
    return f"<div class='pictures'>{text}</div>" if text else ""


def _make_slider(panels):
    # Of truth, not split, split, image of as many bytes: the second and third; of truth, split: both.
    left = max(0, len(panels) - 3)
    menus, pictures = "", ""
    for side, chosen in (("left", left), ("right", left + 1)):
        options = "".join(
            f"<option{' selected' if place == chosen else ''}>{html.escape(caption)}</option>"
            for place, (caption, _) in enumerate(panels)
        )
        menus += f"<label>{side} <select>{options}</select></label> "
    for caption, picture in panels:
        data = io.BytesIO()
        Image.fromarray(picture).save(data, "PNG")
        pictures += _embed(data.getvalue(), caption)
    slider = "<input type='range' value='50' aria-label='where the left picture ends, percent'>"
    return (
        f"<figure class='compared'><div class='menus'>{menus}</div>"
        f"<div class='stack'>{slider}{pictures}</div>"
    )


def _embed(data, text):
    data = base64.b64encode(data).decode()
    return f"<img src='data:image/png;base64,{data}' alt='{html.escape(text)}'>"
