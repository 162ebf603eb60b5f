import copy
import os
from pathlib import Path

import networks
import pytest
import yaml

from d2_featcomp.experiments import read_experiment

ROOT = Path(__file__).parents[2]
CONFIG = str(ROOT / "configs" / "quick" / "msfc_R18.yaml")
# Heads that are built at once.
TINY = {key: value for key, value in networks.TINY.items() if "ROI" in key}
VALID = {
    "title": "A title",
    "config_file": CONFIG,
    "trainings": {
        "detector": {"overrides": {**TINY, "MODEL.FEATCOMP.TRAIN.STEPS": [1]}},
        "msfc": {"start": "detector", "overrides": {**TINY, "MODEL.FEATCOMP.TRAIN.STEPS": [3]}},
        "as it is": None,
    },
    "levels": [
        {"name": "plain", "training": "detector", "overrides": {"MODEL.FEATCOMP.ENABLED": False}}
    ],
    "curves": [
        {"name": "MSFC", "training": "msfc", "points": [{"name": "n = 2"}, {"name": "n = 4", "bits": 4}]}
    ],
    "pictures": {"setting": "n = 2", "reference": "detector"},
    "goals": [
        {"setting": "n = 2", "column": "box AP", "at_least": 30},
        {"setting": "n = 2", "column": "box AP", "minus": "plain", "at_least": -2, "at_most": 2},
        {"setting": "n = 2", "compression_ratio_against": "MSFC", "at_least": 0.5},
    ],
}


def write(folder, data):
    path = folder / "experiment.yaml"
    data = data if isinstance(data, (str, bytes)) else yaml.safe_dump(data, sort_keys=False)
    path.write_bytes(data if isinstance(data, bytes) else data.encode())
    return str(path)


def changed(*keys, value=None, remove=False):
    """VALID with one entry replaced or removed; `keys` leads to it."""
    data = copy.deepcopy(VALID)
    place = data
    for key in keys[:-1]:
        place = place[key]
    if remove:
        del place[keys[-1]]
    else:
        place[keys[-1]] = value
    return data


def test_a_valid_experiment_is_read(tmp_path):
    experiment = read_experiment(write(tmp_path, VALID))
    assert experiment.title == "A title"
    assert (experiment.x, experiment.ys) == ("BPFE", ("box AP",))
    assert list(experiment.trainings) == ["detector", "msfc", "as it is"]
    msfc = experiment.trainings["msfc"]
    assert (msfc.name, msfc.config_file, msfc.start) == ("msfc", CONFIG, "detector")
    assert msfc.overrides == {**TINY, "MODEL.FEATCOMP.TRAIN.STEPS": [3]}
    assert experiment.trainings["as it is"].overrides == {}
    assert list(experiment.points) == ["plain", "n = 2", "n = 4"]
    assert experiment.points["n = 4"].overrides == {"MODEL.FEATCOMP.CODEC.BITS": 4}
    assert [point.curve for point in experiment.points.values()] == ["", "MSFC", "MSFC"]
    assert [point.name for point in experiment.levels] == ["plain"]
    first, second, third = experiment.goals
    assert (first.column, first.at_least, first.at_most) == ("box AP", 30, float("inf"))
    assert (second.minus, second.at_least, second.at_most) == ("plain", -2, 2)
    assert (third.column, third.compression_ratio_against) == ("", "MSFC")
    assert experiment.pictures == {"setting": "n = 2", "reference": "detector"}


def write_based(folder, data, base=VALID):
    """A plan in a folder of its own, based on another one beside it."""
    (folder / "based").mkdir()
    (folder / "base.yaml").write_text(yaml.safe_dump(base, sort_keys=False))
    return write(folder / "based", {"_BASE_": "../base.yaml", **data})


