"""What a report makes of results that were worked out by hand."""

import csv
import dataclasses
import json
import os

import pytest

from d2_featcomp.experiments import BDRate, Curve, Goal, Plan, Point, Report, Training, choose_setting

CONFIG = "configs/quick/msfc_R18.yaml"
CODEC = "MODEL.FEATCOMP.CODEC."


def measured(ap, bpfe, kb):
    return {"bbox": {"AP": ap}, "feature_rate": {"BPFE": bpfe, "kB": kb}}


def report_of(results, goals=(), overrides=None, output="", **more):
    """Of a curve "ours" of the points a1, a2, ..., one "anchor" of b1, b2, ..., and levels."""
    curves = {"a": "ours", "b": "anchor"}
    points = {
        name: Point(name, "", (overrides or {}).get(name, {}), curves.get(name[0], ""))
        for name in results
    }
    plan = Plan(
        title="by hand",
        trainings={"": Training("", CONFIG, overrides={"MODEL.DEVICE": "cpu"})},
        points=points,
        curves=tuple(
            Curve(name, tuple(p for p in points.values() if p.curve == name), anchor=name == "anchor")
            for name in ("ours", "anchor")
        ),
        goals=tuple(Goal(**goal) for goal in goals),
        **{"ys": ("box AP",), **more},
    )
    report = Report(plan, str(output))
    report.results = results
    report.configs = {name: plan.build_config(point) for name, point in points.items()}
    return report


RESULTS = {
    "a1": measured(30.0, 0.01, 1.0),
    "a2": measured(45.0, 0.02, 2.0),
    "b1": measured(10.0, 0.1, 10.0),
    "b2": measured(30.0, 0.4, 40.0),
    "level": {"bbox": {"AP": 50.0}},
}
RATIO = {"compression_ratio_against": "anchor"}


@pytest.mark.parametrize(
    ("goal", "reached", "words"),
    [
        # 0.4 / 0.01 at 30 AP; the anchor never has 45.
        ({"setting": "a1", **RATIO, "at_least": 39}, True, "box AP 40 (at least 39)"),
        ({"setting": "a1", **RATIO, "at_least": 41}, False, "box AP 40 (at least 41)"),
        ({"setting": "a2", **RATIO, "at_least": 9}, True, "- (it never reaches that)"),
        ({"setting": "a1", "column": "box AP", "minus": "level", "at_least": -20}, True, "of level -20"),
        ({"setting": "a1", "column": "box AP", "at_most": 29}, False, "a1: box AP 30 (at most 29)"),
        ({"setting": "a1", "column": "mask AP", "at_most": 29}, False, "mask AP was not measured"),
        (
            {"setting": "a1", "column": "BPFE", "minus": "level", "at_most": 0},
            False,
            "level: BPFE was not",
        ),
    ],
)
def test_goals(goal, reached, words):
    ((found, told),) = report_of(RESULTS, [goal]).check_goals()
    assert found is reached and words in told and "inf" not in told


def test_a_goal_against_what_was_not_measured_is_missed():
    results = {name: RESULTS[name] for name in ("a1", "a2", "level")}
    ((found, told),) = report_of(results, [{"setting": "a1", **RATIO, "at_least": 39}]).check_goals()
    assert found is False and told == "anchor: box AP was not measured"


def test_a_compression_ratio_is_called_so():
    ((_, told),) = report_of(RESULTS, [{"setting": "a1", **RATIO, "at_least": 39}]).check_goals()
    assert told == "a1: compression ratio against anchor at the same box AP 40 (at least 39)"


def test_curves_that_no_bd_rate_lists_are_compared_by_bytes_with_every_anchor():
    # Twice the anchor's bytes at the same qualities.
    anchor = {1: (10, 1), 2: (20, 2), 3: (30, 5), 4: (40, 9)}
    results = {f"a{n}": measured(ap, 0.1, 2 * kb) for n, (ap, kb) in anchor.items()}
    results |= {f"b{n}": measured(ap, 7.0, kb) for n, (ap, kb) in anchor.items()}
    (entry,) = report_of(results, ys=()).bd_rates()
    assert (entry["test"], entry["anchor"], entry["column"]) == ("ours", "anchor", "box AP")
    assert entry["percent"] == pytest.approx(100)


