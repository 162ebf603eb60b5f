"""Command lines: options and overrides in any order, modules of the user's own."""

import argparse
import sys

import pytest
import torch
from detectron2.config import CfgNode
from detectron2.engine import default_argument_parser

from d2_featcomp.config import CONFIG_REGISTRY
from d2_featcomp.engine import import_modules, parse_arguments, setup_config
from d2_featcomp.engine.command_line import choose_device

WEIGHTS = ["MODEL.WEIGHTS", "a.pth"]
NEGATIVE = ["TEST.EVAL_PERIOD", "-1"]
LISTED = ["DATASETS.TRAIN", "('a', 'b')", "SEED", "3"]
INPUT = ["--input", "x.png", "MODEL"]
LIMIT = ["--limit", "3"]


def parse(*arguments):
    parser = argparse.ArgumentParser(prog="tool")
    parser.add_argument("--input", nargs="+", default=[])
    parser.add_argument("--limit", type=int)
    parser.add_argument("opts", nargs=argparse.REMAINDER)
    return parse_arguments(parser, list(arguments))


@pytest.mark.parametrize(
    "arguments",
    [
        [*INPUT, *LIMIT, *WEIGHTS, *NEGATIVE, *LISTED],
        [*WEIGHTS, *NEGATIVE, *LISTED, *INPUT, *LIMIT],
        [*WEIGHTS, *LIMIT, *NEGATIVE, *LISTED, *INPUT],
        [*LIMIT, *INPUT, *WEIGHTS, *NEGATIVE, *LISTED],  # behind an option of any number of values
    ],
)
def test_overrides_stand_anywhere(arguments):
    args = parse(*arguments)
    assert args.input == ["x.png", "MODEL"] and args.limit == 3
    assert args.opts == [*WEIGHTS, *NEGATIVE, *LISTED]
    assert args.imports == []


def test_detectron2s_own_parser():
    args = parse_arguments(default_argument_parser(), ["SEED", "3", "--eval-only", *NEGATIVE])
    assert args.eval_only and args.opts == ["SEED", "3", *NEGATIVE]


def test_unknown_keys_are_left_to_the_config():
    args = parse("MODL.WEIGHTS", "a.pth", *LIMIT)
    assert args.opts == ["MODL.WEIGHTS", "a.pth"] and args.limit == 3
    with pytest.raises(ValueError, match="config overrides: Non-existent key: MODL"):
        setup_config("", args.opts)


@pytest.mark.parametrize(
    ("key", "value", "words"),
    [
        ("MODEL.FEATCOMP.CODEC.BIT", 4, r"did you mean MODEL.FEATCOMP.CODEC.BITS\?"),
        ("CODEC.BITS", 4, r"did you mean MODEL.FEATCOMP.CODEC.BITS\?"),
        ("SOLVER.NOTHING_LIKE_IT", 4, "; --import adds those of another project"),
        (
            "DATASETS.TRAIN",
            "mine",
            r"TRAIN takes a tuple, not text \(mine\): write \"\('mine',\)\"",
        ),
        ("DATASETS.TRAIN", "(a,b)", r"write \"\('a', 'b'\)\""),
        ("SOLVER.IMS_PER_BATCH", "many", r"BATCH takes a whole number, not text \(many\)"),
    ],
)
def test_a_wrong_override_is_told_with_the_right_one(key, value, words):
    overrides = ["DATASETS.TRAIN", "('coco_2017_train',)", key, value]
    with pytest.raises(ValueError, match=f"^config overrides: .*{words}"):
        setup_config("configs/msfc_R50.yaml", overrides)


def test_a_wrong_key_of_a_file_names_the_file(tmp_path):
    path = tmp_path / "mine.yaml"
    path.write_text("MODEL: {FEATCOMP: {CODEC: {BIT: 4}}}")
    with pytest.raises(ValueError, match=r"mine.yaml: .*did you mean MODEL.FEATCOMP.CODEC.BITS\?"):
        setup_config(str(path))


@pytest.mark.parametrize("arguments", [["MODEL.WEIGHTS"], ["MODEL.WEIGHTS", "--limit", "3"]])
def test_a_key_without_value(capsys, arguments):
    with pytest.raises(SystemExit) as ended:
        parse(*arguments)
    assert ended.value.code == 2
    assert "config override MODEL.WEIGHTS has no value" in capsys.readouterr().err