def test_a_plan_that_is_based_on_another_says_only_what_differs(tmp_path):
    msfc = {"once": True, "overrides": {"MODEL.FEATCOMP.TRAIN.STEPS": [2]}}
    differs = {"title": "Another", "trainings": {"msfc": msfc, "as it is": {"once": True}}, "goals": []}
    experiment = read_experiment(write_based(tmp_path, differs))
    base = read_experiment(str(tmp_path / "base.yaml"))
    assert (experiment.title, experiment.goals) == ("Another", ())
    assert list(experiment.trainings) == list(base.trainings)
    assert experiment.trainings["detector"] == base.trainings["detector"]
    changed = experiment.trainings["msfc"]
    assert (changed.start, changed.once) == ("detector", True)
    assert changed.overrides == {**TINY, "MODEL.FEATCOMP.TRAIN.STEPS": [2]}
    assert experiment.trainings["as it is"].once and not base.trainings["as it is"].once
    assert experiment.points == base.points and experiment.pictures == base.pictures


def test_paths_of_a_base_are_relative_to_it(tmp_path):
    (tmp_path / "networks").mkdir()
    (tmp_path / "networks" / "small.yaml").write_text(f"_BASE_: {CONFIG}\n")
    base = {**VALID, "config_file": "networks/small.yaml"}
    experiment = read_experiment(write_based(tmp_path, {"title": "Another"}, base))
    assert experiment.trainings["msfc"].config_file == str(tmp_path / "networks" / "small.yaml")


def test_a_base_that_cannot_be_read_is_told(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"no plan .*missing\.yaml', on which .*yaml is based"):
        read_experiment(write(tmp_path, {"_BASE_": "missing.yaml"}))
    with pytest.raises(ValueError, match=r"experiment\.yaml is based on itself"):
        read_experiment(write(tmp_path, {"_BASE_": "experiment.yaml"}))
    with pytest.raises(ValueError, match="_BASE_ must be text, not 3"):
        read_experiment(write(tmp_path, {"_BASE_": 3}))
    with pytest.raises(ValueError, match=r"base.yaml: .*'curvs'"):
        read_experiment(write_based(tmp_path, {}, {"curvs": []}))


def test_a_goal_with_a_key_of_earlier_releases_is_read(tmp_path, caplog):
    goal = {"setting": "n = 2", "times_fewer_bits_than": "MSFC", "at_least": 0.5}
    experiment = read_experiment(write(tmp_path, changed("goals", 2, value=goal)))
    assert experiment.goals == read_experiment(write(tmp_path, VALID)).goals
    (told,) = caplog.messages
    assert told == "goals[2]: the key times_fewer_bits_than is now called compression_ratio_against"


def test_config_files_are_relative_to_the_experiment(tmp_path):
    (tmp_path / "configs").mkdir()
    (tmp_path / "configs" / "own.yaml").write_text(f"_BASE_: {CONFIG}\n")
    (tmp_path / "configs" / "other.yaml").write_text(f"_BASE_: {CONFIG}\n")
    (tmp_path / "experiments").mkdir()
    data = changed("config_file", value="../configs/own.yaml")
    data["trainings"]["msfc"]["config_file"] = "../configs/other.yaml"
    experiment = read_experiment(write(tmp_path / "experiments", data))
    assert experiment.trainings["detector"].config_file == str(tmp_path / "configs" / "own.yaml")
    assert experiment.trainings["msfc"].config_file == str(tmp_path / "configs" / "other.yaml")


def test_plot_columns_can_be_chosen(tmp_path):
    experiment = read_experiment(write(tmp_path, {**VALID, "plot": {"x": "kB/image"}}))
    assert (experiment.x, experiment.ys) == ("kB/image", ("box AP",))


