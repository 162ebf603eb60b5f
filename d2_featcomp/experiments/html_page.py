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
<style>
body { font: 15px sans-serif; margin: 2em auto; max-width: 1200px; padding: 0 1em; color: #222; }
table { border-collapse: collapse; margin: 1em 0; }
th, td { padding: .3em .7em; border-bottom: 1px solid #ddd; text-align: right; }
th:first-child, td:first-child { text-align: left; }
td[title]:not([title=""]) { cursor: help; text-decoration: underline dotted; }
.sorted th { cursor: pointer; }
.scrolled { max-height: 24em; overflow: auto; }
.scrolled th { position: sticky; top: 0; background: white; }
figure { margin: 1em 0 2em; }
img { max-width: 100%; }
.stack { display: grid; justify-content: start; }
.stack img { grid-area: 1 / 1; }
.compared input { width: 100%; max-width: 512px; margin: .5em 0; }
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