def test_files(tmp_path):
    overrides = {
        "a1": {f"{CODEC}NAME": "jpeg", f"{CODEC}BITS": 8, f"{CODEC}QUALITY": 50},
        "a2": {f"{CODEC}NAME": "hevc", f"{CODEC}QUALITY": 20},
        "b1": {f"{CODEC}NAME": "png", f"{CODEC}QUANTIZER": "channel"},
        "b2": {f"{CODEC}NAME": "jpegxl", f"{CODEC}QUALITY": 1.5},
        "level": {"MODEL.FEATCOMP.ENABLED": False},
    }
    more = {**RESULTS, "level": {"bbox": {"AP": 50.0}, "own": {"score": 3.0}}}
    report = report_of(more, overrides=overrides, output=tmp_path)
    for name, config in report.configs.items():
        folder = tmp_path / name / "inference"
        folder.mkdir(parents=True)
        (folder / "feature_rates.csv").write_text(f"image,bytes\n{name}.jpg,7\n")
        report.configs[name] = config.clone()
        report.configs[name].defrost()
        report.configs[name].OUTPUT_DIR = str(tmp_path / name)
    report.write()
    with open(tmp_path / "curves.csv", newline="") as file:
        rows = {row["setting"]: row for row in csv.DictReader(file)}
    meanings = {name: (row["quality"], row["quality_meaning"]) for name, row in rows.items()}
    assert meanings["a1"][0] == "50" and "JPEG quality" in meanings["a1"][1]
    assert meanings["a2"][0] == "20" and "QP" in meanings["a2"][1]
    assert meanings["b2"][0] == "1.5" and "distance" in meanings["b2"][1]
    assert meanings["b1"] == meanings["level"] == ("", "")
    assert rows["b1"]["quantizer"] == "channel" and rows["a1"]["seed"] == rows["a1"]["rate"] == ""
    assert rows["level"]["own/score"] == "3.0" and rows["a1"]["anchor"] == "0"
    assert rows["b1"]["anchor"] == "1" and rows["level"]["anchor"] == ""
    assert rows["a1"]["dataset"] == report.configs["a1"].DATASETS.TEST[0]
    assert rows["a1"]["images"] == "1" and rows["level"]["images"] == ""
    lines = (tmp_path / "per_image.csv").read_text().splitlines()
    assert lines[:2] == ["setting,image,bytes", "a1,a1.jpg,7"] and len(lines) == 5
    assert "own/score" in (tmp_path / "table.md").read_text().splitlines()[0]
    with open(tmp_path / "results.csv", newline="") as file:
        scores = {row["setting"]: row["own/score"] for row in csv.DictReader(file)}
    assert scores == {**dict.fromkeys(RESULTS, ""), "level": "3.0"}
    assert {f"curves.{end}" for end in ("png", "svg", "csv")} <= {
        path.name for path in tmp_path.iterdir()
    }


def test_other_programs_can_read_the_json_of_numbers_that_are_not_finite(tmp_path):
    """AP of large objects, where there are none; BD-rates that are not defined."""
    results = {"a1": {"bbox": {"AP": 30.0, "APl": float("nan")}, "own": {"score": float("-inf")}}}
    wanted = (BDRate("anchor", "ours", ("box AP",)),)
    report_of(results, output=tmp_path, bd_rates=wanted).write()

    def refuse(constant):
        raise ValueError(f"no JSON: {constant}")

    texts = [(tmp_path / f"{name}.json").read_text() for name in ("results", "summary")]
    found, summary = (json.loads(text, parse_constant=refuse) for text in texts)
    groups = found["settings"]["a1"]["results"]
    assert groups == {"bbox": {"AP": 30.0, "APl": None}, "own": {"score": None}}
    assert summary["bd_rates"][0]["percent"] is None


def read_curves(report):
    """Lines of curves.csv, of a report whose features were not sent."""
    report.write()
    with open(os.path.join(report.output, "curves.csv"), newline="") as file:
        return {row["setting"]: row for row in csv.DictReader(file)}


def test_curves_tell_the_rate_or_the_size_that_images_are_coded_at(tmp_path):
    codec = {f"{CODEC}NAME": "variable_rate", f"{CODEC}BITS": 8}
    overrides = {
        "a1": {**codec, f"{CODEC}RATE": 0.25},
        "a2": {**codec, f"{CODEC}TARGET_KB": 1.5},
        "level": {f"{CODEC}NAME": "png"},
    }
    results = {name: {"bbox": {"AP": 1.0}} for name in overrides}
    rows = read_curves(report_of(results, overrides=overrides, output=tmp_path))
    found = [(row["rate"], row["target_kb"]) for row in rows.values()]
    assert found == [("0.25", ""), ("", "1.5"), ("", "")]


def test_curves_tell_the_seed(tmp_path):
    report = report_of({"level": {"bbox": {"AP": 1.0}}}, output=tmp_path)
    point = report.plan.points["level"]
    points = {f"level, {s}": dataclasses.replace(point, repeats="level", seed=s) for s in (3, 4)}
    report.plan = dataclasses.replace(report.plan, points=points, seeds=(3, 4))
    report.configs = dict.fromkeys(points, report.configs["level"])
    report.results = dict.fromkeys(points, report.results["level"])
    assert [row["seed"] for row in read_curves(report).values()] == ["3", "4"]


def test_a_largest_drop_is_below_the_uncompressed_network():
    results = {
        "level": {"bbox": {"AP": 20.0}},
        **{name: RESULTS[name] for name in ("a1", "a2")},
        "uncompressed": {"bbox": {"AP": 50.0}},
    }
    point, _ = choose_setting(report_of(results).plan, results, max_drop=10)
    assert (point.name, point.quality) == ("a2", 45.0)
    del results["uncompressed"]
    with pytest.raises(ValueError, match="needs the uncompressed network: do not leave it out"):
        choose_setting(report_of(results).plan, results, max_drop=10)
