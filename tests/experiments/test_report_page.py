"""report.html in a browser: its menus, tables and pictures do what they say."""

import browser
import numpy as np
import pytest

from d2_featcomp.experiments import Curve, Plan, Point, Report, Training

pytest.importorskip("plotly")
if browser.find_programs() is None:
    pytest.skip("Chromium and chromedriver are not installed", allow_module_level=True)


def measured(ap, kb):
    return {"bbox": {"AP": ap}, "segm": {"AP": ap / 2}, "feature_rate": {"kB": kb, "BPFE": kb / 10}}


RESULTS = {"ours, a": measured(30.0, 1.0), "ours, b": measured(45.0, 2.0), "image": measured(10.0, 50.0)}


@pytest.fixture(scope="module")
def page(tmp_path_factory):
    """Path of a report."""
    folder = tmp_path_factory.mktemp("report")
    points = {n: Point(n, "", {}, "image" if n == "image" else "ours & more") for n in RESULTS}
    names = dict.fromkeys(point.curve for point in points.values())
    curves = tuple(
        Curve(
            name, tuple(p for p in points.values() if p.curve == name), name == "image", name != "image"
        )
        for name in names
    )
    trainings = {"": Training("", "configs/quick/msfc_R18.yaml", overrides={"MODEL.DEVICE": "cpu"})}
    report = Report(
        Plan(
            title="A & B",
            trainings=trainings,
            points=points,
            curves=curves,
            x="kB/image",
            ys=("box AP",),
        ),
        str(folder),
    )
    report.results = RESULTS
    rows = [f'"{name}",{n}.jpg,{100 * n + len(name)}\n' for name in RESULTS for n in range(3)]
    (folder / "per_image.csv").write_text("setting,image,bytes\n" + "".join(rows))
    (folder / "pictures").mkdir()
    (folder / "pictures" / "one.png").write_bytes(b"png")
    panels = [(f"panel {n} {60 * 'x'}", np.full((300, 600, 3), 80 * n, np.uint8)) for n in range(3)]
    report.write_html({"one.png": panels})
    return folder / "report.html"


@pytest.fixture(scope="module")
def window(page, tmp_path_factory):
    with browser.start_browser(tmp_path_factory.mktemp("profile")) as found:
        found.resize(1280, 1000)
        yield found


@pytest.fixture
def opened(window, page):
    window.prefer("light")
    window.open(page.as_uri())
    window.wait_for("document.querySelector('.plotly-graph-div')._fullLayout")
    yield window
    assert window.errors() == []


def choose(window, menu, label):
    window.run(
        "const menu = document.getElementById(arguments[0]);"
        "menu.value = [...menu.options].find(one => one.text === arguments[1]).value;"
        "menu.dispatchEvent(new Event('change'))",
        menu,
        label,
    )


PLOT = "document.querySelector('.plotly-graph-div')"


def test_menus_choose_the_axes(opened):
    assert opened.run(f"return {PLOT}.layout.xaxis.type") == "log"  # 1 to 50 kB
    assert opened.run(f"return [...{PLOT}.querySelectorAll('.xtick')].map(one => one.textContent)") == [
        *("1", "2", "5", "10", "20", "50"),
    ]
    assert opened.run("return document.getElementById('plot-scale').selectedOptions[0].text") == "log"
    choose(opened, "plot-scale", "linear")
    assert opened.run(f"return {PLOT}._fullLayout.xaxis.type") == "linear"
    choose(opened, "plot-rate", "BPFE")
    choose(opened, "plot-quality", "mask AP")
    assert opened.run(f"return {PLOT}.data[0].x") == [0.1, 0.2]
    assert opened.run(f"return {PLOT}.data[0].y") == [15, 22.5]
    assert opened.run(f"return {PLOT}.querySelector('.ytitle').textContent") == "mask AP"
    assert "ours & more" in opened.run(f"return {PLOT}.querySelector('.legend').textContent")


def column(window, table, number):
    rows = "[...document.querySelectorAll(arguments[0])]"
    return window.run(
        f"return {rows}.map(row => row.cells[arguments[1]].innerText)", f"{table} tr", number
    )


def test_a_click_on_a_head_sorts(opened):
    assert column(opened, ".wide .sorted", 0) == ["setting", *RESULTS]
    opened.click(".wide .sorted th:nth-child(2)")
    assert column(opened, ".wide .sorted", 1)[1:] == ["45.0", "30.0", "10.0"]
    opened.click(".wide .sorted th:nth-child(2)")
    assert column(opened, ".wide .sorted", 1)[1:] == ["10.0", "30.0", "45.0"]


def test_menus_choose_what_images_are_compared(opened):
    choose(opened, "setting", "image")
    choose(opened, "reference", "ours, a")
    heads = column(opened, "#images", 1)
    assert heads[1:] == ["205", "105", "5"]
    assert column(opened, "#images", 2)[1:] == ["-2"] * 3


def test_a_slider_shows_two_pictures_at_one_place(opened):
    shown = (
        "[...document.querySelectorAll('.stack img')].map(one => one.hidden ? '' : one.style.clipPath)"
    )
    opened.run("const s = document.querySelector('.compared input'); s.value = 25; s.oninput()")
    assert opened.run(f"return {shown}") == ["inset(0px 75% 0px 0px)", "none", ""]
    opened.run(
        "const m = document.querySelectorAll('.compared select')[1]; m.selectedIndex = 2; m.oninput()"
    )
    assert opened.run(f"return {shown}") == ["inset(0px 75% 0px 0px)", "", "none"]
    places = "[...document.querySelectorAll('.stack img')].filter(o => !o.hidden).map(o => o.offsetLeft)"
    assert len(set(opened.run(f"return {places}"))) == 1


@pytest.mark.parametrize("width", [360, 1280])
def test_nothing_is_wider_than_the_window(window, page, width):
    window.resize(width, 800)
    window.open(page.as_uri())
    window.wait_for(f"{PLOT}._fullLayout")
    assert window.run("return document.documentElement.scrollWidth") <= width
    menus = window.run(
        "return [...document.querySelectorAll('.menus select')].map(one => {"
        "const box = one.getBoundingClientRect(); return [box.left, box.top, box.right, box.bottom]})"
    )
    for place, (left, top, right, bottom) in enumerate(menus):
        for other in menus[place + 1 :]:
            apart = right <= other[0] or other[2] <= left or bottom <= other[1] or other[3] <= top
            assert apart and left >= 0 and right <= width
    window.resize(1280, 1000)


def test_the_plot_is_dark_where_the_page_is(opened):
    before = opened.run(f"return {PLOT}.data.map(one => one.line.color)")
    opened.prefer("dark")
    opened.wait_for(f"{PLOT}._fullLayout.paper_bgcolor === '#151a21'")
    ground = opened.run("return getComputedStyle(document.body).backgroundColor")
    assert ground == "rgb(21, 26, 33)"
    assert opened.run(f"return {PLOT}.data[0].line.color") != before[0]
    opened.prefer("light")
    opened.wait_for(f"{PLOT}._fullLayout.paper_bgcolor === '#fff'")
    assert opened.run(f"return {PLOT}.data.map(one => one.line.color)") == before
