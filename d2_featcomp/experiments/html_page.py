"""The frame, style and script of report.html."""

import html

__all__ = ["fill_page"]


def fill_page(title, sections):
    """Composes the page.

    Args:
        title (str): plain text.
        sections (list[(str, str)]): head as plain text, and content as HTML; empty ones are left out.

    Returns:
        str: HTML.
    """
    body = "".join(f"<h2>{html.escape(head)}</h2>\n{text}\n" for head, text in sections if text)
    return "".join([_HEAD.replace("@TITLE@", html.escape(title)), body, _TAIL])


_HEAD = """<!DOCTYPE html>
<html lang="en"><head><meta charset="utf-8"><title>@TITLE@</title>
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta name="color-scheme" content="light dark">
<style>
:root { --back: #fff; --text: #1c2330; --soft: #5a6475; --line: #dfe3e9; --accent: #1f6fd6; }
@media (prefers-color-scheme: dark) {
  :root { --back: #151a21; --text: #e6e9ef; --soft: #9aa5b5; --line: #323b49; --accent: #6aaeff; }
}
* { box-sizing: border-box; }
body { font: 15px/1.45 system-ui, sans-serif; margin: 2em auto; max-width: 1240px; padding: 0 20px;
  background: var(--back); color: var(--text); }
h1 { font-size: 24px; line-height: 1.25; }
h2 { font-size: 18px; margin: 2em 0 .6em; padding-top: .6em; border-top: 1px solid var(--line); }
p { color: var(--soft); max-width: 75ch; }
summary { color: var(--soft); cursor: pointer; margin: .8em 0; }
dt { font-weight: 600; }
dd { margin: 0 0 .4em 1.2em; max-width: 75ch; }
table { border-collapse: collapse; font-variant-numeric: tabular-nums; font-size: 14px; }
th, td { padding: .3em .7em; border-bottom: 1px solid var(--line); text-align: right; }
th { color: var(--soft); vertical-align: bottom; }
tr:first-child th { position: sticky; top: 0; background: var(--back); }
th:first-child, td:first-child { text-align: left; min-width: 9em; }
tbody tr:hover td { background: color-mix(in srgb, var(--accent) 12%, transparent); }
td[title]:not([title=""]) { cursor: help; text-decoration: underline dotted; }
.sorted th { cursor: pointer; white-space: nowrap; }
.sorted th[aria-sort=ascending]::after { content: " \\25b2"; }
.sorted th[aria-sort=descending]::after { content: " \\25bc"; }
.wide { overflow-x: auto; max-width: 100%; }
.beside { display: flex; flex-wrap: wrap; gap: 1em 3em; align-items: start; }
.scrolled { max-height: 24em; overflow: auto; }
.menus { display: flex; flex-wrap: wrap; gap: .5em 1.2em; margin: .6em 0; }
.menus label { display: flex; align-items: baseline; gap: .4em; min-width: 0; max-width: 100%; }
.menus select { min-width: 0; }
select { font: inherit; color: inherit; background: var(--back); max-width: 100%;
  border: 1px solid var(--line); border-radius: 5px; padding: .15em .3em; }
input { accent-color: var(--accent); }
figure { margin: 1em 0 2em; }
figcaption { color: var(--soft); font-size: 13px; }
img { max-width: 100%; height: auto; }
.pictures { display: grid; gap: 0 2em; }
.pictures { grid-template-columns: repeat(auto-fit, minmax(min(520px, 100%), 1fr)); }
.pictures figure { min-width: 0; }
.stack { display: inline-grid; grid-template-columns: minmax(0, max-content); max-width: 100%; }
.stack img { grid-area: 2 / 1; }
.stack input { grid-area: 1 / 1; width: 100%; margin: 0 0 .5em; }
</style></head><body>
<h1>@TITLE@</h1>
"""

