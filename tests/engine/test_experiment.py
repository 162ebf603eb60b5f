import copy
import os
from pathlib import Path

import pytest
import yaml

from d2_featcomp.engine import read_experiment

ROOT = Path(__file__).parents[2]
CONFIG = str(ROOT / "configs" / "quick" / "msfc_R18.yaml")
VALID = {
    "title": "A title",
    "config_file": CONFIG,
    "trainings": {
        "detector": {"overrides": {"MODEL.FEATCOMP.TRAIN.STEPS": [1]}},
        "msfc": {"start": "detector", "overrides": {"MODEL.FEATCOMP.TRAIN.STEPS": [3]}},
        "as it is": None,
    },
    "settings": [
        {"name": "plain", "training": "detector", "overrides": {"MODEL.FEATCOMP.ENABLED": False}},
        {"name": "n = 2", "training": "msfc", "curve": "MSFC"},
        {
            "name": "n = 4",
            "training": "msfc",
            "curve": "MSFC",
            "overrides": {"MODEL.FEATCOMP.CODEC.BITS": 4},
        },
    ],
    "pictures": {"setting": "n = 2", "reference": "detector"},
    "goals": [
        {"setting": "n = 2", "column": "box AP", "at_least": 30},
        {"setting": "n = 2", "column": "box AP", "minus": "plain", "at_least": -2, "at_most": 2},
        {"setting": "n = 2", "times_fewer_bits_than": "MSFC", "at_least": 0.5},
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
    assert (experiment.x, experiment.y) == ("BPFE", "box AP")
    assert list(experiment.trainings) == ["detector", "msfc", "as it is"]
    msfc = experiment.trainings["msfc"]
    assert (msfc.name, msfc.config_file, msfc.start) == ("msfc", CONFIG, "detector")
    assert msfc.overrides == {"MODEL.FEATCOMP.TRAIN.STEPS": [3]}
    assert experiment.trainings["as it is"].overrides == {}
    assert list(experiment.settings) == ["plain", "n = 2", "n = 4"]
    assert experiment.settings["n = 4"].overrides == {"MODEL.FEATCOMP.CODEC.BITS": 4}
    assert [setting.curve for setting in experiment.settings.values()] == ["", "MSFC", "MSFC"]
    first, second, third = experiment.goals
    assert (first.column, first.at_least, first.at_most) == ("box AP", 30, float("inf"))
    assert (second.minus, second.at_least, second.at_most) == ("plain", -2, 2)
    assert (third.column, third.times_fewer_bits_than) == ("", "MSFC")
    assert experiment.pictures == {"setting": "n = 2", "reference": "detector"}


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
    assert (experiment.x, experiment.y) == ("kB/image", "box AP")


# What is changed in VALID -> what the error tells.
WRONG = {
    "unknown key": (changed("settigns", value=[]), "settigns"),
    "unknown key of a training": (changed("trainings", "msfc", "begin", value=""), "begin"),
    "unknown key of a setting": (changed("settings", 1, "colour", value="red"), "colour"),
    "unknown key of a goal": (changed("goals", 0, "more_than", value=1), "more_than"),
    "unknown key of the plot": (changed("plot", value={"z": "BPFE"}), "'z'"),
    "unknown key of the pictures": (changed("pictures", "amount", value=3), "amount"),
    "unknown training": (changed("settings", 1, "training", value="mfsc"), "unknown training 'mfsc'"),
    "unknown start": (changed("trainings", "msfc", "start", value="x"), "unknown training 'x'"),
    "later start": (
        changed("trainings", "detector", "start", value="msfc"),
        "unknown training 'msfc'",
    ),
    "own start": (changed("trainings", "msfc", "start", value="msfc"), "unknown training 'msfc'"),
    "unknown setting": (changed("goals", 0, "setting", value="n = 3"), "unknown setting 'n = 3'"),
    "unknown minus": (changed("goals", 1, "minus", value="plane"), "unknown setting 'plane'"),
    "unknown curve": (
        changed("goals", 2, "times_fewer_bits_than", value="JPEG"),
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
    "setting without name": (changed("settings", 0, "name", remove=True), "name"),
    "setting without training": (changed("settings", 0, "training", remove=True), "training"),
    "same name twice": (changed("settings", 2, "name", value="n = 2"), "same name"),
    "no settings": (changed("settings", remove=True), "settings"),
    "no trainings": (changed("trainings", remove=True), "trainings"),
    "17 bits": (changed("settings", 2, "overrides", "MODEL.FEATCOMP.CODEC.BITS", value=17), "17 bits"),
    "unknown codec": (
        changed("settings", 2, "overrides", "MODEL.FEATCOMP.CODEC.NAME", value="jpg"),
        "unknown codec 'jpg'",
    ),
    "quality": (
        changed("settings", 2, "overrides", "MODEL.FEATCOMP.CODEC.QUALITY", value=26),
        "QUALITY 26 is out of range",
    ),
    "effort": (
        changed("settings", 2, "overrides", "MODEL.FEATCOMP.CODEC.EFFORT", value=0),
        "EFFORT 0 is out of range",
    ),
    "quantizer": (
        changed("settings", 2, "overrides", "MODEL.FEATCOMP.CODEC.QUANTIZER", value="median"),
        "unknown quantizer 'median'",
    ),
    "unknown split": (
        changed("settings", 2, "overrides", "MODEL.FEATCOMP.SPLIT", value="pyramid"),
        "unknown split 'pyramid': known are",
    ),
    "unknown config key": (
        changed("settings", 2, "overrides", "MODEL.FEATCOMP.CODEC.BIT", value=4),
        "MODEL.FEATCOMP.CODEC.BIT",
    ),
    "config of a training that is not measured": (
        changed("trainings", "as it is", value={"overrides": {"SOLVER.RATE": 1}}),
        "SOLVER.RATE",
    ),
    "value of the wrong type": (
        changed("trainings", "msfc", "overrides", "SOLVER.IMS_PER_BATCH", value="four"),
        "IMS_PER_BATCH",
    ),
    "two test sets": (
        changed("settings", 2, "overrides", "DATASETS.TEST", value=["scenes_val", "scenes_train"]),
        "DATASETS.TEST",
    ),
    "empty file": ("", "NoneType"),
    "a list": ("- a\n- b\n", "unknown keys ['a', 'b']"),
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
def test_every_experiment_of_the_projects_reads(path, monkeypatch):
    monkeypatch.chdir(ROOT)
    experiment = read_experiment(path)
    assert experiment.trainings and experiment.settings and experiment.title
    for training in experiment.trainings.values():
        assert os.path.isfile(training.config_file)