# What is changed in VALID -> what the error tells.
WRONG = {
    "unknown key": (changed("settigns", value=[]), "settigns"),
    "unknown key of a training": (changed("trainings", "msfc", "begin", value=""), "begin"),
    "unknown key of a setting": (
        changed("curves", 0, "points", 1, "colour", value="red"),
        "curves[0] (MSFC): points[1]: unknown key 'colour'",
    ),
    "unknown key of a goal": (changed("goals", 0, "more_than", value=1), "more_than"),
    "unknown key of the plot": (changed("plot", value={"z": "BPFE"}), "'z'"),
    "unknown key of the pictures": (changed("pictures", "amount", value=3), "amount"),
    "unknown training": (
        changed("curves", 0, "training", value="mfsc"),
        "curves[0] (MSFC): unknown training 'mfsc'",
    ),
    "unknown start": (changed("trainings", "msfc", "start", value="x"), "unknown training 'x'"),
    "later start": (
        changed("trainings", "detector", "start", value="msfc"),
        "unknown training 'msfc'",
    ),
    "own start": (changed("trainings", "msfc", "start", value="msfc"), "unknown training 'msfc'"),
    "unknown setting": (changed("goals", 0, "setting", value="n = 3"), "unknown setting 'n = 3'"),
    "unknown minus": (changed("goals", 1, "minus", value="plane"), "unknown setting 'plane'"),
    "unknown curve": (
        changed("goals", 2, "compression_ratio_against", value="JPEG"),
        "unknown curve 'JPEG': known are MSFC",
    ),
    "unknown column": (changed("goals", 0, "column", value="AP"), "unknown column 'AP'"),
    "unknown axis": (changed("plot", value={"y": "accuracy"}), "unknown column 'accuracy'"),
    "unknown picture": (changed("pictures", "setting", value="x"), "unknown setting 'x'"),
    "unknown reference": (changed("pictures", "reference", value="x"), "unknown training 'x'"),
    "goal without column": (changed("goals", 0, "column", remove=True), "column"),
    "goal of two kinds": (changed("goals", 2, "column", value="box AP"), "column"),
    "goal without bound": (changed("goals", 0, "at_least", remove=True), "at_least"),
    "goal with a bound in words": (changed("goals", 0, "at_least", value="1e-3"), "must be numbers"),
    "level without name": (changed("levels", 0, "name", remove=True), "levels[0] needs a name"),
    "level without training": (
        changed("levels", 0, "training", remove=True),
        "setting 'plain': it needs the key training",
    ),
    "same name twice": (changed("levels", 0, "name", value="n = 2"), "same name, 'n = 2'"),
    "no curves": (changed("curves", remove=True), "unknown setting 'n = 2'"),
    "an empty list of curves": (changed("curves", value=[]), "unknown setting 'n = 2'"),
    "curves that are no list": (changed("curves", value={"name": "a"}), "curves must be a list"),
    "a curve that has no keys": (changed("curves", 0, value="MSFC"), "curves[0]: it must have keys"),
    "points without a curve's name": (
        changed("curves", 0, "name", remove=True),
        "curves[0]: a curve with points needs a name",
    ),
    "images": (changed("images", value=-1), "images must be a whole number"),
    "an anchor of no training": (
        changed("anchors", value=["image"]),
        "anchors: it needs the key training",
    ),
    "no trainings": (
        changed("trainings", remove=True),
        "it needs trainings, or config_file and weights",
    ),
    "17 bits": (
        changed("curves", 0, "points", 1, "bits", value=17),
        "setting 'n = 4': codec 'jpegxl' cannot carry 17 bits",
    ),
    "unknown codec": (
        changed("curves", 0, "points", 1, "codec", value="jpg"),
        "unknown codec 'jpg'",
    ),
    "quality": (
        changed("curves", 0, "points", 1, "quality", value=26),
        "QUALITY 26 is out of range",
    ),
    "effort": (
        changed("curves", 0, "points", 1, "effort", value=0),
        "EFFORT 0 is out of range",
    ),
    "quantizer": (
        changed(
            "curves", 0, "points", 1, "overrides", value={"MODEL.FEATCOMP.CODEC.QUANTIZER": "median"}
        ),
        "unknown quantizer 'median'",
    ),
    "unknown split": (
        changed("curves", 0, "points", 1, "overrides", value={"MODEL.FEATCOMP.SPLIT": "pyramid"}),
        "unknown split 'pyramid': known are",
    ),
    "unknown config key": (
        changed("curves", 0, "points", 1, "overrides", value={"MODEL.FEATCOMP.CODEC.BIT": 4}),
        "MODEL.FEATCOMP.CODEC.BIT",
    ),
    "config of a training that is not measured": (
        changed("trainings", "as it is", value={"overrides": {"SOLVER.RATE": 1}}),
        "SOLVER.RATE",
    ),
    "setting that training does not heed": (
        changed("trainings", "as it is", value={"overrides": {"SOLVER.MAX_ITER": 9}}),
        "training in stages does not use SOLVER.MAX_ITER",
    ),
    "value of the wrong type": (
        changed("trainings", "msfc", "overrides", "SOLVER.IMS_PER_BATCH", value="four"),
        "IMS_PER_BATCH",
    ),
    "unknown training set": (
        changed("trainings", "msfc", "overrides", "DATASETS.TRAIN", value=["scenes_trian"]),
        "training 'msfc': unknown data sets ['scenes_trian'] in DATASETS: did you mean 'scenes_train'",
    ),
    "unknown test set": (
        changed("curves", 0, "points", 1, "overrides", value={"DATASETS.TEST": ["scenes_vall"]}),
        "setting 'n = 4': unknown data sets ['scenes_vall']",
    ),
    "unknown stage": (
        changed("trainings", "msfc", "overrides", "MODEL.FEATCOMP.TRAIN.STEPS", value=[9]),
        "training 'msfc': MODEL.FEATCOMP.TRAIN.STEPS is (9,)",
    ),
    "pictures that are not counted": (
        changed("pictures", value={"setting": "n = 2", "count": "four"}),
        "pictures: count must be a whole number from 1, not 'four'",
    ),
    "two test sets": (
        changed(
            "curves",
            0,
            "points",
            1,
            "overrides",
            value={"DATASETS.TEST": ["scenes_val", "scenes_train"]},
        ),
        "DATASETS.TEST",
    ),
    "empty file": ("", "it needs trainings, or config_file and weights"),
    "a list": ("- a\n- b\n", "a plan must have keys"),
    "no YAML": ("a: [1, 2\nb: 3", "line 2"),
    "no text": ("a: \x07", "special characters"),
    "no Unicode": (b"title: \xff", "invalid start byte"),
}