_TAIL = """<script>
const read = cell => {
  const text = cell.textContent.replace(" *", "");
  return text === "-" || text === "" ? null : text === "inf" ? Infinity : Number(text);
};
const sort = (table, column, down) => {
  const rows = [...table.rows].slice(1);
  const values = new Map(rows.map(row => [row, read(row.cells[column])]));
  const texts = [...values.values()].some(Number.isNaN);
  rows.sort((a, b) => {
    const [x, y] = [values.get(a), values.get(b)];
    if (x === null || y === null) return (x === null) - (y === null);
    const names = [a, b].map(row => row.cells[column].textContent);
    const order = texts ? names[0].localeCompare(names[1], "en", { numeric: true })
      : x === y ? 0 : x < y ? -1 : 1;
    return down ? -order : order;
  });
  rows.forEach(row => row.parentNode.append(row));
  [...table.rows[0].cells].forEach((head, place) => {
    head.ariaSort = place !== column ? "none" : down ? "descending" : "ascending";
  });
  table.order = [column, down];
};
document.addEventListener("click", event => {
  const head = event.target.closest(".sorted th");
  if (!head) return;
  const table = head.closest("table"), column = head.cellIndex;
  const [last, down] = table.order || [];
  sort(table, column, last === column ? !down : column > 0);
});

const data = document.getElementById("image-data");
if (data) {
  const { column, images, settings, chosen, reference } = JSON.parse(data.textContent);
  const table = document.getElementById("images");
  const menus = ["setting", "reference"].map(id => document.getElementById(id));
  const minus = (a, b) => a === null || b === null ? null : a - b;
  const show = () => {
    const [own, other] = menus.map(menu => settings[menu.value]);
    table.textContent = "";
    const add = (tag, values) => {
      const row = table.insertRow();
      values.forEach(value => {
        row.append(Object.assign(document.createElement(tag), { textContent: value ?? "-" }));
      });
    };
    add("th", ["image", "bytes", "difference in bytes", ...column ? [column, "loss"] : []]);
    images.forEach((image, n) => {
      const loss = minus(other.quality[n], own.quality[n]);
      const rest = column ? [own.quality[n], loss === null ? null : loss.toFixed(1)] : [];
      add("td", [image, own.bytes[n], minus(own.bytes[n], other.bytes[n]), ...rest]);
    });
    sort(table, ...table.order || [column ? 4 : 1, true]);
  };
  menus.forEach((menu, place) => {
    Object.keys(settings).forEach(name => menu.add(new Option(name, name)));
    menu.value = [chosen, reference][place];
    menu.onchange = show;
  });
  show();
}

const plot = document.querySelector(".plotly-graph-div");
if (plot) {
  const dark = matchMedia("(prefers-color-scheme: dark)"), narrow = matchMedia("(max-width: 760px)");
  const lighter = colour => "#" + [1, 3, 5].map(place => {
    const value = parseInt(colour.slice(place, place + 2), 16);
    return Math.round(0.65 * value + 0.35 * 255).toString(16);
  }).join("");
  const own = plot.data.map(({ line: { dash, color } }) => dash === "dash" ? null : color);
  const paint = () => {
    const style = getComputedStyle(document.documentElement);
    const [back, text, line] = ["--back", "--text", "--line"].map(name => style.getPropertyValue(name));
    const layout = { paper_bgcolor: back, plot_bgcolor: back, "font.color": text };
    for (const axis of ["xaxis", "yaxis"]) {
      Object.assign(layout, { [`${axis}.gridcolor`]: line, [`${axis}.zerolinecolor`]: line });
    }
    layout.legend = narrow.matches ? { orientation: "h", y: -0.2, yanchor: "top" } : {};
    layout.margin = { t: 20, r: 10, l: 60, b: 50 };
    // Those of networks that are not split are as dark, or light, as text.
    const colours = own.map(colour => colour && dark.matches ? lighter(colour) : colour ?? text);
    Plotly.restyle(plot, { "line.color": colours });
    Plotly.relayout(plot, layout);
  };
  [dark, narrow].forEach(query => query.addEventListener("change", paint));
  paint();
  const menus = JSON.parse(document.getElementById("plot-data").textContent);
  menus.forEach(({ id, active, buttons }) => {
    const menu = document.getElementById(id);
    buttons.forEach(({ label }, place) => menu.add(new Option(label, place)));
    menu.value = active;
    menu.onchange = () => {
      const { method, args } = buttons[menu.value];
      Plotly[method](plot, ...args);
    };
  });
}

document.querySelectorAll(".compared").forEach(figure => {
  const pictures = [...figure.querySelectorAll("img")], slider = figure.querySelector("input");
  const menus = [...figure.querySelectorAll("select")];
  const show = () => {
    const [left, right] = menus.map(menu => menu.selectedIndex);
    pictures.forEach((picture, place) => {
      picture.hidden = place !== left && place !== right;
      const cut = place === left && left !== right;
      picture.style.zIndex = cut ? 1 : 0;
      picture.style.clipPath = cut ? `inset(0 ${100 - slider.value}% 0 0)` : "none";
    });
  };
  [slider, ...menus].forEach(control => control.oninput = show);
  show();
});
</script>
</body></html>
"""
