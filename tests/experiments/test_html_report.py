"""The report in one HTML file, of results that were worked out by hand."""

import base64
import dataclasses
import html.parser
import io
import json
import re
import sys

import numpy as np
import pytest
from PIL import Image

from d2_featcomp.evaluation.bd_rate_tables import OF_MEANS
from d2_featcomp.experiments import Curve, Plan, Point, Report, Training
from d2_featcomp.experiments.html_report import MOST_PICTURES, make_figure

pytest.importorskip("plotly")

ODD = "<b>b1 & 'two'</b>"


def measured(ap, kb, bpfe):
    return {"bbox": {"AP": ap}, "segm": {"AP": ap / 2}, "feature_rate": {"kB": kb, "BPFE": bpfe}}


RESULTS = {
    "a1": measured(30.0, 1.0, 0.1),
    "a2": measured(45.0, 2.0, 0.2),
    ODD: measured(10.0, 10.0, 1.0),
    "level": {"bbox": {"AP": 50.0}, "segm": {"AP": 25.0}},
}


@pytest.fixture
def report(tmp_path):
    points = {
        name: Point(name, "", {}, {"a": "ours", "<": "image"}.get(name[0], "")) for name in RESULTS
    }
    curves = tuple(
        Curve(
            name, tuple(p for p in points.values() if p.curve == name), name == "image", name == "ours"
        )
        for name in ("ours", "image")
    )
    config = "configs/quick/msfc_R18.yaml"
    trainings = {"": Training("", config, overrides={"MODEL.DEVICE": "cpu"})}
    plan = Plan(
        title="by <hand>",
        trainings=trainings,
        points=points,
        curves=curves,
        x="kB/image",
        ys=("box AP",),
    )
    found = Report(plan, str(tmp_path))
    found.results = RESULTS
    return found


class Reader(html.parser.HTMLParser):
    """Collects addresses and texts."""

    def __init__(self, text):
        super().__init__()
        self.addresses, self.texts, self.titles = [], [], []
        self.feed(text)

    def handle_starttag(self, tag, attributes):
        known = dict(attributes)
        self.addresses += [known[name] for name in ("src", "href") if known.get(name)]
        self.titles += [known["title"]] if "title" in known else []

    def handle_data(self, data):
        self.texts.append(data)


def test_the_file_needs_no_network_and_names_are_text(report, tmp_path):
    per_image = "setting,image,bytes\na1,folder/0.jpg,100\na2,</script><i>.jpg,7\n"
    (tmp_path / "per_image.csv").write_text(per_image)
    (tmp_path / "pictures").mkdir()
    (tmp_path / "pictures" / "one.png").write_bytes(b"png")
    report.write_html({"one.png": []})
    text = (tmp_path / "report.html").read_text(encoding="utf-8")
    page = Reader(text)
    assert page.addresses == ["data:image/png;base64,cG5n"]
    assert {"by <hand>", "a1", ODD, "one.png"} <= set(page.texts)
    assert "<i>" not in text and "url(http" not in text


def test_the_table_reads_as_the_one_on_the_terminal(report, tmp_path):
    report.results = {"a1": measured(45.0, 1.0, 0.1)}
    report.results["a1"]["feature_rate"] |= {"BPFE_packed": 0.014661234, "times_smaller": 7368.04}
    report.write_html()
    texts = Reader((tmp_path / "report.html").read_text(encoding="utf-8")).texts
    start = texts.index("a1")
    assert {"BPFE fixed-length", "compression ratio"} <= set(texts[:start])
    assert {"45.0", "22.5", "1.000", "0.01466", "7368"} <= set(texts[start:])


def read_image_data(path):
    text = path.read_text(encoding="utf-8")
    return json.loads(re.search(r"id='image-data'>(.*?)</script>", text)[1])


def test_the_menus_above_the_images_begin_with_a_setting_and_the_network_that_is_not_split(
    report, tmp_path
):
    lines = [f"{name},folder/{n}.jpg,{n + 100}\n" for name in ("level", "a1") for n in range(2)]
    (tmp_path / "per_image.csv").write_text("setting,image,bytes\n" + "".join(lines))
    report.write_html()
    data = read_image_data(tmp_path / "report.html")
    assert (data["chosen"], data["reference"]) == ("a1", "level")
    assert data["images"] == ["0.jpg", "1.jpg"] and data["column"] == ""
    assert data["settings"]["a1"] == {"bytes": [100, 101], "quality": [None, None]}


