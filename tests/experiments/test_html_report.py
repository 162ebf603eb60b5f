"""The report in one HTML file, of results that were worked out by hand."""

import html.parser
import re
import sys

import pytest

from d2_featcomp.experiments import Curve, Plan, Point, Report, Training
from d2_featcomp.experiments.html_report import make_figure

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
    plan = Plan(title="by <hand>", trainings=trainings, points=points, curves=curves, ys=("box AP",))
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
    per_image = "setting,image,bytes\na1,folder/0.jpg,100\n</script><i>,1.jpg,7\n"
    (tmp_path / "per_image.csv").write_text(per_image)
    (tmp_path / "pictures").mkdir()
    (tmp_path / "pictures" / "one.png").write_bytes(b"png")
    report.write_html()
    text = (tmp_path / "report.html").read_text(encoding="utf-8")
    page = Reader(text)
    assert page.addresses == ["data:image/png;base64,cG5n"]
    assert {"by <hand>", "a1", ODD, "one.png"} <= set(page.texts)
    assert "<i>" not in text and '["0.jpg", 100]' in text


def test_lines_are_the_rows_and_menus_their_other_columns(report):
    figure = make_figure(report)
    ours, image, level = figure.data
    assert (list(ours.x), list(ours.y)) == ([1.0, 2.0], [30.0, 45.0])
    assert (list(image.x), list(image.y)) == ([10.0], [10.0])
    assert (list(level.x), list(level.y)) == ([1.0, 10.0], [50.0, 50.0])
    assert ours.hovertext[0].startswith("a1<br>") and "kB/image: 1" in ours.hovertext[0]
    assert image.hovertext[0].startswith("&lt;b&gt;b1 &amp;")
    rates, qualities, scales = figure.layout.updatemenus
    assert [button.label for button in rates.buttons] == ["kB/image", "BPFE"]
    # An image has no elements of features.
    assert rates.buttons[1].args[0]["x"] == [[0.1, 0.2], [None], [0.1, 0.2]]
    assert qualities.buttons[1].args[0]["y"] == [[15.0, 22.5], [5.0], [25.0, 25.0]]
    assert [button.args[0]["xaxis.type"] for button in scales.buttons] == ["linear", "log"]


def test_what_has_no_bd_rate_tells_why(report, tmp_path, monkeypatch):
    entry = {"anchor": "image", "test": "ours", "column": "box AP", "seed": None}
    found = [
        {**entry, "percent": float("nan"), "note": 'only "2" points'},
        {**entry, "test": "theirs", "percent": -12.34, "note": ""},
    ]
    monkeypatch.setattr(report, "bd_rates", lambda: found)
    report.write_html()
    page = Reader((tmp_path / "report.html").read_text(encoding="utf-8"))
    assert 'only "2" points' in page.titles and "-12.3" in page.texts


def test_without_plotly_there_is_no_such_file(report, tmp_path, monkeypatch, caplog):
    monkeypatch.setitem(sys.modules, "plotly", None)
    with caplog.at_level("INFO", "d2_featcomp"):
        report.write_html()
    assert not (tmp_path / "report.html").exists()
    assert re.search(r"report\.html needs plotly: pip install plotly", caplog.text)
