"""Differences of average precision between points of a plan, of matches that were made by hand."""

import csv
import os

import numpy as np
import pytest

from d2_featcomp.evaluation import ImageMatches
from d2_featcomp.experiments import Curve, Difference, Goal, Plan, Point, Report, Training
from d2_featcomp.experiments.checks import check_plan
from d2_featcomp.experiments.differences import Differences, copy_matches, format_differences

IMAGES = 8


def make_matches(found, images=IMAGES):
    """One object in each image, of which the first `found` are detected: AP50 and AP are 100 times the
    share of 101 recalls that are at most found / 8."""
    return ImageMatches(
        image_ids=np.arange(images),
        thresholds=np.array([0.5, 0.75]),
        recalls=np.linspace(0, 1, 101),
        objects=np.ones((1, images), np.int64),
        categories=np.zeros(found, np.int64),
        images=np.arange(found),
        hits=np.ones((2, found), bool),
        misses=np.zeros((2, found), bool),
    )


def make_plan(differences, names=("a", "b", "plain"), seeds=(), goals=()):
    points = {}
    for seed in seeds or (None,):
        for name in names:
            whole = name if seed is None else f"{name}, seed {seed}"
            repeats = "" if seed is None else name
            points[whole] = Point(
                whole, "", {"MODEL.DEVICE": "cpu"}, "" if name == "plain" else "ours", seed, repeats
            )
    curve = Curve("ours", tuple(Point(name) for name in names if name != "plain"))
    return Plan(
        title="by hand",
        trainings={"": Training("", "configs/quick/msfc_R18.yaml")},
        points=points,
        curves=(curve,),
        differences=tuple(differences),
        goals=tuple(goals),
        seeds=tuple(seeds),
        ys=("box AP",),
    )


def write(folder, found):
    """A folder a point, with what its evaluator writes: point -> number of objects found."""
    for name, count in found.items():
        os.makedirs(folder / name / "inference")
        make_matches(count).save(str(folder / name / "inference" / "matches_bbox.npz"))
    return {name: str(folder / name) for name in found}


def test_each_point_of_a_curve_minus_another_point(tmp_path):
    folders = write(tmp_path, {"a": 6, "b": 4, "plain": 8})
    wanted = Difference(curve="ours", minus="plain", columns=("box AP", "box AP50"))
    found = Differences(make_plan([wanted])).compute_all(folders)
    assert [(entry["setting"], entry["minus"], entry["column"]) for entry in found] == [
        ("a", "plain", "box AP"),
        ("b", "plain", "box AP"),
        ("a", "plain", "box AP50"),
        ("b", "plain", "box AP50"),
    ]
    assert found[0]["difference"] == pytest.approx(-100 * 25 / 101)
    assert found[1]["difference"] == pytest.approx(-100 * 50 / 101)
    for entry in found:
        assert entry["low"] < entry["difference"] < entry["high"] <= 0 and entry["images"] == IMAGES
    lines = format_differences(found).splitlines()
    heads = ["setting", "minus", "column", "difference", "95 % interval", "images"]
    assert [cell.strip() for cell in lines[0].split("|")[1:-1]] == heads
    assert "-24.8" in lines[2] and f"{found[0]['low']:+.1f} to {found[0]['high']:+.1f}" in lines[2]


def test_only_what_was_measured_is_compared_and_a_lack_of_matches_is_told(tmp_path):
    folders = write(tmp_path, {"a": 6, "plain": 8})
    differences = Differences(make_plan([Difference(curve="ours", minus="plain")]))
    assert [entry["setting"] for entry in differences.compute_all(folders)] == ["a"]
    folders["b"] = str(tmp_path / "b")
    found = differences.compute_all(folders)[1]
    assert np.isnan(found["difference"]) and "matches_bbox.npz" in found["note"]
    assert f"- b: {found['note']}" in format_differences([found])
    os.makedirs(tmp_path / "b" / "inference")
    make_matches(4, images=9).save(str(tmp_path / "b" / "inference" / "matches_bbox.npz"))
    assert "not measured on the same images" in differences.compute_all(folders)[1]["note"]


def test_points_of_one_seed_are_compared_with_one_another(tmp_path):
    counts = {"a, seed 1": 6, "plain, seed 1": 8, "a, seed 2": 7, "plain, seed 2": 7}
    plan = make_plan([Difference(setting="a", minus="plain")], ("a", "plain"), seeds=(1, 2))
    found = Differences(plan).compute_all(write(tmp_path, counts))
    pairs = [(entry["setting"], entry["minus"]) for entry in found]
    assert pairs == [("a, seed 1", "plain, seed 1"), ("a, seed 2", "plain, seed 2")]
    assert found[1]["difference"] == found[1]["low"] == found[1]["high"] == 0


def test_a_report_tells_differences_and_intervals_of_goals(tmp_path):
    goal = Goal(setting="a", column="box AP", minus="plain", at_least=-30)
    plan = make_plan([Difference(setting="a", minus="plain")], ("a", "plain"), goals=[goal])
    report = Report(plan, str(tmp_path))
    for name, folder in write(tmp_path, {"a": 6, "plain": 8}).items():
        report.configs[name] = plan.build_config(plan.points[name], OUTPUT_DIR=folder)
    report.results = {"a": {"bbox": {"AP": 75.0}}, "plain": {"bbox": {"AP": 100.0}}}
    report.write()
    with open(tmp_path / "differences.csv", newline="") as file:
        (row,) = csv.DictReader(file)
    assert (row["setting"], row["minus"], row["column"], row["images"]) == ("a", "plain", "box AP", "8")
    interval = f"{float(row['low']):+.1f} to {float(row['high']):+.1f}"
    assert interval in (tmp_path / "differences.md").read_text()
    ((reached, words),) = report.check_goals()
    assert reached and words.endswith(f"-25 (at least -30), 95 % interval {interval}")

    # A later plan in the same folder, which does not ask for any.
    report.plan = make_plan([], ("a", "plain"))
    report.write()
    assert not list(tmp_path.glob("differences.*")) and (tmp_path / "results.csv").exists()


@pytest.mark.parametrize(
    ("wanted", "words"),
    [
        ({"minus": "plain"}, "either setting or curve"),
        ({"setting": "a", "curve": "ours", "minus": "plain"}, "either setting or curve"),
        ({"setting": "c", "minus": "plain"}, "unknown setting 'c'"),
        ({"curve": "c", "minus": "plain"}, "unknown curve 'c'"),
        ({"setting": "a"}, "needs the key setting (minus)"),
        ({"setting": "a", "minus": "plain", "columns": ("PSNR",)}, "unknown column 'PSNR'"),
    ],
)
def test_mistakes_in_a_plan_are_told(wanted, words):
    with pytest.raises(ValueError) as raised:
        check_plan(make_plan([Difference(**wanted)]))
    assert str(raised.value).startswith("differences[0]: ") and words in str(raised.value)


def test_copied_matches_replace_older_ones(tmp_path):
    folder = write(tmp_path, {"a": 6})["a"]
    source, target = os.path.join(folder, "inference", ""), str(tmp_path / "cache" / "key-1.")
    copy_matches(source, target)
    assert os.listdir(tmp_path / "cache") == ["key-1.matches_bbox.npz"]
    copy_matches(str(tmp_path / "none."), target)
    assert os.listdir(tmp_path / "cache") == []