PANELS = [(f"<{n}>", np.full((2, 3, 3), n, np.uint8)) for n in range(4)]


@pytest.mark.parametrize("count, left", [(2, 0), (3, 0), (4, 1)])
def test_a_slider_compares_two_of_the_panels(report, tmp_path, count, left):
    (tmp_path / "pictures").mkdir()
    for name in ("a_features.png", "b_detections.png", "of_an_earlier_plan.png"):
        (tmp_path / "pictures" / name).write_bytes(b"png")
    report.write_html({"a_features.png": [], "b_detections.png": PANELS[:count]})
    text = (tmp_path / "report.html").read_text(encoding="utf-8")
    page = Reader(text)
    assert page.addresses[-1] == "data:image/png;base64,cG5n"
    for address, (_, picture) in zip(page.addresses[:-1], PANELS[:count], strict=True):
        with Image.open(io.BytesIO(base64.b64decode(address.split(",")[1]))) as found:
            assert np.array_equal(found, picture)
    chosen = re.findall(r"<option selected>(.*?)</option>", text)
    assert chosen == [f"&lt;{left}&gt;", f"&lt;{left + 1}&gt;"]
    assert text.count("<input type='range'") == 1


def test_a_plan_without_pictures_shows_none(report, tmp_path):
    (tmp_path / "pictures").mkdir()
    (tmp_path / "pictures" / "a_features.png").write_bytes(b"png")
    report.write_html({})
    assert not Reader((tmp_path / "report.html").read_text(encoding="utf-8")).addresses


def test_no_more_pictures_than_a_page_should_hold(report, tmp_path):
    (tmp_path / "pictures").mkdir()
    for n in range(MOST_PICTURES + 1):
        (tmp_path / "pictures" / f"{n}.png").write_bytes(b"png")
    panels = {f"{n}.png": [] for n in range(MOST_PICTURES)}
    report.write_html({**panels, "8.png": PANELS[:2]})
    page = Reader((tmp_path / "report.html").read_text(encoding="utf-8"))
    assert len(page.addresses) == 2 + MOST_PICTURES - 1 and "8.png" in page.texts


def test_lines_are_the_rows_and_menus_their_other_columns(report):
    figure = make_figure(report)
    ours, image, level = figure.data
    assert (list(ours.x), list(ours.y)) == ([1.0, 2.0], [30.0, 45.0])
    assert (list(image.x), list(image.y)) == ([10.0], [10.0])
    assert (list(level.x), list(level.y)) == ([1.0, 10.0], [50.0, 50.0])
    assert ours.marker.symbol != image.marker.symbol and image.marker.size > 8  # seen without a line
    assert ours.hovertext[0].startswith("a1<br>") and "kB/image: 1" in ours.hovertext[0]
    assert image.hovertext[0].startswith("&lt;b&gt;b1 &amp;")
    rates, qualities, scales = figure.layout.updatemenus
    assert [button.label for button in rates.buttons] == ["kB/image", "BPFE"]
    # An image has no elements of features.
    assert rates.buttons[1].args[0]["x"] == [[0.1, 0.2], [None], [0.1, 0.2]]
    assert qualities.buttons[1].args[0]["y"] == [[15.0, 22.5], [5.0], [25.0, 25.0]]
    assert [button.args[0]["xaxis.type"] for button in scales.buttons] == ["linear", "log"]


def test_the_menus_work_where_a_quality_is_not_a_number(report, tmp_path):
    """Browsers refuse JSON with NaN, and the page would be left without menus and sliders."""
    report.results = {**RESULTS, "a2": measured(float("nan"), 2.0, 0.2)}
    report.write_html()
    text = (tmp_path / "report.html").read_text(encoding="utf-8")
    menus = json.loads(re.search(r"id='plot-data'>(.*?)</script>", text)[1], parse_constant=pytest.fail)
    box_ap = next(button for button in menus[1]["buttons"] if button["label"] == "box AP")
    assert box_ap["args"][0]["y"][0] == [30.0, None]


def test_lines_join_points_by_rising_rate(report):
    """Whatever order a plan lists them in, as in the plots that are files."""
    report.results = {**RESULTS, "a1": measured(30.0, 5.0, 0.5)}
    ours = make_figure(report).data[0]
    assert (list(ours.x), list(ours.y)) == ([2.0, 5.0], [45.0, 30.0])
    assert [text.partition("<")[0] for text in ours.hovertext] == ["a2", "a1"]