@pytest.mark.parametrize("case", WRONG)
def test_mistakes_are_found_at_once(tmp_path, case):
    data, expected = WRONG[case]
    path = write(tmp_path, data)
    with pytest.raises(ValueError) as raised:
        read_experiment(path)
    message = str(raised.value)
    assert message.startswith(f"{path}: ")
    assert expected in message.removeprefix(f"{path}: ")


def test_files_that_are_not_there(tmp_path):
    missing = str(tmp_path / "missing.yaml")
    with pytest.raises(FileNotFoundError) as raised:
        read_experiment(missing)
    assert missing in str(raised.value)
    data = changed("trainings", "msfc", "config_file", value="missing.yaml")
    with pytest.raises(FileNotFoundError) as raised:
        read_experiment(write(tmp_path, data))
    assert missing in str(raised.value)


def test_a_config_file_that_is_no_yaml_is_named(tmp_path):
    (tmp_path / "config.yaml").write_text("MODEL: [1,\nSEED: 1")
    with pytest.raises(ValueError, match=r"config\.yaml"):
        read_experiment(write(tmp_path, changed("config_file", value="config.yaml")))


@pytest.mark.parametrize(
    "path", sorted(str(path.relative_to(ROOT)) for path in ROOT.glob("projects/*/*.yaml"))
)
def test_every_experiment_of_the_projects_reads(path, monkeypatch, nanodet):
    monkeypatch.chdir(ROOT)
    experiment = read_experiment(path)
    assert experiment.trainings and experiment.points and experiment.title
    for training in experiment.trainings.values():
        assert os.path.isfile(training.config_file)


def test_the_keys_of_earlier_files_are_read_with_one_line_that_names_the_new(tmp_path, caplog):
    old = changed("curves", remove=True)
    del old["levels"]
    old["settings"] = [
        {"name": "plain", "training": "detector", "overrides": {"MODEL.FEATCOMP.ENABLED": False}},
        {"name": "n = 2", "training": "msfc", "curve": "MSFC"},
        {
            "name": "n = 4",
            "training": "msfc",
            "curve": "MSFC",
            "overrides": {"MODEL.FEATCOMP.CODEC.BITS": 4},
        },
    ]
    with caplog.at_level("WARNING", "d2_featcomp"):
        read = read_experiment(write(tmp_path, old))
    assert [record.message.count("settings is now curves") for record in caplog.records] == [1]
    assert read == read_experiment(write(tmp_path, VALID))
    old["settings"][1]["colour"] = "red"
    with pytest.raises(ValueError, match=r"settings\[1\]: unknown key 'colour'"):
        read_experiment(write(tmp_path, old))