def test_modules_are_imported(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "featcomp_mine.py").write_text("import featcomp_other\nloaded = ['mine']\n")
    (tmp_path / "featcomp_other.py").write_text("value = 3\n")
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder" / "featcomp_file.py").write_text("value = 4\n")
    (tmp_path / "folder" / "featcomp_other.py").write_text("value = 5\n")
    (tmp_path / "featcomp_broken.py").write_text("1 / 0\n")
    monkeypatch.setattr(sys, "path", list(sys.path))
    try:
        args = parse("--import", "featcomp_mine", *WEIGHTS, "--import", "folder/featcomp_file.py")
        assert args.imports == ["featcomp_mine", "folder/featcomp_file.py"]
        assert sys.modules["featcomp_mine"].loaded == ["mine"]
        first = sys.modules["featcomp_file"]
        import_modules(["folder/featcomp_file.py"])  # once
        assert sys.modules["featcomp_file"] is first and first.value == 4
        for name, words in (
            ("featcomp_nowhere", "No module named"),
            ("nowhere.py", "No such file"),
            ("featcomp_broken.py", "ZeroDivisionError"),
            ("folder/featcomp_other.py", "choose another name"),
        ):
            with pytest.raises(SystemExit) as ended:
                parse("--import", name)
            assert ended.value.code == 2
            said = capsys.readouterr().err.splitlines()[-1]
            assert said.startswith(f"tool: error: --import {name}: ") and words in said
        assert "featcomp_broken" not in sys.modules
    finally:
        for name in ("mine", "other", "file"):
            sys.modules.pop(f"featcomp_{name}", None)


def test_a_package_is_imported_by_its_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for parent in ("project", "other"):
        package = tmp_path / parent / "featcomp_package"
        package.mkdir(parents=True)
        (package / "__init__.py").write_text("from .part import value\n")
        (package / "part.py").write_text(f"value = {parent!r}\n")
    monkeypatch.setattr(sys, "path", list(sys.path))
    try:
        for _ in range(2):
            import_modules(["project/featcomp_package"])
        assert sys.modules["featcomp_package"].value == "project"
        with pytest.raises(ImportError, match="another package 'featcomp_package' was found first"):
            import_modules(["other/featcomp_package/"])
        with pytest.raises(ImportError, match="--import project/featcomp_none: it cannot be imported"):
            import_modules(["project/featcomp_none"])
    finally:
        for name in ("featcomp_package", "featcomp_package.part"):
            sys.modules.pop(name, None)


def test_another_projects_keys_are_in_every_config(tmp_path, monkeypatch):
    def add_own_config(cfg):
        cfg.MODEL.OWN = CfgNode({"WIDTH": 3})

    path = tmp_path / "config.yaml"
    path.write_text("MODEL: {OWN: {WIDTH: 5}}\nVERSION: 2\n")
    with pytest.raises(ValueError, match=r"Non-existent config key: MODEL.OWN.*--import"):
        setup_config(str(path))
    monkeypatch.setattr(CONFIG_REGISTRY, "_obj_map", dict(CONFIG_REGISTRY._obj_map))
    CONFIG_REGISTRY.register(add_own_config)
    assert setup_config("").MODEL.OWN.WIDTH == 3
    assert setup_config(str(path)).MODEL.OWN.WIDTH == 5
    assert setup_config(str(path), ["MODEL.OWN.WIDTH", "7"]).MODEL.OWN.WIDTH == 7


@pytest.mark.parametrize("indirect", [False, True])
@pytest.mark.parametrize(
    "tag", ["!!python/object/apply:os.mkdir", "!!python/object/new:os.mkdir", "!!python/name:os.mkdir"]
)
def test_no_code_runs_when_a_config_is_read(tmp_path, tag, indirect):
    path = tmp_path / "evil.yaml"
    path.write_text(f"OUTPUT_DIR: {tag} ['{tmp_path}/made']\nVERSION: 2\n")
    if indirect:
        (tmp_path / "own.yaml").write_text("_BASE_: evil.yaml\nVERSION: 2\n")
        path = tmp_path / "own.yaml"
    with pytest.raises(ValueError, match="python/"):
        setup_config(str(path))
    assert not (tmp_path / "made").exists()


@pytest.mark.skipif(torch.cuda.is_available(), reason="of machines without a GPU")
@pytest.mark.parametrize("name", ["cuda", "cuda:0", "cuda:3", "cpu"])
def test_without_a_gpu_every_name_of_one_is_the_cpu(name):
    assert setup_config("", ["MODEL.DEVICE", name]).MODEL.DEVICE == "cpu"


def test_what_is_no_device(monkeypatch):
    with pytest.raises(ValueError, match=r"MODEL\.DEVICE is 'gpu': give cpu, cuda, or cuda:0"):
        setup_config("", ["MODEL.DEVICE", "gpu"])
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    assert choose_device("cuda") == "cuda" and choose_device("cuda:1") == "cuda:1"
    with pytest.raises(ValueError, match="there are 2 GPUs"):
        choose_device("cuda:2")