def test_axes_begin_with_those_of_the_plan(report):
    report.plan = dataclasses.replace(report.plan, x="BPFE", ys=("mask AP",))
    figure = make_figure(report)
    assert (list(figure.data[0].x), list(figure.data[0].y)) == ([0.1, 0.2], [15.0, 22.5])
    axes = figure.layout.xaxis.title.text, figure.layout.yaxis.title.text
    assert axes == ("BPFE", "mask AP")
    rates, qualities, _ = figure.layout.updatemenus
    assert [menu.buttons[0].label for menu in (rates, qualities)] == list(axes)
    # A sweep asks for none.
    report.plan = dataclasses.replace(report.plan, ys=())
    assert make_figure(report).layout.xaxis.title.text == "kB/image"


def test_the_line_of_a_level_has_a_length_beside_one_point(report):
    report.results = {name: RESULTS[name] for name in ("a2", "level")}
    assert list(make_figure(report).data[-1].x) == pytest.approx([1.8, 2.2])


def test_without_a_rate_there_are_tables_alone(report, tmp_path):
    report.results = {"level": RESULTS["level"]}
    report.write_html()
    text = (tmp_path / "report.html").read_text(encoding="utf-8")
    assert "Rate and quality" not in text and {"level", "50.0"} <= set(Reader(text).texts)


BD_ENTRY = {"anchor": "image", "test": "ours", "column": "box AP", "points": "all", "method": "pchip"}


def test_bd_rates_of_seeds_tell_their_spread(report, tmp_path, monkeypatch):
    values = {1: -10.0, 2: -30.0, OF_MEANS: -25.0}
    found = [{**BD_ENTRY, "seed": seed, "percent": value, "note": ""} for seed, value in values.items()]
    monkeypatch.setattr(report, "bd_rates", lambda: found)
    report.write_html()
    page = Reader((tmp_path / "report.html").read_text(encoding="utf-8"))
    assert {"-20.0 ± 14.1", "box AP, against"} <= set(page.texts)
    told = "95 % interval of the mean -147.1 to +107.1; each -10.0, -30.0; of mean curves -25.0"
    assert told in page.titles
    assert any("Means of the seeds" in text for text in page.texts)


def test_a_quality_that_is_compared_twice_has_a_table_for_each(report, tmp_path, monkeypatch):
    found = [
        {**BD_ENTRY, "seed": None, "percent": -20.0, "note": ""},
        {**BD_ENTRY, "points": 5, "seed": None, "percent": -40.0, "note": ""},
        {**BD_ENTRY, "column": "mask AP", "seed": None, "percent": -60.0, "note": ""},
    ]
    monkeypatch.setattr(report, "bd_rates", lambda: found)
    report.write_html()
    texts = Reader((tmp_path / "report.html").read_text(encoding="utf-8")).texts
    assert {f"box AP ({points} points, pchip), against" for points in ("all", 5)} <= set(texts)
    assert {"mask AP, against", "-20.0", "-40.0", "-60.0"} <= set(texts)
    assert not any("Means of the seeds" in text for text in texts)


def test_what_has_no_bd_rate_tells_why(report, tmp_path, monkeypatch):
    entry = {**BD_ENTRY, "seed": None}
    found = [
        {**entry, "percent": float("nan"), "note": 'only "2" points'},
        {**entry, "test": "theirs", "percent": -12.34, "note": ""},
    ]
    monkeypatch.setattr(report, "bd_rates", lambda: found)
    report.write_html()
    page = Reader((tmp_path / "report.html").read_text(encoding="utf-8"))
    assert 'only "2" points' in page.titles and "-12.3" in page.texts
    assert {"- is not defined, * uncertain:", 'only "2" points'} <= set(page.texts)


def test_columns_are_explained_by_the_names_in_the_table(report, tmp_path):
    report.results = {"a1": {"feature_rate": {"BPFE_packed": 2.0, "kB": 1.0}}}
    report.write_html()
    text = (tmp_path / "report.html").read_text(encoding="utf-8")
    assert "<dt>BPFE fixed-length</dt>" in text and "<dt>kB/image</dt>" in text
    assert "<dt>box AP</dt>" not in text


def test_without_plotly_there_is_no_such_file(report, tmp_path, monkeypatch, caplog):
    monkeypatch.setitem(sys.modules, "plotly", None)
    with caplog.at_level("INFO", "d2_featcomp"):
        report.write_html()
    assert not (tmp_path / "report.html").exists()
    assert re.search(r"report\.html needs plotly: pip install plotly", caplog.text)
