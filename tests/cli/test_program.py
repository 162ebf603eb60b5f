"""The command `featcomp`: what it imports, and how it tells mistakes."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
from detectron2.config import CfgNode, get_cfg
from detectron2.engine import default_argument_parser

from d2_featcomp import arguments, cli
from d2_featcomp.cli import COMMANDS, train
from d2_featcomp.cli.program import CommandParser, _load
from d2_featcomp.cli.server_options import add_server
from d2_featcomp.codecs import DecodeLimits
from d2_featcomp.serving import ServiceSettings

ROOT = Path(__file__).parents[2]
IMAGE = str(ROOT / "projects/MSFC/example.png")
TOOLS = sorted(path.name for path in (ROOT / "tools").glob("*.py"))

_HEAVY = """
import contextlib, io, runpy, sys

def ask(run):
    with contextlib.redirect_stdout(io.StringIO()) as told, contextlib.suppress(SystemExit):
        run()
    assert told.getvalue().startswith("usage: "), told.getvalue()

import d2_featcomp
from d2_featcomp.cli import COMMANDS, main
for command in ((), *((name,) for name in COMMANDS)):
    ask(lambda: main([*command, "--help"]))
for tool in sys.argv[1:]:
    sys.argv = [tool, "--help"]
    ask(lambda: runpy.run_path(tool, run_name="__main__"))
heavy = {"torch", "torchvision", "detectron2", "imagecodecs", "matplotlib", "numpy", "PIL", "fvcore"}
print(*heavy & set(sys.modules))
"""


def run_python(*arguments, **variables):
    environment = {**os.environ, "PYTHONPATH": str(ROOT), **variables}
    done = subprocess.run(
        [sys.executable, *arguments], cwd=ROOT, env=environment, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_help_imports_nothing_heavy():
    assert run_python("-c", _HEAVY, *(f"tools/{name}" for name in TOOLS)) == "\n"


def test_what_is_registered_when():
    """`import d2_featcomp` imports nothing; its networks and data sets are there with Detectron2."""
    script = """
