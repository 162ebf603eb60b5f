import re
from xml.etree import ElementTree

import numpy as np
import pytest
from PIL import Image

from d2_featcomp.evaluation.tradeoff import (
    COLUMNS,
    average_rows,
    find_rate_for_accuracy,
    format_table,
    make_rows,
    plot_curves,
    write_csv,
)

RESULTS = {
    "plain": {"bbox": {"AP": 47.25, "AP50": 70.0}, "segm": {"AP": 45.0}},
    "n = 2": {
        "bbox": {"AP": 40.04, "AP50": 66.0},
        "feature_rate": {"BPFE": 0.0117188, "bpp": 1.0, "times_smaller": 2731.5, "BPFE_header": 0.001},
    },
}


@pytest.mark.parametrize(
    ("rates", "accuracies", "accuracy", "rate"),
    [
        ([1, 100], [10, 30], 20, 10),  # half way, on the logarithmic axis
        ([100, 1], [30, 10], 20, 10),  # in any order
        ([1, 16, 256], [0, 20, 40], 25, 32),  # a quarter of the way from 16 to 256
        ([1, 10, 100], [5, 25, 15], 20, 10**0.75),  # where the curve gets there first
        ([2, 8], [10, 30], 30, 8),  # exactly reached
        ([2, 8], [10, 30], 10, 2),
        ([2, 8], [10, 30], 31, float("inf")),
        ([2, 8, 4], [10, 30, 20], 5, float("nan")),  # exceeded by all: not measured
        ([0.5], [10], 10, 0.5),
        ([0.5], [10], 11, float("inf")),
        ([1, 2, 4], [10, 10, 30], 20, 2**1.5),  # flat at first
        ([], [], 20, float("inf")),
    ],
)
def test_rate_for_accuracy(rates, accuracies, accuracy, rate):
    assert find_rate_for_accuracy(rates, accuracies, accuracy) == pytest.approx(
        rate, rel=1e-12, nan_ok=True
    )


def test_rows_hold_the_known_columns_that_were_measured():
    assert make_rows(RESULTS) == {
        "plain": {"box AP": 47.25, "box AP50": 70.0, "mask AP": 45.0},
        "n = 2": {
            "box AP": 40.04,
            "box AP50": 66.0,
            "BPFE": 0.0117188,
            "bits/pixel": 1.0,
            "times smaller": 2731.5,
        },
    }


def test_table():
    rows = make_rows(RESULTS)
    lines = format_table(rows).splitlines()
    cells = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines]
    assert cells[0] == ["setting", "box AP", "mask AP", "BPFE", "bits/pixel", "compression ratio"]
    assert set("".join(cells[1])) <= set(":-")
    assert cells[2] == ["plain", "47.2", "45.0", "-", "-", "-"]
    assert cells[3] == ["n = 2", "40.0", "-", "0.01172", "1.000", "2732"]
    assert len(lines) == 4 and len({len(line) for line in lines}) == 1
    assert lines[3].endswith(" 2732 |")  # numbers to the right


def test_table_of_nothing_has_a_head():
    head, rule = format_table({}).splitlines()
    assert head.split() == ["|", "setting", "|"]
    assert set(rule) <= set("|:-")


def test_csv_has_all_digits(tmp_path):
    rows = make_rows({**RESULTS, 'of "all", third': {"feature_rate": {"kB": 1 / 3}}})
    write_csv(rows, str(tmp_path / "results.csv"))
    assert (tmp_path / "results.csv").read_text() == (
        "setting,box AP,box AP50,mask AP,BPFE,bits/pixel,kB/image,times smaller\n"
        "plain,47.25,70.0,45.0,,,,\n"
        "n = 2,40.04,66.0,,0.0117188,1.0,,2731.5\n"
        '"of ""all"", third",,,,,,0.3333333333333333,\n'
    )
    assert [path.name for path in tmp_path.iterdir()] == ["results.csv"]


def test_plots_begin_where_the_data_do(tmp_path):
    rows = [{"BPFE": 0.02, "box AP": 56.0}, {"BPFE": 0.01, "box AP": 52.0}]
    plot_curves({"MSFC": rows}, {}, str(tmp_path / "curves"))
    ticks = re.findall(r"<!-- ([\d.]+) -->", (tmp_path / "curves.svg").read_text())
    heights = [float(tick) for tick in ticks if float(tick) >= 1 or tick == "0"]
    assert len(heights) > 2 and 51 < min(heights) <= 52.5 and 55.5 <= max(heights) < 57


def test_plot(tmp_path):
    curves = {
        "MSFC": [{"BPFE": 0.02, "box AP": 40.0}, {"BPFE": 0.01, "box AP": 30.0}],
        "JPEG pyramid": [{"BPFE": 0.5, "box AP": 35.0, "mask AP": 1.0}],
    }
    plot_curves(curves, {"uncut": 45.0}, str(tmp_path / "curves"), title="A title")
    assert {path.name for path in tmp_path.iterdir()} == {"curves.png", "curves.svg"}
    with Image.open(tmp_path / "curves.png") as image:
        assert (image.format, image.size) == ("PNG", (840, 540))
        pixels = np.asarray(image.convert("RGB"))
    coloured = np.ptp(pixels, axis=-1) > 60
    assert coloured.sum() > 200  # the curves; all else is gray
    assert ElementTree.parse(tmp_path / "curves.svg").getroot().tag == "{http://www.w3.org/2000/svg}svg"
    text = (tmp_path / "curves.svg").read_text()
    for label in ("MSFC", "JPEG pyramid", "uncut", "A title", "box AP (%)"):
        assert f"<!-- {label} -->" in text
    assert "<!-- bits per feature element (whole bitstream) -->" in text


