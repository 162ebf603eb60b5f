"""What a plan makes of the points that are given, and of what they are compared by."""

import contextlib
import os

import pytest
import torch
import yaml

from d2_featcomp.experiments import plan_sweep, read_experiment
from d2_featcomp.experiments.curves import make_point

CONFIG = "configs/quick/msfc_R18.yaml"


def test_a_title_tells_that_some_images_alone_are_measured(tmp_path):
    weights = str(tmp_path / "a.pth")
    torch.save({}, weights)
    given = ["MODEL.WEIGHTS", weights]
    sweep = plan_sweep(
        {"curves": [{}], "anchors": [], "uncompressed": False, "images": 3}, CONFIG, given
    )
    assert sweep.title.endswith("scenes_val, first 3 images")


def test_overrides_of_a_point_are_kept_beside_its_codec():
    quality, effort = ("MODEL.FEATCOMP.CODEC." + key for key in ("QUALITY", "EFFORT"))
    point = make_point({"codec": "jpeg", "overrides": {quality: 30}}, "msfc")
    assert (point.overrides[quality], point.overrides[effort]) == (30, None)
    point = make_point({"codec": "jpeg", "quality": 40, "overrides": {quality: 30}}, "msfc")
    assert point.overrides[quality] == 40


def test_images_are_not_compared_by_bits_of_features(tmp_path):
    base = os.path.abspath("projects/MSFC/quickstart.yaml")
    goal = {"setting": "MSFC, n = 2", "compression_ratio_against": "image, JPEG 4:2:0", "at_least": 2}
    path = tmp_path / "plan.yaml"
    for x in ("kB/image", "BPFE"):
        path.write_text(yaml.safe_dump({"_BASE_": base, "plot": {"x": x}, "goals": [goal]}))
        told = pytest.raises(ValueError, match="'image, JPEG 4:2:0' sends images, which have no BPFE")
        with told if x == "BPFE" else contextlib.nullcontext():
            read_experiment(str(path))


@pytest.mark.parametrize(
    ("more", "words"),
    [
        ({"seeds": [1, 2]}, "it trains nothing, so all seeds would measure the same: leave seeds out"),
        ({"goals": [{"setting": "a", "column": "box AP", "at_least": 1}]}, "it has goals, which"),
    ],
)
def test_a_sweep_has_no_seeds_or_goals(tmp_path, more, words):
    weights = str(tmp_path / "a.pth")
    torch.save({}, weights)
    description = {"curves": [{}], "anchors": [], "uncompressed": False, **more}
    with pytest.raises(ValueError, match=words):
        plan_sweep(description, CONFIG, ["MODEL.WEIGHTS", weights])


def test_seeds_need_a_training_that_is_done(tmp_path):
    path = tmp_path / "plan.yaml"
    plan = {
        "config_file": os.path.abspath(CONFIG),
        "trainings": {"given": {"checkpoint": "a.pth"}},
        "levels": [{"name": "a", "training": "given"}],
        "seeds": [1],
    }
    path.write_text(yaml.safe_dump(plan))
    with pytest.raises(ValueError, match=r"plan\.yaml: it trains nothing, so all seeds"):
        read_experiment(str(path))


@pytest.mark.parametrize(
    ("curve", "words"),
    [
        ({"codec": "jpeg420", "bits": 8}, "'image' sends images, which have no BPFE"),
        (
            {"codec": "png", "bits": [4], "overrides": {"MODEL.FEATCOMP.SPLIT_POINT": "res3"}},
            r"several split points, 'MSFC' \(backbone\), 'image' \(res3\), have other elements",
        ),
    ],
)
def test_bd_rates_by_elements_need_curves_of_one_split_point(tmp_path, curve, words):
    split = "IntermediateLayerSplit" if "overrides" in curve else "ImageSplit"
    overrides = {**curve.get("overrides", {}), "MODEL.FEATCOMP.SPLIT": split}
    path = tmp_path / "plan.yaml"
    data = {
        "config_file": os.path.abspath("configs/quick/msfc_R18.yaml"),
        "trainings": {"msfc": {}},
        "curves": [
            {"name": "MSFC", "training": "msfc", "codec": "png", "bits": [2, 4]},
            {**curve, "name": "image", "training": "msfc", "overrides": overrides},
        ],
        "bd_rates": [{"anchor": "image", "test": "MSFC", "columns": ["box AP"]}],
    }
    path.write_text(yaml.safe_dump(data))
    with pytest.raises(ValueError, match=words):
        read_experiment(str(path))
    path.write_text(yaml.safe_dump({**data, "plot": {"x": "kB/image", "y": ["box AP"]}}))
    assert read_experiment(str(path)).bd_rates