import sys
import d2_featcomp
assert not {"torch", "detectron2"} & set(sys.modules)
from detectron2.modeling import BACKBONE_REGISTRY, META_ARCH_REGISTRY
assert "SplitNetwork" in META_ARCH_REGISTRY and "Darknet53" in BACKBONE_REGISTRY
from detectron2.data import DatasetCatalog
assert "scenes_val" in DatasetCatalog
assert d2_featcomp.codecs.FeatureBitstream
"""
    run_python("-c", script)


def test_the_command_as_a_module():
    told = run_python("-m", "d2_featcomp", "--version")
    assert told.startswith("d2_featcomp ")


@pytest.fixture
def fail(capsys):
    """Runs a command line that ends with exit status 2: its standard error."""

    def run(*command):
        with pytest.raises(SystemExit) as ended:
            cli.main(command)
        assert ended.value.code == 2
        return capsys.readouterr().err

    return run


@pytest.mark.parametrize(
    ("command", "words"),
    [
        (["sweeep"], "featcomp: error: unknown command 'sweeep': did you mean sweep?"),
        (
            ["--weights", "a.pth"],
            "--weights stands before the command: give featcomp COMMAND",
        ),
        (
            ["--config", "a", "eval", "SEED", "1"],
            "stands before the command: give featcomp eval --config",
        ),
        (
            ["edge", "--weight", "a.pth", "MODEL.DEVICE", "cpu"],
            "featcomp edge: error: unknown option --weight: did you mean --weights",
        ),
        (["make-scenes", "--nam", "a"], "featcomp make-scenes: error: unknown option --nam: did you"),
        (["edge", "--nothing=3"], "featcomp edge: error: unknown option --nothing ("),
        (["eval", "MODEL.WEIGHTS"], "featcomp eval: error: config override MODEL.WEIGHTS has no value"),
        (["reproduce", "a.yaml", "b", "--output", "c"], "unrecognized arguments: b"),
        (["eval", "--config", "msfc_R49"], "did you mean 'msfc_R50'"),
        (["reproduce", "msfc/quick", "--output", "c"], "did you mean 'MSFC/quickstart'?"),
        (
            ["reproduce", "quick/msfc_R18", "--output", "c"],
            "is the config of a network, not an experiment",
        ),
        (["eval", "--config", "msfc/quickstart"], "is an experiment, not the config of a network"),
        (["eval", "--config", "quick/msfc_R18", "OUTPUT_DIR", "o"], "no weights: add MODEL.WEIGHTS"),
        (
            ["demo", "--config", "quick/msfc_R18", "--input", IMAGE, "--output", "o"],
            "no weights: add MODEL.",
        ),
        (
            ["demo", "--config", "msfc_R50", "--input", IMAGE, "--output", IMAGE],
            "is a file: give a folder",
        ),
        (["bdrate", "a.csv", "b.csv", "--rate", "x", "--quality", "y"], "no file 'a.csv'"),
        (["edge"], "featcomp edge: error: nowhere to put bitstreams"),
        (
            ["edge", "--input", "x", "--output", "y", "--target-kb=1", "--target-kbit-s=2", "--fps=1"],
            "give either --target-kbit-s or --target-kb",
        ),
        (["train"], "featcomp train: error: no network: give --config"),
        (
            ["edge", "--input", "x", "--output", "y"],
            "no weights: add --weights and edge.onnx or edge.pth",
        ),
        (["edge", "--weights", "none.pth", "--input", "x", "--output", "y"], "no file 'none.pth'"),
        (["edge", "--weights", ".", "--input", "x", "--output", "y"], "no file '.'"),
        (["edge", "--input", "x", "--connect", "a:1", "--token-file", "t"], "'t': no such file or dir"),
        (["serve", "--weights", "nowhere.pth"], "no checkpoint 'nowhere.pth'"),
        (["serve", "--weights", "edge.onnx"], "'edge.onnx' is for featcomp edge alone"),
        (["datasets", "--build", "cityscapes"], "'cityscapes' cannot be built by this command: City"),
    ],
)
def test_a_mistake_is_told_in_one_line(fail, tmp_path, monkeypatch, command, words):
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("D2_FEATCOMP_TRACEBACK", raising=False)
    told = fail(*command)
    assert words in told and told.count("\n") == 1


def test_without_a_command_it_tells_what_there_is(capsys):
    assert cli.main([]) == 2
    told = capsys.readouterr().out
    assert all(f"\n  {name} " in told for name in cli.COMMANDS)


@pytest.mark.parametrize(
    ("given", "words"), [([], "usage: featcomp COMMAND"), (["demo"], "usage: featcomp demo ")]
)
def test_help_is_a_command_too(capsys, given, words):
    with pytest.raises(SystemExit) as ended:
        cli.main(["help", *given])
    assert not ended.value.code and capsys.readouterr().out.startswith(words)


@pytest.mark.parametrize(
    "given",
    [
        ["--weights", "e.pth", "MODEL.DEVICE", "cpu", "--target-kb", "3", "--output", "out"],
        ["MODEL.DEVICE", "cpu", "--weights", "e.pth", "--output", "out", "--target-kb", "3"],
        ["--target-kb", "3", "--weights", "e.pth", "--output", "out", "MODEL.DEVICE", "cpu"],
    ],
)
def test_options_follow_overrides(monkeypatch, given):
    seen = []
    monkeypatch.setattr("d2_featcomp.serving.edge_program.run_edge", seen.append)
    assert cli.main(["edge", *given]) == 0
    (args,) = seen
    assert (args.weights, args.output) == ("e.pth", "out")
    assert args.opts == ["MODEL.DEVICE", "cpu", "MODEL.FEATCOMP.CODEC.TARGET_KB", "3.0"]


def test_eval_is_the_evaluation_of_train(monkeypatch):
    seen = []
    monkeypatch.setattr("d2_featcomp.engine.run_processes", lambda main, args: seen.append((main, args)))
    overrides = ["MODEL.WEIGHTS", "a.pth"]
    for command in (["eval"], ["train", "--eval-only"]):
        assert cli.main([*command, "--config", "quick/msfc_R18", *overrides, "--num-gpus", "2"]) == 0
    for main, args in seen:
        assert main is train.train_or_evaluate and args.eval_only and args.num_gpus == 2
        assert args.config_file == str(ROOT / "configs/quick/msfc_R18.yaml") and args.opts == overrides


def test_an_interrupted_training_tells_how_it_goes_on(monkeypatch, tmp_path, capsys):
    def interrupt(cfg, resume):
        raise KeyboardInterrupt

    monkeypatch.setattr("d2_featcomp.engine.train_stages", interrupt)
    with pytest.raises(SystemExit) as ended:
        cli.main(["train", "--config", "quick/msfc_R18", "OUTPUT_DIR", str(tmp_path)])
    assert ended.value.code == 130
    assert (
        "with --resume goes on at the last checkpoint, which is written each 100"
        in (capsys.readouterr().err.splitlines()[-1])
    )


def test_train_has_detectron2s_options():
    parser = CommandParser()
    train.add_arguments(parser)
    names, wanted = (
        {name for action in one._actions for name in action.option_strings}
        for one in (parser, default_argument_parser())
    )
    assert wanted <= names


def test_the_sections_are_those_of_detectron2():
    cfg = get_cfg()
    sections = {key for key, value in cfg.items() if isinstance(value, CfgNode)}
    assert sections == set(arguments.SECTIONS)
    assert set(cfg) - sections <= set(arguments.VALUES)  # FLOAT32_PRECISION came late


@pytest.mark.parametrize("name", COMMANDS)
def test_help_tells_what_options_are_and_their_defaults(name):
    """Each begins with what it is, not with whose; a value that is taken without the option is told."""
    parser = CommandParser(add_help=False)
    _load(name).add_arguments(parser)
    for action in parser._actions:
        assert action.help and not action.help.startswith("of "), action
        without = action.default in (None, "", [], ()) or action.default is False
        assert without or not action.option_strings or "(default: " in action.help, action


def test_the_limits_that_help_tells_are_those_of_a_server():
    parser = CommandParser()
    add_server(parser)
    (limits,) = (group for group in parser._action_groups if group.title == "limits of the server")
    told = {one.dest: one.help.rpartition("(default: ")[2].rstrip(")") for one in limits._group_actions}
    told = {name: "None" if text == "no limit" else text for name, text in told.items()}
    found = {name: eval(text.replace("^", "**")) for name, text in told.items()}
    settings = ServiceSettings()
    assert found.pop("queue") == settings.queue_size
    assert found.pop("max_pixels") == DecodeLimits.max_image_pixels
    assert found == {name: getattr(settings, name) for name in found} and len(found) == 8