def test_points_are_named_by_what_tells_them_apart(tmp_path):
    data = changed("curves", 0, "points", remove=True)
    data["curves"] = [
        {"training": "msfc"},
        {"training": "msfc", "name": "JPEG", "codec": "jpeg", "bits": [4, 8], "quality": [10, 90]},
        {"training": "msfc", "name": "two", "points": [{"codec": "png"}, {"codec": "jpeg", "bits": 8}]},
        {"training": "msfc", "name": "same", "points": [{"bits": 3}, {"bits": 3}]},
        {"training": "learned", "codec": "learned"},  # trained for one bit depth
        {"training": "variable_rate", "codec": "variable_rate"},  # and every rate
        {"training": "variable_rate", "name": "some", "codec": "variable_rate", "rate": [0, 0.5]},
    ]
    for codec in ("learned", "variable_rate"):
        data["trainings"][codec] = copy.deepcopy(data["trainings"]["msfc"])
        data["trainings"][codec]["overrides"]["MODEL.FEATCOMP.CODEC.NAME"] = codec
    for key in ("goals", "pictures"):
        del data[key]
    plan = read_experiment(write(tmp_path, data))
    assert [(curve.name, [point.name for point in curve.points]) for curve in plan.curves] == [
        ("MSFC, jpegxl", [f"MSFC, jpegxl, n = {n}" for n in (2, 3, 4, 6, 8)]),
        ("JPEG, n = 4", ["JPEG, n = 4, quality 10", "JPEG, n = 4, quality 90"]),
        ("JPEG, n = 8", ["JPEG, n = 8, quality 10", "JPEG, n = 8, quality 90"]),
        ("two", ["two, png", "two, jpeg, n = 8"]),
        ("same", ["same, no. 1", "same, no. 2"]),
        ("MSFC, learned", ["MSFC, learned"]),
        (
            "MSFC, variable_rate",
            [f"MSFC, variable_rate, rate {rate}" for rate in ("0", "0.25", "0.5", "0.75", "1")],
        ),
        ("some", ["some, rate 0", "some, rate 0.5"]),
    ]
    assert plan.points["MSFC, learned"].overrides["MODEL.FEATCOMP.CODEC.BITS"] == 2
    assert plan.build_config(plan.points["some, rate 0"]).MODEL.FEATCOMP.CODEC.RATE == 0
    cfg = plan.build_config(plan.points["JPEG, n = 4, quality 90"])
    codec = cfg.MODEL.FEATCOMP.CODEC
    assert (codec.NAME, codec.BITS, codec.QUALITY, codec.EFFORT) == ("jpeg", 4, 90, None)


def test_curves_of_the_image_split_send_no_features():
    plan = read_experiment("projects/MSFC/quickstart.yaml")
    images = [curve.name for curve in plan.curves if not curve.sends_features]
    codecs = ("HEVC 4:2:0", "JPEG 4:2:0", "JPEG XL", "AVIF")
    assert images == [*(f"image, {codec}" for codec in codecs), "answers"]


def test_anchors_run_the_training_that_they_name(tmp_path):
    data = {**VALID, "anchors": ["features:jpeg", "raw"], "anchor_training": "detector"}
    plan = read_experiment(write(tmp_path, data))
    assert [curve.name for curve in plan.curves if curve.anchor] == [
        "features, jpeg",
        "raw features, float32",
    ]
    assert {p.training for p in plan.points.values() if p.curve.startswith(("feat", "raw"))} == {
        "detector"
    }
    assert [point.name for point in plan.levels] == ["plain", "uncompressed"]
    assert plan.build_config(plan.points["raw features, float32"]).MODEL.FEATCOMP.SPLIT == "PyramidSplit"