def make_trained(**changes):
    """A plan of networks of quick/msfc_R18 with a codec that is trained."""
    overrides = {"MODEL.FEATCOMP.CODEC.NAME": "variable_rate", "MODEL.FEATCOMP.CODEC.BITS": 4}
    return {
        "config_file": os.path.abspath(CONFIG),
        "trainings": {
            "detector": {"overrides": {**overrides, "MODEL.FEATCOMP.TRAIN.STEPS": [1]}},
            "msfc": {
                "start": "detector",
                "overrides": {**overrides, "MODEL.FEATCOMP.TRAIN.STEPS": [3, 4], **changes},
            },
        },
    }


@pytest.mark.parametrize(
    ("curve", "words"),
    [
        ({}, ""),
        ({"bits": 4, "rate": [0, 1]}, ""),
        ({"codec": "png", "bits": [2, 6]}, ""),
        ({"bits": 6}, "'variable_rate' .*CODEC.BITS is 6 here and 4 in training 'msfc': make the two"),
        ({"codec": "learned"}, "CODEC.NAME is 'learned' here and 'variable_rate' in training 'msfc'"),
        ({"overrides": {"MODEL.FEATCOMP.SPLIT": "PyramidSplit"}}, "SPLIT is 'Pyramid' here and 'MSFC'"),
        ({"overrides": {"MODEL.FEATCOMP.CODEC.LEARNED.RATE_POINTS": 3}}, "RATE_POINTS is 3 here and 4"),
        ({"training": "detector"}, r"training 'detector' does not train .*STEPS is \(1,\)\)"),
    ],
)
def test_codecs_that_are_trained_need_their_training(tmp_path, curve, words):
    """Found before the trainings, not after them."""
    path = tmp_path / "plan.yaml"
    path.write_text(yaml.safe_dump({**make_trained(), "curves": [{"training": "msfc", **curve}]}))
    told = pytest.raises(ValueError, match=words) if words else contextlib.nullcontext()
    with told:
        read_experiment(str(path))


@pytest.mark.parametrize(
    "entries",
    [
        {"curves": [{"training": "msfc", "weights": "of_another.pth"}]},
        {"curves": [{"name": "a", "training": "msfc", "points": [{"weights": "of_another.pth"}]}]},
        {"levels": [{"name": "a", "training": "msfc", "weights": "of_another.pth"}]},
    ],
)
def test_a_point_has_one_kind_of_weights(tmp_path, entries):
    """Else several seeds would be those of one file."""
    torch.save({}, tmp_path / "of_another.pth")
    path = tmp_path / "plan.yaml"
    path.write_text(yaml.safe_dump({**make_trained(), **entries, "seeds": [1, 2]}))
    message = r"\[0\].*: give training 'msfc' or weights '.*of_another.pth', not both"
    with pytest.raises(ValueError, match=message):
        read_experiment(str(path))


@pytest.mark.parametrize("stage", [2, 3])
def test_unknown_losses_are_told_before_the_trainings(tmp_path, stage):
    path, key = tmp_path / "plan.yaml", f"MODEL.FEATCOMP.TRAIN.STEP{stage}.LOSS"
    path.write_text(
        yaml.safe_dump({**make_trained(**{key: "distil"}), "curves": [{"training": "msfc"}]})
    )
    message = f"training 'msfc': unknown training loss 'distil' \\({key}\\): choose one of task, distill"
    with pytest.raises(ValueError, match=message):
        read_experiment(str(path))


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("title: a\ntitle: b\n", "key 'title' is given twice: leave one out"),
        ("curves:\n- {name: a, training: b, training: c}\n", "key 'training' is given twice"),
        (
            "trainings: {a: {overrides: {MODEL: {FEATCOMP: {SPLIT: MSFC}}}}}\n",
            r"trainings.a: overrides take dotted keys: write MODEL\.FEATCOMP\.SPLIT: MSFC",
        ),
        ("trainings: {a: {overrides: [SEED, 1]}}\n", "overrides must be config keys with values, not"),
    ],
)
def test_keys_that_would_be_ignored_are_told(tmp_path, text, words):
    path = tmp_path / "plan.yaml"
    path.write_text(text)
    with pytest.raises(ValueError, match=words):
        read_experiment(str(path))


