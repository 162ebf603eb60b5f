"""Configs and plans by name."""

from pathlib import Path

import pytest
import yaml
from detectron2.modeling import META_ARCH_REGISTRY

from d2_featcomp import model_zoo
from d2_featcomp.engine import setup_config

ROOT = Path(__file__).parents[1]


def test_names_are_those_of_the_files():
    assert len(model_zoo.list_configs()) == len(list((ROOT / "configs").rglob("*.yaml")))
    assert {"msfc_R50", "quick/msfc_R18"} <= set(model_zoo.list_configs())
    assert "MSFC/quickstart" in model_zoo.list_plans()
    assert not [name for name in model_zoo.list_plans() if "ray_serve" in name]


@pytest.mark.parametrize("name", model_zoo.list_plans())
def test_plans_take_configs_that_a_wheel_holds(name):
    path = Path(model_zoo.find_plan_file(name))
    plan = yaml.safe_load(path.read_text(encoding="utf-8"))
    for part in (plan, *plan.get("trainings", {}).values()):
        if "config_file" in part:
            assert (ROOT / "configs") in (path.parent / part["config_file"]).resolve().parents


@pytest.mark.parametrize(
    "name", ["quick/msfc_R18", "quick/msfc_R18.yaml", "configs/quick/msfc_R18.yaml"]
)
def test_a_config_by_name(name, tmp_path, monkeypatch):
    path = str(ROOT / "configs/quick/msfc_R18.yaml")
    assert model_zoo.get_config_file(name) == path
    monkeypatch.chdir(tmp_path)  # not found as a file
    assert model_zoo.find_config_file(name) == path
    cfg = model_zoo.get_config(name)
    assert not cfg.is_frozen() and cfg.MODEL.META_ARCHITECTURE in META_ARCH_REGISTRY
    expected = setup_config(path)
    assert cfg.MODEL.FEATCOMP.SSFC == expected.MODEL.FEATCOMP.SSFC
    assert setup_config(name) == expected


def test_a_file_of_the_users_comes_first(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "msfc_R50").write_text("VERSION: 2\n")
    assert model_zoo.find_config_file("msfc_R50") == "msfc_R50"
    (tmp_path / "quickstart.yaml").write_text("title: mine\n")
    assert model_zoo.find_plan_file("quickstart.yaml") == "quickstart.yaml"


@pytest.mark.parametrize("name", ["msfc/quickstart", "MSFC/quickstart.yaml", "projects/MSFC/quickstart"])
def test_a_plan_by_name(name, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert model_zoo.find_plan_file(name) == str(ROOT / "projects/MSFC/quickstart.yaml")


@pytest.mark.parametrize(
    ("find", "name", "words"),
    [
        (model_zoo.get_config_file, "msfc_R18", "did you mean 'quick/msfc_R18' or "),
        (model_zoo.get_config_file, "msfc_R5O", "did you mean 'msfc_R50'"),
        (model_zoo.get_config_file, "xyzw", "there are Base-MSFC-FPN, Base-MTL-R34, baf_yolov3,"),
        (model_zoo.find_plan_file, "baf/quikstart", "did you mean 'BaF/quickstart'"),
    ],
)
def test_similar_names_are_told(find, name, words):
    with pytest.raises(FileNotFoundError, match=f"{name!r}") as raised:
        find(name)
    assert words in str(raised.value)
