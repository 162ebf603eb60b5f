"""The report of a plan as one HTML file that needs no network: interactive curves, tables, pictures."""

import base64
import csv
import html
import json
import logging
import os

from ..evaluation.tradeoff import OF_MEANS
from ..files import write_text

__all__ = ["make_figure", "write_html_report"]

_RATES = ("kB/image", "bits/pixel", "BPFE")
_COLOURS = ("#1f77b4", "#d62728", "#2ca02c", "#9467bd", "#ff7f0e", "#8c564b", "#e377c2", "#17becf")
_MOST_PICTURES = 8


def write_html_report(report, path):
    """Writes the report; where plotly is not installed, logs how to get it and writes none.

    Args:
        report (Report): of what was measured; pictures are those in the folder "pictures" of its output.
        path (str): of the file.

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
    plot = figure.to_html(full_html=False, include_plotlyjs=True)
    means, _ = report.means()
    parts = [
        ("Rate and quality", plot),
        ("Results", _make_table(means, _list_columns(means))),
        ("More bits for the same quality (BD-rate, percent)", _make_bd_rates(report.bd_rates())),
        ("Bytes of each image", _make_image_table(os.path.join(report.output, "per_image.csv"))),
        ("Pictures", _make_pictures(os.path.join(report.output, "pictures"))),
    ]
    body = "".join(f"<h2>{html.escape(head)}</h2>\n{text}\n" for head, text in parts if text)
    write_text(_PAGE.replace("@TITLE@", html.escape(report.plan.title)).replace("@BODY@", body), path)
    return True


def make_figure(report):
    """Makes the plot: a line a curve, a dashed one for each network that is not split. Menus choose the
    columns of both axes, and a logarithmic rate.

    Args:
        report (Report): of what was measured.

    Returns:
        plotly.graph_objects.Figure

    Raises:
        ImportError: plotly is not installed.
    """
    from plotly import graph_objects

    rows, curves = report.means()[0], report.plan.curves
    qualities = report.qualities()
    rates = [rate for rate in _RATES if any(rate in row for row in rows.values())]
    lines = []
    for curve in curves:
        names = [point.label for point in curve.points if point.label in rows]
        lines.append((curve, list(dict.fromkeys(names))))
    lines = [(curve, names) for curve, names in lines if names]
    levels = [label for label in dict.fromkeys(p.label for p in report.plan.levels) if label in rows]

    def along(rate):
        """Of each trace, the rates of its points."""
        found = [
            [rows[name].get(rate) if rate != "BPFE" or curve.sends_features else None for name in names]
            for curve, names in lines
        ]
        known = [value for values in found for value in values if value is not None]
        ends = [min(known), max(known)] if known else [None, None]
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
    menus = [
        [(rate, "update", [{"x": along(rate)}, {"xaxis.title.text": rate}]) for rate in rates],
        [(name, "update", [{"y": up(name)}, {"yaxis.title.text": name}]) for name in qualities],
        [(f"{kind} rate", "relayout", [{"xaxis.type": kind}]) for kind in ("linear", "log")],
    ]
    figure.update_layout(
        xaxis_title=rates[0],
        yaxis_title=qualities[0],
        template="plotly_white",
        height=560,
        margin={"t": 80},
        updatemenus=[
            {
                "buttons": [{"label": n, "method": method, "args": args} for n, method, args in menu],
                "x": 0.22 * place,
                "xanchor": "left",
                "y": 1.16,
            }
            for place, menu in enumerate(menus)
        ],
    )
    return figure


def _describe(name, row):
    values = [f"{column}: {value:.4g}" for column, value in row.items()]
    return "<br>".join(html.escape(line) for line in (name, *values))


def _list_columns(rows):
    return list(dict.fromkeys(column for row in rows.values() for column in row))


def _make_table(rows, columns):
    """A table of {name: {column: number}}, which a click on a head sorts."""
    heads = "".join(f"<th>{html.escape(column)}</th>" for column in ("setting", *columns))
    lines = [
        f"<tr><td>{html.escape(name)}</td>"
        + "".join(f"<td>{row[c]:.5g}</td>" if c in row else "<td>-</td>" for c in columns)
        + "</tr>"
        for name, row in rows.items()
    ]
    return f'<table class="sorted"><tr>{heads}</tr>{"".join(lines)}</table>'


def _make_bd_rates(bd_rates):
    """A table of tests and anchors for each quality; what is not defined tells why when pointed at."""
    several = any(entry["seed"] == OF_MEANS for entry in bd_rates)
    found = {
        (entry["column"], entry["test"], entry["anchor"]): entry
        for entry in bd_rates
        if not several or entry["seed"] == OF_MEANS
    }
    text = ""
    for column in dict.fromkeys(key[0] for key in found):
        tests = dict.fromkeys(test for quality, test, _ in found if quality == column)
        anchors = dict.fromkeys(anchor for quality, _, anchor in found if quality == column)
        heads = "".join(f"<th>{html.escape(anchor)}</th>" for anchor in anchors)
        lines = ""
        for test in tests:
            cells = "".join(_make_bd_cell(found.get((column, test, anchor))) for anchor in anchors)
            lines += f"<tr><td>{html.escape(test)}</td>{cells}</tr>"
        head = f"<th>{html.escape(column)}, against</th>"
        text += f"<table><tr>{head}{heads}</tr>{lines}</table>"
    return text


def _make_bd_cell(entry):
    if entry is None:
        return "<td></td>"
    percent, note = entry["percent"], html.escape(entry["note"] or "", quote=True)
    shown = "-" if percent != percent else f"{percent:+.1f}"
    return f'<td title="{note}">{shown}{" *" if note and percent == percent else ""}</td>'


def _make_image_table(path):
    """The bytes of each image, at a setting that is chosen above the table."""
    try:
        with open(path, newline="", encoding="utf-8") as file:
            rows = list(csv.DictReader(file))
    except FileNotFoundError:
        return ""
    sizes = {}
    for row in rows:
        sizes.setdefault(row["setting"], []).append([os.path.basename(row["image"]), int(row["bytes"])])
    if not sizes:
        return ""
    data = json.dumps(sizes).replace("<", "\\u003c")
    table = "<select id=setting></select><table class=sorted id=images></table>"
    return f"{table}<script>const SIZES = {data};</script>"


def _make_pictures(folder):
    if not os.path.isdir(folder):
        return ""
    names = sorted(name for name in os.listdir(folder) if name.endswith(".png"))[:_MOST_PICTURES]
    text = ""
    for name in names:
        with open(os.path.join(folder, name), "rb") as file:
            data = base64.b64encode(file.read()).decode()
        text += (
            f"<figure><img src='data:image/png;base64,{data}' alt='{html.escape(name, quote=True)}'>"
            f"<figcaption>{html.escape(name)}</figcaption></figure>"
        )
    return text


_PAGE = """<!DOCTYPE html>
<html lang="en"><head><meta charset="utf-8"><title>@TITLE@</title>
<style>
body { font: 15px sans-serif; margin: 2em auto; max-width: 1200px; color: #222; }
table { border-collapse: collapse; margin: 1em 0; }
th, td { padding: .3em .7em; border-bottom: 1px solid #ddd; text-align: right; }
th:first-child, td:first-child { text-align: left; }
.sorted th { cursor: pointer; }
img { max-width: 100%; }
#images { display: block; max-height: 24em; overflow: auto; }
</style></head><body>
<h1>@TITLE@</h1>
@BODY@
<script>
const value = cell => {
  const number = parseFloat(cell.textContent);
  return isNaN(number) ? cell.textContent : number;
};
document.addEventListener("click", event => {
  const head = event.target.closest(".sorted th");
  if (!head) return;
  const rows = [...head.closest("table").rows].slice(1), column = head.cellIndex;
  const down = head.dataset.down !== "1";
  head.dataset.down = down ? "1" : "0";
  rows.sort((a, b) => {
    const [x, y] = [value(a.cells[column]), value(b.cells[column])];
    return (x < y ? -1 : x > y ? 1 : 0) * (down ? -1 : 1);
  });
  rows.forEach(row => row.parentNode.append(row));
});
const select = document.getElementById("setting");
if (select) {
  const show = () => {
    const table = document.getElementById("images");
    table.innerHTML = "<tr><th>image</th><th>bytes</th></tr>";
    [...SIZES[select.value]].sort((a, b) => b[1] - a[1]).forEach(([name, bytes]) => {
      const row = table.insertRow();
      row.insertCell().textContent = name;
      row.insertCell().textContent = bytes;
    });
  };
  Object.keys(SIZES).forEach(name => select.add(new Option(name, name)));
  select.onchange = show;
  show();
}
</script>
</body></html>
"""