COMPARED = {"anchor": "image, JPEG 4:2:0", "test": "MSFC, learned", "columns": ["box AP"]}
OF_BD_RATE = {
    "bd_rate": "MSFC, learned",
    "anchor": "image, JPEG 4:2:0",
    "column": "box AP",
    "at_most": -5,
}
RATIO = {"setting": "MSFC, n = 2", "compression_ratio_against": "image, JPEG 4:2:0", "at_least": 2}
CURVE = {"name": "more", "training": "msfc", "codec": "jpeg"}
WITHOUT_EFFECT = {
    # Hours later there would be an empty plot, or a BD-rate of no points.
    "column of a curve's file": ({"plot": {"y": "bbox/AP75"}}, "unknown column 'bbox/AP75'"),
    "unit in lower case": ({"plot": {"x": "kb/image"}}, "unknown column 'kb/image'"),
    "misspelt unit": ({"columns": ["bits/pixels"]}, "unknown column 'bits/pixels'"),
    "no qualities": ({"curves": [{**CURVE, "quality": []}]}, "(more): quality is an empty list"),
    "no bits": ({"curves": [{**CURVE, "bits": []}]}, "(more): bits is an empty list"),
    "no codecs": ({"curves": [{**CURVE, "codec": []}]}, "(more): codec is an empty list"),
    "weights beside trainings": (
        {"anchors": ["image"], "anchor_training": "detector", "anchor_weights": "other.pth"},
        "anchor_weights has no effect beside trainings",
    ),
    "difference of a BD-rate": (
        {"bd_rates": [COMPARED], "goals": [{**OF_BD_RATE, "minus": "uncompressed"}]},
        "goals[0]: minus has no effect beside bd_rate",
    ),
    "setting of a BD-rate": (
        {"bd_rates": [COMPARED], "goals": [{**OF_BD_RATE, "setting": "MSFC, n = 2"}]},
        "goals[0]: setting has no effect beside bd_rate",
    ),
    "difference of a ratio": (
        {"goals": [{**RATIO, "minus": "MSFC, n = 2"}]},
        "goals[0]: minus has no effect beside compression_ratio_against",
    ),
    "no columns": ({"bd_rates": [{**COMPARED, "columns": []}]}, "columns must be a list of columns"),
    "one column": (
        {"bd_rates": [{**COMPARED, "columns": "box AP"}]},
        "bd_rates[0]: columns must be a list of columns, not 'box AP'",
    ),
    "columns not said": (
        {"bd_rates": [{"anchor": "image, JPEG 4:2:0", "test": "MSFC, learned"}]},
        "bd_rates[0]: it needs the key columns",
    ),
    "number as column": ({"plot": {"y": 5}}, "plot: y must be a column or a list of columns, not 5"),
    "list as column": ({"plot": {"x": ["BPFE"]}}, "a column must be text, not ['BPFE']"),
    "number as name": ({"curves": [{**CURVE, "name": 4}]}, "name must be text, not 4: put it in quotes"),
    "number as points": ({"curves": [{**CURVE, "points": 5}]}, "points must be a list of points, not 5"),
}


@pytest.mark.parametrize("case", WITHOUT_EFFECT)
def test_what_would_have_no_effect_is_refused(tmp_path, case):
    more, words = WITHOUT_EFFECT[case]
    base = {"_BASE_": os.path.abspath("projects/MSFC/quickstart.yaml"), "plot": {"x": "kB/image"}}
    path = tmp_path / "plan.yaml"
    path.write_text(yaml.safe_dump({**base, "goals": [], "bd_rates": [], **more}))
    with pytest.raises(ValueError) as raised:
        read_experiment(str(path))
    assert words in str(raised.value)


def test_columns_of_evaluators_of_ones_own_are_taken(tmp_path):
    base = os.path.abspath("projects/MSFC/quickstart.yaml")
    path = tmp_path / "plan.yaml"
    path.write_text(yaml.safe_dump({"_BASE_": base, "plot": {"x": "kB/image", "y": "own/score"}}))
    assert read_experiment(str(path)).ys == ("own/score",)