def test_no_curve_and_no_level_is_left_out_of_a_plot(tmp_path):
    curves = {f"curve {n}": [{"BPFE": 0.01, "box AP": 1.0 * n}] for n in range(40)}
    plot_curves(curves, {f"level {n}": 1.0 * n for n in range(16)}, str(tmp_path / "many"))
    text = (tmp_path / "many.svg").read_text()
    assert "<!-- curve 39 -->" in text and "<!-- level 15 -->" in text


def test_curves_are_drawn_by_rising_rate(tmp_path):
    rows = [{"kB/image": rate, "mask AP": 10 * np.log2(rate)} for rate in (4.0, 1.0, 2.0)]
    options = {"x": "kB/image", "y": "mask AP"}
    plot_curves({"a": rows}, {}, str(tmp_path / "unordered"), **options)
    plot_curves(
        {"a": sorted(rows, key=lambda row: row["kB/image"])}, {}, str(tmp_path / "ordered"), **options
    )
    unordered, ordered = (
        np.asarray(Image.open(tmp_path / f"{name}.png")) for name in ("unordered", "ordered")
    )
    np.testing.assert_array_equal(unordered, ordered)


def test_every_column_is_formatted():
    row = dict.fromkeys(COLUMNS, 12.3456789)
    line = format_table({"a": row}, COLUMNS).splitlines()[2]
    cells = [cell.strip() for cell in line.strip("|").split("|")]
    decimals = [len(cell.partition(".")[2]) for cell in cells[1:]]
    assert decimals == [number for _, _, number in COLUMNS.values()]


def test_means_and_spreads_over_repeats():
    means, spreads = average_rows(
        {
            "a": [{"BPFE": 1.0, "PSNR": 20.0}, {"BPFE": 2.0, "PSNR": 26.0}, {"BPFE": 3.0}],
            "b": [{"PSNR": 5.0}],
        }
    )
    assert means == {"a": {"BPFE": 2.0}, "b": {"PSNR": 5.0}}
    assert spreads == {"a": {"BPFE": 1.0}, "b": {}}
    lines = format_table(means, ["PSNR", "BPFE"], spreads).splitlines()
    assert [cell.strip() for cell in lines[2].strip("|").split("|")] == ["a", "-", "2.00000 ± 1.00000"]
    assert [cell.strip() for cell in lines[3].strip("|").split("|")] == ["b", "5.00", "-"]


def test_values_that_are_not_finite_have_no_spread():
    _, spreads = average_rows({"a": [{"IRMSE": float("inf")}, {"IRMSE": 1.0}]})
    assert np.isnan(spreads["a"]["IRMSE"])


def test_repeats_are_drawn_faintly(tmp_path):
    rows = [{"BPFE": rate, "PSNR": 20 + rate} for rate in (1.0, 2.0, 4.0)]
    others = [[{"BPFE": row["BPFE"], "PSNR": row["PSNR"] + shift} for row in rows] for shift in (-2, 2)]
    plot_curves({"a": rows}, {}, str(tmp_path / "alone"), y="PSNR")
    plot_curves({"a": rows}, {}, str(tmp_path / "with"), y="PSNR", repeats={"a": others})
    alone, together = (
        np.asarray(Image.open(tmp_path / f"{name}.png").convert("RGB"), np.int16)
        for name in ("alone", "with")
    )
    faint = (np.ptp(together, axis=-1) > 20).sum()
    assert faint > (np.ptp(alone, axis=-1) > 20).sum() + 200
    assert "<!-- PSNR (dB) -->" in (tmp_path / "with.svg").read_text()


def test_long_titles_stay_within_the_picture(tmp_path, monkeypatch):
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.backends.backend_svg import FigureCanvasSVG

    seen = []

    def watch(canvas_type, name):
        save = getattr(canvas_type, name)

        def watched(canvas, *args, **kwargs):
            save(canvas, *args, **kwargs)
            canvas.draw()
            box, figure = canvas.figure.axes[0].title.get_window_extent(), canvas.figure
            seen.append((name, box.x0 >= 0, box.x1 <= figure.bbox.x1, figure.dpi))

        monkeypatch.setattr(canvas_type, name, watched)

    watch(FigureCanvasAgg, "print_png")
    watch(FigureCanvasSVG, "print_svg")
    row = {"BPFE": 0.01, "box AP": 50.0}
    plot_curves({"one": [row]}, {}, str(tmp_path / "curves"), title="a title of many words " * 6)
    assert seen == [("print_png", True, True, 120), ("print_svg", True, True, 72)]
